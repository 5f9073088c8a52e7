"""Files and folders as parameters of commands."""

from __future__ import annotations

import os
from typing import Any

import click


class GivenPath(click.Path):
    """A path that is not empty, since an empty one would silently be the current folder."""

    def convert(  # noqa: D102
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        if not str(value).strip():
            self.fail("must not be empty; '.' is the current folder", param, ctx)
        return super().convert(value, param, ctx)
