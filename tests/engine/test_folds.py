"""Cross-validated trials: equal to a loop over the folds, and blind to the rows they leave out."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from headsweep.config.schema import Config
from headsweep.data.dataset import Split
from headsweep.data.folds import Folds, divide
from headsweep.engine.checkpoints import Snapshot
from headsweep.engine.engine import Engine, FoldedEngine
from headsweep.engine.slots import EpochReport
from headsweep.engine.train_configs import train_for, train_in
from headsweep.heads.base import Head
from headsweep.heads.ensemble import EnsembleHead
from headsweep.heads.predictor import Predictor, load_predictor, save_predictor
from headsweep.settings import EngineSettings
from tests.helpers.plain_training import macro_average_precision, train_plainly
from tests.helpers.splits import config, make_split

SETTINGS = EngineSettings(device="cpu", slots=8)
FOLDS = divide(make_split("train", 130, seed=1), None, 3, seed=7)
LINEAR = config("training.batch_size=30")
WATCHED = [
    LINEAR,
    config("training.loss=weighted_bce", "features.normalization=whiten"),
    config("head=mlp", "head.width=16", "head.dropout=0.4"),
    config("head=mlp", "head.width=8", "head.norm=layer", "features.input=both"),
    config("head=retrieval", "head.dim=8", "head.neighbours=7"),
]
BATCH_NORM = config("head=mlp", "head.width=8", "head.norm=batch")
"""Trained by autograd; biases before the norm follow rounding, so no other program equals it."""


def reports_of(engine: Engine, slot: int, epochs: int) -> list[EpochReport]:
    return [r for _ in range(epochs) for r in engine.run_epoch() if r.slot == slot]


def members(predictor: Predictor) -> tuple[Predictor, ...]:
    assert isinstance(predictor.head, EnsembleHead)
    return tuple(predictor.head.predictors)


def scores_of(head: Head, one: Config, folds: Folds, fold: int) -> np.ndarray:
    """Scores of a fold's held-out rows by a head that was trained on the others."""
    views = Engine(folds.training(fold), folds.held_out(fold), SETTINGS).inputs
    normalization = one.features.normalization
    held_out = {m: views.view(m, normalization, valid=True) for m in views.shape(one).widths}
    with torch.no_grad():
        logits = head.logits(held_out)
        return (head.probabilities(held_out) if logits is None else logits).numpy()


@pytest.mark.parametrize("one", WATCHED, ids=lambda c: f"{c.head.kind}-{c.training.loss}")
def test_value_of_a_folded_trial_equals_a_plain_loop_over_the_folds(one: Config) -> None:
    """Plain PyTorch and scikit-learn's average precision, one fold at a time."""
    engine = FoldedEngine(FOLDS, SETTINGS)
    slot = engine.admit(one).slot
    engine.admit(LINEAR)
    reported = reports_of(engine, slot, one.training.max_epochs)[-1]
    fused, plain = np.zeros(FOLDS.rows.targets.shape), np.zeros(FOLDS.rows.targets.shape)
    for k, member in enumerate(members(engine.present_predictor(slot))):
        _, head = train_plainly(one, FOLDS.training(k), FOLDS.held_out(k))
        plain[FOLDS.held_out_rows(k)] = scores_of(head, one, FOLDS, k)
        held_out = FOLDS.held_out(k).features
        logits = member.decision_function(held_out)
        scores = member.predict_proba(held_out) if logits is None else logits
        fused[FOLDS.held_out_rows(k)] = scores
    assert np.allclose(fused, plain, rtol=1e-3, atol=1e-3)
    expected = macro_average_precision(FOLDS.rows.targets, plain)
    # Rows that are nearly equal may swap their ranks.
    assert reported.auprc_macro == pytest.approx(expected, abs=5e-3)


def test_folds_of_a_trial_equal_to_the_bit_heads_trained_on_each_fold_alone() -> None:
    engine = FoldedEngine(FOLDS, SETTINGS)
    slot = engine.admit(LINEAR).slot
    reports_of(engine, slot, 3)
    tensors = engine.snapshot(slot).tensors
    for k in range(FOLDS.count):
        alone = Engine(FOLDS.training(k), FOLDS.held_out(k), SETTINGS)
        single = alone.admit(LINEAR).slot
        reports_of(alone, single, 3)
        weight = alone.snapshot(single).tensors["weight"]
        assert torch.equal(tensors[f"fold{k}.weight"], weight)


