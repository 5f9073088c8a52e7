"""Fixtures for the tests of the engine."""

import pytest
import torch

from headsweep.data.dataset import Split
from tests.helpers.splits import make_split


@pytest.fixture(scope="session")
def splits() -> tuple[Split, Split]:
    """150 training and 90 validation rows."""
    return make_split("train", 150, seed=1), make_split("valid", 90, seed=2)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Use one thread, because results are equal to the bit only at the same thread count."""
    torch.set_num_threads(1)
