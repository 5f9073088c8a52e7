"""The command line; every command imports what it needs when it runs, so help is fast."""

from headsweep.cli.root import main

__all__ = ["main"]