def test_value_of_lbfgs_equals_a_scikit_learn_loop() -> None:
    one = config("training.optimizer=lbfgs", "training.weight_decay=0.01")
    engine = FoldedEngine(FOLDS, SETTINGS)
    (report,) = reports_of(engine, engine.admit(one).slot, 1)
    rows, targets = FOLDS.rows.features["visual"], FOLDS.rows.targets
    pooled = np.zeros(targets.shape)
    for k in range(FOLDS.count):
        train, held_out = FOLDS.training_rows(k), FOLDS.held_out_rows(k)
        for j in range(targets.shape[1]):
            model = make_pipeline(
                StandardScaler(), LogisticRegression(C=1 / (len(train) * 0.01), tol=1e-8)
            ).fit(rows[train], targets[train, j])
            pooled[held_out, j] = model.decision_function(rows[held_out])
    assert report.value == pytest.approx(macro_average_precision(targets, pooled), abs=1e-6)
    assert report.finished


def test_metrics_of_a_folded_trial_hold_the_mean_over_folds() -> None:
    engine = FoldedEngine(FOLDS, SETTINGS)
    slot = engine.admit(LINEAR).slot
    best = max(reports_of(engine, slot, 4), key=lambda report: report.value)
    metrics, predictor = engine.metrics(slot), engine.predictor(slot)
    by_fold = [
        macro_average_precision(held.targets, member.decision_function(held.features))
        for held, member in zip(map(FOLDS.held_out, range(3)), members(predictor), strict=True)
    ]
    assert metrics["auprc_macro"] == best.value
    assert metrics["auprc_macro_fold_mean"] == pytest.approx(np.mean(by_fold), abs=1e-9)


def with_garbage(folds: Folds, fold: int, seed: int) -> Folds:
    """The same folds with other labels and features in the rows that one fold holds out."""
    rng = np.random.default_rng(seed)
    held_out = folds.fold_of == fold
    targets = folds.rows.targets.copy()
    targets[held_out] = rng.integers(0, 2, targets[held_out].shape)
    features = {m: x.copy() for m, x in folds.rows.features.items()}
    for x in features.values():
        x[held_out] = 100 * rng.normal(size=x[held_out].shape)
    return replace(folds, rows=replace(folds.rows, targets=targets, features=features))


def weights_after(
    folds: Folds, watched: Config, neighbours: Sequence[tuple[int, int, Config]], resumed_at: int
) -> Snapshot:
    """The state of a trial whose neighbours come and go, and which is resumed after an epoch."""
    engine = FoldedEngine(folds, SETTINGS)
    slot = engine.admit(watched).slot
    leaving: dict[int, int] = {}
    for epoch in range(3):
        for enters, stays, neighbour in neighbours:
            if enters == epoch and engine.free:
                leaving[engine.admit(neighbour).slot] = epoch + stays
        engine.run_epoch()
        for number in [n for n, leaves in leaving.items() if leaves <= epoch]:
            engine.evict(number)
            del leaving[number]
        if epoch == resumed_at:
            snapshot, leaving = engine.snapshot(slot), {}
            engine = FoldedEngine(folds, SETTINGS)
            slot = engine.restore(watched, snapshot).slot
    return engine.snapshot(slot)


neighbour = st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from(WATCHED))


@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 2),
    st.sampled_from([*WATCHED, BATCH_NORM]),
    st.lists(neighbour, max_size=4),
    st.integers(0, 3),
    st.integers(0, 9),
)
def test_head_of_a_fold_does_not_depend_on_the_rows_it_is_scored_on(
    fold: int,
    watched: Config,
    neighbours: list[tuple[int, int, Config]],
    resumed_at: int,
    seed: int,
) -> None:
    """Neither their labels nor their features, across refills and a resume."""
    honest = weights_after(FOLDS, watched, neighbours, resumed_at).tensors
    garbage = with_garbage(FOLDS, fold, seed)
    other = weights_after(garbage, watched, neighbours, resumed_at).tensors
    prefix = f"fold{fold}."
    present = [n for n in honest if n.startswith(prefix) and ".best" not in n]
    assert present
    for name in present:
        assert torch.equal(honest[name], other[name]), name
    elsewhere = f"fold{(fold + 1) % 3}."
    changed = [n for n in honest if n.startswith(elsewhere) and ".best" not in n]
    assert any(not torch.equal(honest[name], other[name]) for name in changed)


