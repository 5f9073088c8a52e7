"""Commands and groups that take `--debug` anywhere on the command line."""

from __future__ import annotations

import inspect
import re
from typing import Any

import click

_SECTION = re.compile(r"^(?:Args|Returns|Raises|Yields):$", re.MULTILINE)
"""The first line of a docstring's section, which is for readers of the code."""


class Command(click.Command):
    """A command that takes `--debug`; its help is its docstring without the sections."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_debug())
        if self.help:
            self.help = _SECTION.split(inspect.cleandoc(self.help))[0].strip()


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
