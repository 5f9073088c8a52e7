"""The command `data prepare`: a manifest from CT-RATE's tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from headsweep.cli.command import Command
from headsweep.cli.paths import GivenPath

if TYPE_CHECKING:
    from headsweep.data.ct_rate.prepare import RowPolicy

ROW_POLICIES = ("all_recon", "first_recon", "scan_mean", "dedup_text")

table = GivenPath(path_type=Path, dir_okay=False)


def spelled(name: str) -> tuple[str, str]:
    """Return an option's name with dashes and, as in the seed benchmark's scripts, underscores."""
    return f"--{name}", f"--{name.replace('-', '_')}"


@click.command(cls=Command)
@click.option(*spelled("labels-csv"), type=table, required=True, help="Labels of the volumes.")
@click.option(*spelled("split-csv"), type=table, help="Volumes of the split; else all labelled.")
@click.option(*spelled("reports-csv"), type=table, help="Report text, kept in the manifest.")
@click.option(*spelled("metadata-csv"), type=table, help="Names all reconstructions.")
@click.option(*spelled("output-file"), type=table, required=True, help="Manifest to write.")
@click.option(*spelled("visual-prefix"), default="image/", show_default=True)
@click.option(*spelled("visual-suffix"), default=".npz", show_default=True)
@click.option(*spelled("visual-path-col"), default="visual_feature_path", show_default=True)
@click.option(*spelled("text-prefix"), help="Without it the manifest has no text features.")
@click.option(*spelled("text-suffix"), default=".npz", show_default=True)
@click.option(*spelled("text-path-col"), default="text_feature_path", show_default=True)
@click.option(
    *spelled("row-policy"),
    type=click.Choice(ROW_POLICIES),
    default="all_recon",
    show_default=True,
    help="Every reconstruction, the first or the mean of a scan, or one volume a report.",
)
@click.option(
    *spelled("data-root"),
    type=GivenPath(path_type=Path, file_okay=False),
    help="Folder of the features, where scan_mean reads and writes.",
)
def prepare(
    labels_csv: Path,
    split_csv: Path | None,
    reports_csv: Path | None,
    metadata_csv: Path | None,
    output_file: Path,
    visual_prefix: str,
    visual_suffix: str,
    visual_path_col: str,
    text_prefix: str | None,
    text_suffix: str,
    text_path_col: str,
    row_policy: RowPolicy,
    data_root: Path | None,
) -> None:
    """Build a manifest from CT-RATE's tables; list every row lost.

    Raises:
        click.UsageError: the options exclude each other.
    """
    from headsweep.data.ct_rate.prepare import (
        PathPattern,
        Tables,
        prepare_manifest,
        write_prepared,
        write_scan_means,
    )

    if row_policy == "scan_mean" and data_root is None:
        raise click.UsageError("--row-policy scan_mean needs --data-root")
    features = [PathPattern(visual_path_col, visual_prefix, visual_suffix)]
    if text_prefix is not None:
        features.append(PathPattern(text_path_col, text_prefix, text_suffix))
    tables = Tables(labels_csv, split_csv, reports_csv, metadata_csv)
    prepared = prepare_manifest(tables, features, row_policy)
    if prepared.means and data_root is not None:
        write_scan_means(prepared, data_root)
    dropped = write_prepared(prepared, output_file)
    counts = ", ".join(f"{step} {count}" for step, count in prepared.counts().items())
    click.echo(f"{output_file}: {counts}; dropped rows are listed in {dropped}")