def test_restored_trial_continues_to_the_same_bits() -> None:
    for one in (LINEAR, config("head=mlp", "head.width=16", "head.dropout=0.4")):
        whole = weights_after(FOLDS, one, [], resumed_at=9)
        resumed = weights_after(FOLDS, one, [], resumed_at=1)
        assert resumed.step == whole.step
        assert resumed.history == tuple(replace(r, slot=0) for r in whole.history)
        for name, tensor in whole.tensors.items():
            assert torch.equal(tensor, resumed.tensors[name]), name


def test_early_stopping_is_of_the_trial_with_one_best_epoch_for_all_folds() -> None:
    eager = config("training.learning_rate=5", "training.early_stopping_patience=2",
                   "training.max_epochs=40")  # fmt: skip
    engine = FoldedEngine(FOLDS, SETTINGS)
    slot = engine.admit(eager).slot
    history: list[EpochReport] = []
    while not history or not history[-1].finished:
        history += engine.run_epoch()
    last = history[-1]
    assert last.epoch == last.best_epoch + 2 < 40
    best = [report.value for report in history].index(max(report.value for report in history))
    assert last.best_epoch == best + 1
    predictor = engine.predictor(slot)
    scores = np.zeros(FOLDS.rows.targets.shape, np.float32)
    for k, member in enumerate(members(predictor)):
        scores[FOLDS.held_out_rows(k)] = member.decision_function(FOLDS.held_out(k).features)
    value = macro_average_precision(FOLDS.rows.targets, scores)
    assert value == pytest.approx(last.best_value, abs=1e-4)


def test_train_for_equals_training_on_all_rows_for_so_many_epochs() -> None:
    rows: Split = FOLDS.rows
    two, three = train_for([LINEAR, LINEAR], [2, 3], rows, SETTINGS)
    engine = Engine(rows, rows, SETTINGS)
    slots = [engine.admit(LINEAR).slot for _ in range(2)]
    for expected in (two, three):
        while len(engine.history(slots[0])) < (2 if expected is two else 3):
            engine.run_epoch()
        weight = engine.snapshot(slots[0]).tensors["weight"]
        assert torch.equal(expected.head.get_parameter("output.weight"), weight)


@pytest.mark.parametrize("one", [WATCHED[2], WATCHED[4]], ids=lambda c: c.head.kind)
def test_mean_predictor_is_saved_and_loaded(one: Config, tmp_path) -> None:
    (trained,) = train_in(FoldedEngine(FOLDS, SETTINGS), [one])
    predictor = trained.predictor
    features = make_split("new", 9, seed=5).features
    likely = [member.predict_proba(features) for member in members(predictor)]
    logits = predictor.decision_function(features)
    if logits is None:
        assert np.allclose(predictor.predict_proba(features), np.mean(likely, axis=0), atol=1e-6)
    else:
        each = [member.decision_function(features) for member in members(predictor)]
        assert np.allclose(logits, np.mean(each, axis=0), atol=1e-6)
    save_predictor(predictor, tmp_path / "model.safetensors")
    loaded = load_predictor(tmp_path)
    assert len(members(loaded)) == FOLDS.count
    assert np.array_equal(loaded.predict_proba(features), predictor.predict_proba(features))


def test_embeddings_of_a_mean_of_retrieval_heads_have_the_mean_similarity() -> None:
    (trained,) = train_in(FoldedEngine(FOLDS, SETTINGS), [WATCHED[4]])
    predictor = trained.predictor
    features = {m: torch.from_numpy(x) for m, x in make_split("new", 9, seed=5).features.items()}

    def similarity(views: dict[str, torch.Tensor]) -> torch.Tensor:
        return views["visual"] @ views["text"].T

    each = torch.stack([similarity(member.project(features)) for member in members(predictor)])
    assert torch.allclose(similarity(predictor.project(features)), each.mean(dim=0), atol=1e-6)
