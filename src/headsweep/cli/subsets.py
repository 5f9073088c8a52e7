"""The commands `data subsets` and `data folds`: manifests cut from a manifest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headsweep.cli import options
from headsweep.cli.command import Command
from headsweep.cli.paths import GivenPath

if TYPE_CHECKING:
    from headsweep.data.manifest import Manifest
    from headsweep.data.subsets import Subset

manifest = click.argument(
    "manifest_file",
    metavar="MANIFEST.csv",
    type=GivenPath(path_type=Path, dir_okay=False),
)
out = click.option(
    "--out",
    type=GivenPath(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of the new manifests.  [default: the manifest's]",
)


@click.command(cls=Command)
@manifest
@click.option("--budgets", required=True, metavar="N,N,…", callback=lambda c, p, v: _numbers(v))
@click.option("--seeds", default="0", show_default=True, metavar="S,S,…",
              callback=lambda c, p, v: _numbers(v))  # fmt: skip
@out
def subsets(
    manifest_file: Path, budgets: tuple[int, ...], seeds: tuple[int, ...], out: Path | None
) -> None:
    """Cut stratified training subsets, nested within a seed; patients stay whole."""
    from headsweep.data.subsets import write_budget_subsets

    folder = out or manifest_file.parent
    _show(write_budget_subsets(_read(manifest_file), folder, budgets, seeds), folder)


@click.command(cls=Command)
@manifest
@click.option("--folds", "n_folds", type=click.IntRange(2, 1000), default=5, show_default=True)
@click.option("--seed", type=options.seed, default=0, show_default=True)
@out
def folds(manifest_file: Path, n_folds: int, seed: int, out: Path | None) -> None:
    """Cut K folds by patient: a train and a valid manifest each."""
    from headsweep.data.subsets import write_folds

    folder = out or manifest_file.parent
    _show(write_folds(_read(manifest_file), folder, n_folds, seed), folder)


def _read(path: Path) -> Manifest:
    from headsweep.data.columns import columns_of_header
    from headsweep.data.manifest import read_manifest
    from headsweep.data.tables import read_header

    return read_manifest(path, columns_of_header(read_header(path)), None, "mask")


def _show(written: Sequence[Subset], folder: Path) -> None:
    for subset in written:
        click.echo(
            f"{folder / subset.file}: {subset.rows} rows of {subset.patients} patients "
            f"({subset.requested_rows} asked for)"
        )


def _numbers(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[0-9]{1,18}(, *[0-9]{1,18}){0,999}", text):
        raise click.BadParameter(f"must be whole numbers with commas between, found {text!r}")
    return tuple(map(int, text.split(",")))
