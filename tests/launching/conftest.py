"""A Slurm and a PostgreSQL for the tests of launching."""

from tests.postgres import postgres
from tests.slurm import slurm

__all__ = ["postgres", "slurm"]
