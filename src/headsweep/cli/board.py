"""Commands on a finished leaderboard: show, verify."""

from __future__ import annotations

from pathlib import Path

import click

from headsweep.cli import options
from headsweep.cli.command import Group
from headsweep.cli.paths import GivenPath

_existing = GivenPath(path_type=Path, exists=True, file_okay=False)
folder = click.argument("folder", metavar="DIR", type=_existing)
folders = click.argument("folders", metavar="DIR...", type=_existing, nargs=-1, required=True)


@click.group(cls=Group)
def leaderboard() -> None:
    """Show finished leaderboards, or verify that one reproduces."""


@leaderboard.command()
@folders
@click.option("--markdown", "form", flag_value="markdown", help="Print Markdown.")
@click.option("--csv", "form", flag_value="csv", help="Print CSV, figures in full.")
@click.option("--html", "form", flag_value="html", help="Print a self-contained page.")
@click.option(
    "--ensemble",
    is_flag=True,
    help="Also show the mean of the seeds of each best finalist, and an ensemble that is selected "
    "on valid among the heads of all DIRs, which must be on the same data.",
)
@click.option(
    "--also-labels",
    "labels",
    type=GivenPath(path_type=Path, dir_okay=False),
    metavar="FILE.csv",
    help="Show every row of DIR also under the labels in FILE.csv, how often these differ, and how "
    "ranks move. The file has a column of volume names and one for each label.",
)
def show(folders: tuple[Path, ...], form: str | None, ensemble: bool, labels: Path | None) -> None:
    """Print the leaderboard of DIR, or the best finalists of several studies as one board.

    Rows on different data are never ranked together.

    Raises:
        click.UsageError: the options exclude each other.
    """
    from headsweep.cli.exits import printable
    from headsweep.cli.tables import (
        print_beside,
        print_boards,
        print_ensembles,
        print_label_noise,
    )
    from headsweep.leaderboard.leaderboard import Leaderboard

    if labels is not None:
        if len(folders) > 1 or form == "html" or ensemble:
            raise click.UsageError("--also-labels takes one DIR, and neither --html nor --ensemble")
        noise = Leaderboard(folders[0]).label_noise(labels)
        match form:
            case "markdown":
                click.echo(noise.to_markdown(), nl=False)
            case "csv":
                click.echo(noise.to_dataframe().to_csv(index=False), nl=False)
            case _:
                print_label_noise(noise)
        return
    merged = Leaderboard.merge(folders, ensemble=ensemble)
    match form:
        case "markdown":
            click.echo(merged.to_markdown(), nl=False)
        case "csv":
            click.echo(merged.to_csv(), nl=False)
        case "html":
            click.echo(merged.to_html(), nl=False)
        case _:
            print_boards(merged.boards)
            if len(folders) == 1:
                print_beside(merged.boards[0].rows[0], folders[0], merged)
            else:
                print_ensembles(merged)
            if merged.remark:
                click.echo(printable(merged.remark))


@leaderboard.command()
@folder
@options.overrides
@click.option(
    "--recompute", "only_recompute", is_flag=True, help="Do not train; use the predictions."
)
def verify(folder: Path, overrides: tuple[str, ...], only_recompute: bool) -> None:
    """Train again from the exported configs of DIR and compare the results with the stored files.

    If the data have moved, name their new folders with paths.data_root=DIR and
    paths.manifest_dir=DIR.

    Raises:
        click.UsageError: the options exclude each other.
    """
    from headsweep.leaderboard.leaderboard import Leaderboard

    if only_recompute and overrides:
        raise click.UsageError("--recompute reads no data, so it takes no overrides")
    moved = _moved(overrides)
    click.echo(Leaderboard(folder).verify(recompute=only_recompute, moved=moved))


def _moved(overrides: tuple[str, ...]) -> dict[str, str]:
    from headsweep.config.overrides import override_value
    from headsweep.errors import ConfigError
    from headsweep.leaderboard.verification.verify import MOVABLE

    moved = {}
    for text in overrides:
        key, value = override_value(text, where="command line")
        if key not in MOVABLE:
            raise ConfigError(
                f"command line: {text!r} is not allowed; only {', '.join(MOVABLE)} can be changed"
            )
        moved[key] = value
    return moved
