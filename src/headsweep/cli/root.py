"""The root command, and the conversion of exceptions into one line and an exit code."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import NoReturn, TextIO

import click

from headsweep.cli import board, data, exits, interrupts, launch, scaling, single, streams, study
from headsweep.cli.command import Group
from headsweep.errors import ERROR_PREFIX, WARNING_PREFIX, HeadsweepWarning


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, param, asked: _show_version(ctx) if asked else None,
    help="Show the version and the commit of the code.",
)
def root() -> None:
    """Search hyperparameters for heads on frozen features; end with a leaderboard."""


for command in (
    study.run,
    study.create,
    study.worker,
    launch.launch,
    study.finalize,
    study.status,
    study.export,
    study.enqueue,
    study.dashboard,
    study.studies,
    board.leaderboard,
    data.data,
    single.train,
    single.evaluate,
    single.align,
    scaling.scaling,
):
    root.add_command(command)


def _show_version(ctx: click.Context) -> NoReturn:
    from importlib.metadata import version

    from headsweep.package_info import code_commit

    click.echo(f"headsweep {version('headsweep')} ({code_commit() or 'unknown commit'})")
    ctx.exit()


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show one of headsweep's own warnings as one line, and any other one as Python does."""
    if issubclass(category, HeadsweepWarning):
        text = exits.printable(exits.redact(" ".join(str(message).split())))
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line).rstrip()
    prefix = WARNING_PREFIX if issubclass(category, HeadsweepWarning) else ""
    click.echo(f"{prefix}{text}", err=True)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 the work failed, 2 bad input, 130 interrupted."""
    args = list(sys.argv[1:] if args is None else args)
    streams.protect()
    warnings.showwarning = _show_warning
    try:
        with interrupts.raised():
            code = root.main(args, prog_name="headsweep", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(exits.BAD_INPUT)
    except click.Abort:
        click.echo("Interrupted: finished work is stored; the same command continues", err=True)
        sys.exit(exits.INTERRUPTED)
    except Exception as error:
        if "--debug" in args:
            click.echo(exits.printable(exits.redact(traceback.format_exc())), err=True, nl=False)
        click.echo(f"{ERROR_PREFIX}{exits.line(error)}", err=True)
        sys.exit(exits.exit_code(error))
    if _prints_its_result(args) and (fault := streams.output_fault()):
        click.echo(f"{ERROR_PREFIX}cannot write the output: {fault.strerror}", err=True)
        sys.exit(exits.FAILED)
    sys.exit(code or exits.DONE)


def _prints_its_result(args: Sequence[str]) -> bool:
    """Return whether a command only prints, so that lost output is a failure."""
    words = [arg for arg in args if not arg.startswith("-")]
    return not words or words[0] in ("status", "studies") or words[:2] == ["leaderboard", "show"]
