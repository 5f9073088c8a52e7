"""Commands on a finished leaderboard: show, verify."""

from __future__ import annotations

from pathlib import Path

import click

from headsweep.cli.command import Group

folder = click.argument(
    "folder", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False)
)


@click.group(cls=Group)
def leaderboard() -> None:
    """Show a finished leaderboard, or verify that it reproduces."""


@leaderboard.command()
@folder
def show(folder: Path) -> None:
    """Print the leaderboard of DIR as a table."""
    from headsweep.cli.tables import print_leaderboard

    print_leaderboard(folder)


@leaderboard.command()
@folder
def verify(folder: Path) -> None:
    """Train again from the exported configs of DIR and compare with what it holds."""
    from headsweep.leaderboard.verify import verify as train_again

    click.echo(train_again(folder))
