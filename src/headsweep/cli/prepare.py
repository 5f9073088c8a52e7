"""The command `data prepare`: a manifest from CT-RATE's or RAD-ChestCT's tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headsweep.cli.command import Command
from headsweep.cli.paths import GivenPath

if TYPE_CHECKING:
    from headsweep.data.ct_rate.prepare import PathPattern, RowPolicy

ROW_POLICIES = ("all_recon", "first_recon", "scan_mean", "dedup_text")

table = GivenPath(path_type=Path, dir_okay=False)


def spelled(name: str) -> tuple[str, str]:
    """Return an option's name with dashes and, as in the seed benchmark's scripts, underscores."""
    return f"--{name}", f"--{name.replace('-', '_')}"


VOLUME = "{volume}"
"""Stands for the volume's name in the value of `--features`."""


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
    "--features",
    "inputs",
    metavar="NAME=FOLDER",
    multiple=True,
    help="Features of one encoder, in the column NAME_path; repeat it for several. FOLDER is below "
    "paths.data_root and holds VOLUME.npz; write other names as NAME=FOLDER/{volume}.pt.",
)
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
    help="Folder of the features: rows that lack a file are dropped, and scan_mean writes there.",
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
    inputs: tuple[str, ...],
    row_policy: RowPolicy,
    data_root: Path | None,
) -> None:
    """Build a manifest from CT-RATE's or RAD-ChestCT's tables; list every row lost.

    RAD-ChestCT's label tables (img…_Abnormality_and_Location_Labels.csv) are known by their
    columns: the manifest gets one label for each abnormality, and with --metadata-csv the column
    `patient`.

    Raises:
        click.UsageError: the options exclude each other.
    """
    from headsweep.data.ct_rate.prepare import (
        PathPattern,
        Tables,
        prepare_manifest,
        with_files,
        write_prepared,
        write_scan_means,
    )
    from headsweep.data.rad_chestct import is_rad_chestct, prepare_rad_chestct

    if row_policy == "scan_mean" and data_root is None:
        raise click.UsageError("--row-policy scan_mean needs --data-root")
    features = _patterns(inputs, visual_path_col, text_path_col)
    if not features:
        features = [PathPattern(visual_path_col, visual_prefix, visual_suffix)]
    if text_prefix is not None:
        features.append(PathPattern(text_path_col, text_prefix, text_suffix))
    tables = Tables(labels_csv, split_csv, reports_csv, metadata_csv)
    if is_rad_chestct(labels_csv):
        if row_policy != "all_recon":
            raise click.UsageError("--row-policy chooses among CT-RATE's reconstructions")
        if reports_csv is not None:
            raise click.UsageError("--reports-csv: RAD-ChestCT has no table of reports")
        prepared = prepare_rad_chestct(tables, features)
    else:
        prepared = prepare_manifest(tables, features, row_policy)
    if inputs and data_root is not None and not prepared.means:
        prepared = with_files(prepared, [pattern.column for pattern in features], data_root)
    if prepared.means and data_root is not None:
        write_scan_means(prepared, data_root)
    dropped = write_prepared(prepared, output_file)
    counts = ", ".join(f"{step} {count}" for step, count in prepared.counts().items())
    click.echo(f"{output_file}: {counts}; dropped rows are listed in {dropped}")


def _patterns(inputs: Sequence[str], visual: str, text: str) -> list[PathPattern]:
    """Read the values of `--features`.

    Args:
        inputs: `NAME=FOLDER` texts.
        visual: column of the input `visual`.
        text: column of the input `text`.

    Returns:
        The pattern of each column.

    Raises:
        click.UsageError: a text is no `NAME=FOLDER`, or its name cannot be that of an input.
    """
    from headsweep.config.inputs import BUILT_IN, check_name
    from headsweep.data.ct_rate.prepare import PathPattern

    columns = {"visual": visual, "text": text}
    patterns: dict[str, PathPattern] = {}
    for given in inputs:
        name, equals, folder = given.partition("=")
        if not equals or not folder:
            raise click.UsageError(f"--features must read NAME=FOLDER, found {given!r}")
        if name in patterns:
            raise click.UsageError(f"--features names {name!r} twice")
        try:
            if name not in BUILT_IN:
                check_name(name)
        except ValueError as error:
            raise click.UsageError(f"--features: {error}") from None
        column = columns.get(name, f"{name}_path")
        if VOLUME in folder:
            before, _, after = folder.partition(VOLUME)
            patterns[name] = PathPattern(column, before, after, whole=True)
        else:
            patterns[name] = PathPattern(column, folder)
    return list(patterns.values())
