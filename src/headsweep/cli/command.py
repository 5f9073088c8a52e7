"""Commands and groups that take `--debug` anywhere on the command line."""

from __future__ import annotations

from typing import Any

import click


class Command(click.Command):
    """A command that takes `--debug`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_debug())


class Group(click.Group):
    """A group that takes `--debug`, as its commands do, and lists them in the order of use."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_debug())

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands in the order in which they were added."""
        return list(self.commands)


def _debug() -> click.Option:
    # Its value is read by `root.main`, which has the command line but no parsed context.
    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an error."
    )
