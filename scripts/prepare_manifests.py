#!/usr/bin/env python3
"""Make one manifest from CT-RATE's tables."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from headsweep.data.ct_rate.prepare import (
    PathPattern,
    RowPolicy,
    Tables,
    prepare_manifest,
    write_prepared,
    write_scan_means,
)
from headsweep.errors import HeadsweepError


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--labels_csv", type=Path, required=True)
    parser.add_argument("--split_csv", type=Path, help="lists the volumes of the split")
    parser.add_argument("--reports_csv", type=Path)
    parser.add_argument("--metadata_csv", type=Path)
    parser.add_argument("--output_file", type=Path, required=True)
    parser.add_argument("--visual_prefix", default="image/")
    parser.add_argument("--visual_suffix", default=".npz")
    parser.add_argument("--visual_path_col", default="visual_feature_path")
    parser.add_argument("--text_prefix", help="without it the manifest has no text features")
    parser.add_argument("--text_suffix", default=".npz")
    parser.add_argument("--text_path_col", default="text_feature_path")
    parser.add_argument("--row_policy", choices=get_args(RowPolicy), default="all_recon")
    parser.add_argument("--data_root", type=Path, help="where scan_mean reads and writes features")
    options = parser.parse_args(arguments)
    if options.row_policy == "scan_mean" and options.data_root is None:
        parser.error("--row_policy scan_mean needs --data_root")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    tables = Tables(
        options.labels_csv, options.split_csv, options.reports_csv, options.metadata_csv
    )
    visual = PathPattern(options.visual_path_col, options.visual_prefix, options.visual_suffix)
    features = [visual]
    if options.text_prefix is not None:
        features.append(
            PathPattern(options.text_path_col, options.text_prefix, options.text_suffix)
        )
    try:
        prepared = prepare_manifest(tables, features, options.row_policy)
        if prepared.means:
            write_scan_means(prepared, options.data_root)
        dropped = write_prepared(prepared, options.output_file)
    except HeadsweepError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    counts = ", ".join(f"{step} {count}" for step, count in prepared.counts().items())
    print(f"{options.output_file}: {counts}; dropped rows are listed in {dropped}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
