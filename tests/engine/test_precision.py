"""`training.precision` rounds only the inputs of matrix products."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.engine import groups
from headsweep.engine.engine import Engine
from headsweep.engine.inputs import Variant
from headsweep.engine.numerics.precision import rounded_products, to_bf16, to_tf32
from headsweep.engine.programs.mlp_stacked import StackedMLPProgram
from headsweep.engine.train_configs import train_to_end
from headsweep.errors import ConfigError
from headsweep.settings import EngineSettings
from tests.helpers.splits import config, make_split

SPLITS = make_split("train", 150, seed=1), make_split("valid", 90, seed=2)
SETTINGS = EngineSettings(device="cpu", slots=8)
CPU = torch.device("cpu")
SIGNIFICANT_BITS = {"tf32": 11, "bf16": 8}


@given(
    st.floats(
        width=32, allow_nan=False, allow_infinity=False, max_value=2**100, min_value=-(2**100)
    )
)
def test_rounding_gives_the_nearest_number_of_so_many_bits(value: float) -> None:
    for precision, rounded in [("tf32", to_tf32), ("bf16", to_bf16)]:
        bits = SIGNIFICANT_BITS[precision]
        result = rounded(torch.tensor([value])).item()
        mantissa = np.frexp(result)[0] * 2**bits
        assert abs(value) < 2**-100 or mantissa == int(mantissa)
        assert abs(result - value) <= max(abs(value) * 2**-bits, 2**-120)


def test_rounding_of_infinity_and_nan_changes_nothing() -> None:
    odd = torch.tensor([torch.inf, -torch.inf, torch.nan])
    for rounded in (to_tf32, to_bf16):
        torch.testing.assert_close(rounded(odd), odd, equal_nan=True)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize(
    ("program", "one"),
    [
        ("linear", config("training.learning_rate=0.02")),
        ("mlp", config("head=mlp", "head.width=16", "head.norm=layer")),
        ("stacked_mlp", config("head=mlp", "head.width=16", "head.norm=layer")),
        ("autograd", config("head=mlp", "head.width=16", "head.norm=batch")),
        ("retrieval", config("head=retrieval", "head.dim=8", "head.neighbours=7")),
    ],
)
def test_program_with_rounded_products_learns_alike(
    precision: str, program: str, one: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tolerance is 16 roundings, because nearest neighbours of a retrieval head change abruptly."""
    if program == "stacked_mlp":
        monkeypatch.setitem(groups.PROGRAMS, "mlp", StackedMLPProgram)
    coarse = with_values(one, {"training.precision": precision}, where="test")
    exact, rounded = train_to_end([one, coarse], *SPLITS, SETTINGS)
    losses = [[report.loss for report in t.history] for t in (exact, rounded)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=16 * 2 ** -SIGNIFICANT_BITS[precision])


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_features_of_rounded_products_are_whitened_exactly(precision: str) -> None:
    """So they do not depend on which precision a study asks for first."""
    exact = config("features.normalization=whiten", "training.learning_rate=0.02")
    coarse = with_values(exact, {"training.precision": precision}, where="test")
    features = []
    for first in (exact, coarse):
        engine = Engine(*SPLITS, SETTINGS)
        for one in (first, coarse):
            engine.admit(one)
            engine.run_epoch()
        features += [
            engine.inputs.matrix(Variant.of(exact), valid=valid) for valid in (True, False)
        ]
    torch.testing.assert_close(features[:2], features[2:], rtol=0, atol=0)


def test_admit_of_other_precisions_makes_other_groups() -> None:
    engine = Engine(*SPLITS, SETTINGS)
    for precision in ("float32", "tf32", "bf16", "bf16"):
        engine.admit(config(f"training.precision={precision}"))
    assert sorted(len(group.slots) for group in engine._groups) == [1, 1, 2]


def test_rounded_products_outside_the_context_are_exact() -> None:
    x = torch.randn(4, 4)
    exact = x @ x
    with rounded_products("bf16", CPU):
        assert not (x @ x).equal(exact)
    assert (x @ x).equal(exact)
    with rounded_products("float32", CPU):
        assert (x @ x).equal(exact)


def test_config_with_lbfgs_and_tf32_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.precision must be float32 with .*lbfgs"):
        config("training.optimizer=lbfgs", "training.precision=tf32")
