"""Commands on a finished leaderboard: show, verify."""

from __future__ import annotations

from pathlib import Path

import click

from headsweep.cli.command import Group

_existing = click.Path(path_type=Path, exists=True, file_okay=False)
folder = click.argument("folder", metavar="DIR", type=_existing)
folders = click.argument("folders", metavar="DIR...", type=_existing, nargs=-1, required=True)


@click.group(cls=Group)
def leaderboard() -> None:
    """Show finished leaderboards, or verify that one reproduces."""


@leaderboard.command()
@folders
@click.option("--markdown", "form", flag_value="markdown", help="Print Markdown.")
@click.option("--csv", "form", flag_value="csv", help="Print CSV, figures in full.")
@click.option("--html", "form", flag_value="html", help="Print a page that needs nothing else.")
def show(folders: tuple[Path, ...], form: str | None) -> None:
    """Print the leaderboard of DIR, or the best finalists of several as one board.

    Rows on different data are never ranked together.
    """
    from headsweep.cli.tables import print_boards
    from headsweep.leaderboard import merged

    boards = merged.merge(folders)
    match form:
        case "markdown":
            click.echo(merged.to_markdown(boards), nl=False)
        case "csv":
            click.echo(merged.to_csv(boards), nl=False)
        case "html":
            click.echo(merged.to_html(boards), nl=False)
        case _:
            print_boards(boards)


@leaderboard.command()
@folder
@click.option(
    "--recompute", "only_recompute", is_flag=True, help="Do not train; use the predictions."
)
def verify(folder: Path, only_recompute: bool) -> None:
    """Train again from the exported configs of DIR and compare with what it holds."""
    from headsweep.leaderboard.recompute import recompute
    from headsweep.leaderboard.verify import verify as train_again

    click.echo(recompute(folder) if only_recompute else train_again(folder))
