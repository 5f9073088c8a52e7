"""Blank labels weigh nothing in any program and loss: training equals plain PyTorch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.data.dataset import Split
from headsweep.engine import groups
from headsweep.engine.inputs import Inputs
from headsweep.engine.programs.mlp_stacked import StackedMLPProgram
from headsweep.engine.programs.retrieval import label_affinity, masked_affinity
from headsweep.engine.train_configs import train_to_end
from headsweep.heads.neighbours import neighbour_probabilities
from headsweep.metrics.masking import BLANK
from headsweep.settings import EngineSettings
from tests.helpers.head_configs import SMALL_RETRIEVAL
from tests.helpers.plain_training import macro_average_precision, train_plainly
from tests.helpers.splits import config, make_split, with_blanks

LOSSES = ("bce", "weighted_bce", "focal", "asymmetric")
SETTINGS = EngineSettings(device="cpu", slots=16)
SHORT = ("training.max_epochs=2", "training.batch_size=32")
SGD = ("training.max_epochs=1", "training.batch_size=1000", "training.optimizer=sgd")
"""One step without momentum: the change of the weights is the gradient."""


@pytest.fixture(scope="module")
def blank_splits() -> tuple[Split, Split]:
    """Half of the labels are blank, so minibatches differ in how many they have."""
    return (
        with_blanks(make_split("train", 70, seed=1), 0.5),
        with_blanks(make_split("valid", 50, seed=2), 0.3),
    )


def of_head(*overrides: str) -> list[Config]:
    """Two configs for each loss: several steps of AdamW, and one plain gradient step."""
    return [
        config(*overrides, f"training.loss={loss}", *rest)
        for loss in LOSSES
        for rest in (SHORT, (*SGD, "training.learning_rate=1", "training.weight_decay=0"))
    ]


def assert_trained_plainly(configs: list[Config], splits: tuple[Split, Split]) -> None:
    fused = train_to_end(configs, *splits, SETTINGS)
    for one, trained in zip(configs, fused, strict=True):
        values, head = train_plainly(one, *splits)
        assert [r.auprc_macro for r in trained.history] == pytest.approx(values, abs=2e-4), one
        if trained.best_epoch == len(values):
            plain = head.state_dict()
            for name, tensor in trained.predictor.head.named_parameters():
                torch.testing.assert_close(tensor.detach(), plain[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "overrides",
    [
        ("head=linear",),
        ("head=mlp", "head.width=12", "head.dropout=0.2"),
        ("head=mlp", "head.width=12", "head.norm=batch", "training.optimizer=sgd"),  # by autograd
    ],
    ids=["linear", "mlp", "autograd"],
)
def test_train_to_end_with_blank_labels_equals_plain_training(
    overrides: tuple[str, ...], blank_splits: tuple[Split, Split]
) -> None:
    assert_trained_plainly(of_head(*overrides), blank_splits)


def test_stacked_mlps_with_blank_labels_equal_plain_training(
    blank_splits: tuple[Split, Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(groups.PROGRAMS, "mlp", StackedMLPProgram)
    assert_trained_plainly(of_head("head=mlp", "head.width=12"), blank_splits)


@pytest.mark.parametrize("loss", LOSSES)
def test_grouped_heads_with_blank_labels_equal_autograd_in_float64(loss: str) -> None:
    pytest.importorskip("triton")
    from headsweep.engine.programs.grouped.program import GroupedLinearProgram, GroupedMLPProgram
    from tests.helpers.grouped import Exact, Grouped, distance, steps_of_epoch

    splits = (
        with_blanks(make_split("train", 41, seed=1, width=20, n_labels=3), 0.5),
        make_split("valid", 21, seed=2, width=20, n_labels=3),
    )
    one = config("training.batch_size=24", f"training.loss={loss}", "training.optimizer=sgd")
    grouped = Grouped(splits, GroupedLinearProgram)
    slots = grouped.admit(one, with_values(one, {"training.batch_size": 16}, where="test"))
    grouped.epoch()
    mlps = Grouped(splits, GroupedMLPProgram)
    (mlp,) = mlps.admit(
        config(
            "head=mlp", "head.hidden_dims=[9]", "training.batch_size=24", f"training.loss={loss}"
        )
    )
    mlps.epoch()
    for of_kind, slot in [*((grouped, slot) for slot in slots), (mlps, mlp)]:
        exact = Exact(slot.config, grouped.inputs)
        for step in steps_of_epoch(slot.config, grouped.inputs.n_train, 0, 0):
            exact.step(*step)
        state = of_kind.state(slot)
        names = [name for name, _ in exact.head.named_parameters()]
        weights = [state[n if n in state else n.removeprefix("output.")] for n in names]
        assert distance(weights, list(exact.head.state_dict().values())) < 1e-6


@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_retrieval_heads_with_blank_labels_equal_plain_training(
    weight: float, blank_splits: tuple[Split, Split]
) -> None:
    ones = [
        config(*SMALL_RETRIEVAL, f"head.label_weight={weight}", *rest)
        for rest in (SHORT, (*SGD, "training.learning_rate=0.1"))
    ]
    assert_trained_plainly(ones, blank_splits)


def test_masked_affinity_without_blanks_equals_label_affinity() -> None:
    targets = torch.tensor(make_split("train", 40, seed=3).targets, dtype=torch.float32)
    affinity, comparable = masked_affinity(targets, torch.ones_like(targets))
    torch.testing.assert_close(affinity, label_affinity(targets))
    assert comparable.sum() == 40 * 39


def test_neighbours_with_blank_labels_vote_only_where_they_have_one() -> None:
    gallery = torch.nn.functional.normalize(torch.randn(30, 4), dim=1)
    targets = torch.randint(0, 2, (30, 2)).float()
    targets[:10, 0] = torch.nan
    found = neighbour_probabilities(gallery, gallery, targets, neighbours=30, temperature=0.5)
    weights = torch.softmax((gallery @ gallery.T)[:, 10:].double() / 0.5, dim=1)
    torch.testing.assert_close(found[:, 0].double(), weights @ targets[10:, 0].double())
    alone = neighbour_probabilities(gallery, gallery, targets, neighbours=1, temperature=0.5)
    assert alone[0, 0] == pytest.approx(float(targets[10:, 0].mean()))  # its own label is blank


def test_lbfgs_with_one_label_masked_equals_training_on_the_rows_that_have_it() -> None:
    train, valid = make_split("train", 300, seed=1), make_split("valid", 90, seed=2)
    targets = train.targets.copy()
    targets[::3, 1] = BLANK
    masked = replace(train, targets=targets)
    rows = np.flatnonzero(targets[:, 1] != BLANK)
    kept = replace(
        train, targets=train.targets[rows], features={m: x[rows] for m, x in train.features.items()}
    )
    one = config(
        "training.optimizer=lbfgs", "training.weight_decay=0.05", "features.normalization=none"
    )
    (with_mask,) = train_to_end([one], masked, valid, SETTINGS)
    (on_rows,) = train_to_end([one], kept, valid, SETTINGS)
    (on_all,) = train_to_end([one], train, valid, SETTINGS)
    found, expected, whole = (
        dict(trained.predictor.head.named_parameters()) for trained in (with_mask, on_rows, on_all)
    )
    for name, tensor in found.items():
        torch.testing.assert_close(tensor[1], expected[name][1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(tensor[0], whole[name][0], rtol=1e-4, atol=1e-5)
    x, y = train.features["visual"][rows].astype(np.float64), targets[rows, 1]
    oracle = LogisticRegression(C=1 / (len(rows) * 0.05), tol=1e-10, max_iter=10_000).fit(x, y)
    np.testing.assert_allclose(
        found["output.weight"][1].detach().numpy(), oracle.coef_[0], atol=1e-4
    )


def test_lbfgs_of_a_label_that_no_row_has_gives_zero_weights() -> None:
    """As in a fold of rows none of which has the label."""
    train, valid = make_split("train", 80, seed=1), make_split("valid", 40, seed=2)
    targets = train.targets.copy()
    targets[:, 1] = BLANK
    one = config("training.optimizer=lbfgs", "training.weight_decay=0.05")
    (trained,) = train_to_end([one], replace(train, targets=targets), valid, SETTINGS)
    weight = dict(trained.predictor.head.named_parameters())["output.weight"]
    assert weight.isfinite().all()
    assert (weight[1] == 0).all()
    assert weight[0].abs().max() > 0.01


def test_inputs_without_blank_labels_have_no_mask(splits: tuple[Split, Split]) -> None:
    inputs = Inputs(*splits, torch.device("cpu"))
    assert inputs.labelled is None
    assert inputs.loss_weights(torch.arange(5)) is None


def test_training_on_rows_that_differ_only_in_masked_labels_is_equal(
    blank_splits: tuple[Split, Split],
) -> None:
    """What a cell held before it was masked cannot matter, and AUPRC is scikit-learn's."""
    train, valid = blank_splits
    (trained,) = train_to_end([config("head=linear")], train, valid, SETTINGS)
    scores = trained.predictor({m: torch.tensor(x) for m, x in valid.features.items()})
    value = macro_average_precision(valid.targets, scores.numpy())
    assert value == pytest.approx(trained.best_value, abs=1e-6)
