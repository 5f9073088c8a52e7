"""Commands on data: synth, prepare, pack, check."""

from __future__ import annotations

from pathlib import Path

import click

from headsweep.cli import options
from headsweep.cli.command import Group


@click.group(cls=Group)
def data() -> None:
    """Make, build, pack and inspect data."""


@data.command()
@options.overrides
def pack(overrides: tuple[str, ...]) -> None:
    """Pack the features of all manifests, so that later commands start at once."""


@data.command()
@options.overrides
def check(overrides: tuple[str, ...]) -> None:
    """Name every fault of the manifests and features by file and row."""
