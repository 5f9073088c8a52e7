"""Steps of linear heads on a CPU: few calls of PyTorch, and one order of sums in gradients."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.engine.engine import Engine
from headsweep.engine.programs import linear_stack
from headsweep.engine.programs.linear_products import needs_features_first
from headsweep.engine.train_configs import train_to_end
from headsweep.settings import EngineSettings
from tests.helpers.splits import config, make_split

SPLITS = (
    make_split("train", 1200, seed=1, width=128),
    make_split("valid", 90, seed=2, width=128),
)
SETTINGS = EngineSettings(device="cpu", slots=20)


def configs() -> list[Config]:
    base = config("training.max_epochs=2")
    return [
        with_values(
            base, {"training.batch_size": size, "features.normalization": kind}, where="test"
        )
        for size in (64, 256, 1024)
        for kind in ("zscore", "none")
        for _ in range(2)
    ]


@settings(max_examples=25, deadline=None)
@given(
    n_outputs=st.integers(16, 200),
    length=st.sampled_from([32, 64, 96, 256]),
    width=st.integers(1, 130),
)
def test_needs_features_first_of_false_means_equal_bits(
    n_outputs: int, length: int, width: int
) -> None:
    if needs_features_first(n_outputs, length, width, "float32"):
        return
    generator = torch.Generator().manual_seed(1)
    errors = torch.randn(n_outputs, length, generator=generator)
    x = torch.randn(length, width, generator=generator)
    assert torch.mm(errors, x).equal(torch.mm(errors, x.T.contiguous().T))


@pytest.mark.parametrize("first", [True, False])
def test_linear_heads_with_a_copy_stored_by_feature_have_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, *, first: bool
) -> None:
    """All slots read the copy, or only those of one batch size."""
    expected = train_to_end(configs(), *SPLITS, SETTINGS)

    def decide(n_outputs: int, length: int, width: int, precision: str) -> bool:
        return first or length == 256

    monkeypatch.setattr(linear_stack, "needs_features_first", decide)
    for one, other in zip(expected, train_to_end(configs(), *SPLITS, SETTINGS), strict=True):
        if first or one.config.training.batch_size == 256:
            assert [r.value for r in one.history] == [r.value for r in other.history]
            weights = other.predictor.state_dict()
            for name, tensor in one.predictor.state_dict().items():
                assert weights[name].equal(tensor), name


def test_linear_head_whose_neighbour_reads_another_input_than_the_last_keeps_every_bit() -> None:
    """The views of a step are made again when a slot is refilled with another input."""
    kinds = ["none", "l2", "whiten"]
    watched = with_values(configs()[0], {"training.max_epochs": len(kinds)}, where="test")
    (alone,) = train_to_end([watched], *SPLITS, SETTINGS)
    engine = Engine(*SPLITS, SETTINGS)
    slot = engine.admit(watched).slot
    values = []
    for kind in kinds:
        neighbour = with_values(watched, {"features.normalization": kind}, where="test")
        number = engine.admit(neighbour).slot
        values += [report.value for report in engine.run_epoch() if report.slot == slot]
        engine.evict(number)
    assert values == [report.value for report in alone.history]


class Calls(TorchDispatchMode):
    """Counts kernels and views by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.calls[str(func)] += 1
        return func(*args, **(kwargs or {}))


def test_step_of_one_slot_takes_two_products_and_seven_other_calls() -> None:
    """A view that is made in every step costs as much as a kernel of so small a head."""
    engine = Engine(*SPLITS, SETTINGS)
    engine.admit(with_values(configs()[0], {"training.batch_size": 64}, where="test"))
    engine.run_epoch()
    with torch.no_grad(), Calls() as few:
        engine.run_epoch()
    longer = make_split("train", 1200 + 1024, seed=1, width=128)
    engine = Engine(longer, SPLITS[1], SETTINGS)
    engine.admit(with_values(configs()[0], {"training.batch_size": 64}, where="test"))
    engine.run_epoch()
    with torch.no_grad(), Calls() as many:
        engine.run_epoch()
    added = many.calls - few.calls
    gathering = {name: n for name, n in added.items() if n < 16}
    steps = {name: n for name, n in added.items() if n >= 16}
    assert sum(steps.values()) == 16 * 9, steps
    assert sum(gathering.values()) < 20, gathering
