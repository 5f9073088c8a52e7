"""A trial's results depend only on its config and tape position, not on its neighbours."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.engine.engine import Engine
from headsweep.engine.slots import EpochReport
from headsweep.engine.train_configs import train_to_end
from headsweep.errors import ConfigError, ManifestError
from headsweep.settings import EngineSettings
from tests.helpers.splits import config, make_split

SETTINGS = EngineSettings(device="cpu", slots=8)
WATCHED = [
    config("training.learning_rate=0.02"),
    config("head=mlp", "head.width=16", "head.dropout=0.4"),
    config("head=retrieval", "head.dim=8", "head.neighbours=7"),
]
SPLITS = make_split("train", 150, seed=1), make_split("valid", 90, seed=2)


def numbers(reports: list[EpochReport]) -> list[tuple[float, float, float]]:
    return [(r.auprc_macro, r.auroc_macro, r.loss) for r in reports]


def run_among(watched: Config, neighbours: list[tuple[int, int, Config]]) -> list[EpochReport]:
    """Return the reports of `watched`; each neighbour enters at an epoch and is evicted later."""
    engine = Engine(*SPLITS, SETTINGS)
    slot = engine.admit(watched).slot
    leaving: list[tuple[int, int]] = []
    seen: list[EpochReport] = []
    for epoch in range(watched.training.max_epochs):
        for enters, stays, neighbour in neighbours:
            if enters == epoch and engine.free:
                leaving.append((epoch + stays, engine.admit(neighbour).slot))
        seen += [report for report in engine.run_epoch() if report.slot == slot]
        for leaves, number in list(leaving):
            if leaves <= epoch + 1:
                engine.evict(number)
                leaving.remove((leaves, number))
    return seen


rates = st.floats(1e-4, 10.0).map(lambda rate: {"training.learning_rate": rate})
variants = st.fixed_dictionaries(
    {
        "features.input": st.sampled_from(["visual", "text"]),
        "features.normalization": st.sampled_from(["zscore", "l2", "none"]),
        "training.batch_size": st.sampled_from([16, 32, 64, 1000]),
    }
)
neighbour_configs = st.builds(
    lambda base, values, variant, width: with_values(
        base,
        values | variant | ({"head.width": width} if base.head.kind == "mlp" else {}),
        where="test",
    ),
    st.sampled_from(WATCHED),
    rates,
    variants,
    st.integers(1, 40),
)


@pytest.mark.parametrize("watched", WATCHED, ids=lambda c: c.head.kind)
@settings(max_examples=15, deadline=None)
@given(
    neighbours=st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 4), neighbour_configs), max_size=7
    )
)
def test_slot_with_neighbours_that_come_and_go_keeps_every_bit(
    watched: Config, neighbours: list[tuple[int, int, Config]]
) -> None:
    alone = run_among(watched, [])
    among = run_among(watched, neighbours)
    assert numbers(among) == numbers(alone)


@pytest.mark.parametrize("batch_size", [64, 256, 1024])
def test_linear_head_in_a_crowd_keeps_every_bit(batch_size: int) -> None:
    """Up to 33 slots share the matrix products; the watched one is first, inside, or last."""
    splits = (
        make_split("train", 1100, seed=1, width=128),
        make_split("valid", 90, seed=2, width=128),
    )
    settings = EngineSettings(device="cpu", slots=33)
    fixed = {"training.batch_size": batch_size, "training.max_epochs": 2}
    watched = with_values(WATCHED[0], fixed, where="test")
    crowd = [
        with_values(watched, {"training.learning_rate": 0.001 * (1 + i)}, where="test")
        for i in range(32)
    ]
    (alone,) = train_to_end([watched], *splits, settings)
    for n, place in [(1, 0), (15, 15), (16, 3), (20, 0), (32, 32)]:
        configs = [*crowd[:place], watched, *crowd[place:n]]
        among = train_to_end(configs, *splits, settings)[place]
        assert numbers(list(among.history)) == numbers(list(alone.history)), (n, place)
        weights = among.predictor.state_dict()
        for name, tensor in alone.predictor.state_dict().items():
            assert weights[name].equal(tensor), (n, place, name)


@pytest.mark.parametrize("batch_size", [64, 96, 256])
def test_linear_head_beside_other_batch_sizes_and_inputs_keeps_every_bit(batch_size: int) -> None:
    """The rows of minibatches of 64 and 256 are part of the rows gathered for 1,024."""
    splits = (
        make_split("train", 2300, seed=1, width=128),
        make_split("valid", 90, seed=2, width=128),
    )
    settings = EngineSettings(device="cpu", slots=33)
    fixed = {"training.batch_size": batch_size, "training.max_epochs": 2}
    watched = with_values(WATCHED[0], fixed, where="test")
    crowd = [
        with_values(
            watched,
            {"training.batch_size": size, "features.normalization": kind, "training.loss": loss},
            where="test",
        )
        for size in (64, 256, 1024)
        for kind in ("zscore", "whiten", "none")
        for loss in ("bce", "focal")
    ]
    (alone,) = train_to_end([watched], *splits, settings)
    among = train_to_end([*crowd[:9], watched, *crowd[9:]], *splits, settings)[9]
    assert numbers(list(among.history)) == numbers(list(alone.history))
    weights = among.predictor.state_dict()
    for name, tensor in alone.predictor.state_dict().items():
        assert weights[name].equal(tensor), name


@pytest.mark.parametrize("n_labels", [1, 2, 3])
def test_linear_head_of_few_labels_beside_a_neighbour_keeps_every_bit(n_labels: int) -> None:
    """A BLAS sums in another order if a product has fewer rows than its registers."""
    splits = (
        make_split("train", 300, seed=1, width=384, n_labels=n_labels),
        make_split("valid", 90, seed=2, width=384, n_labels=n_labels),
    )
    settings = EngineSettings(device="cpu", slots=20)
    fixed = {"training.batch_size": 256, "training.max_epochs": 2}
    watched = with_values(WATCHED[0], fixed, where="test")
    (alone,) = train_to_end([watched], *splits, settings)
    for n in (2, 4, 6, 18):
        among = train_to_end([watched] * n, *splits, settings)[-1].predictor.state_dict()
        for name, tensor in alone.predictor.state_dict().items():
            assert among[name].equal(tensor), (n, name)


@pytest.mark.parametrize("loss", ["bce", "weighted_bce", "focal", "asymmetric"])
def test_linear_head_with_a_short_last_batch_keeps_every_bit(loss: str) -> None:
    """61 rows of 5 labels fill no whole SIMD vector, so two slots share one vector."""
    splits = (
        make_split("train", 317, seed=1, width=128, n_labels=5),
        make_split("valid", 91, seed=2, width=128, n_labels=5),
    )
    settings = EngineSettings(device="cpu", slots=8)
    fixed = {"training.batch_size": 64, "training.max_epochs": 12, "training.loss": loss}
    watched = with_values(WATCHED[0], fixed, where="test")
    crowd = [
        with_values(watched, {"training.learning_rate": 0.001 * (1 + i)}, where="test")
        for i in range(6)
    ]
    (alone,) = train_to_end([watched], *splits, settings)
    for n, place in [(1, 0), (1, 1), (2, 1), (4, 4), (6, 3)]:
        configs = [*crowd[:place], watched, *crowd[place:n]]
        weights = train_to_end(configs, *splits, settings)[place].predictor.state_dict()
        for name, tensor in alone.predictor.state_dict().items():
            assert weights[name].equal(tensor), (n, place, name)


@pytest.mark.parametrize(
    ("loss", "key", "own", "other"),
    [
        ("bce", "label_smoothing", 0.1, 0.03),
        ("bce", "label_smoothing", 0.0, 0.03),
        ("focal", "focal_gamma", 2.0, 1.3),
        ("focal", "focal_alpha", 0.3, 0.7),
        ("asymmetric", "asymmetric_gamma_neg", 3.0, 2.2),
        ("asymmetric", "asymmetric_gamma_pos", 1.0, 0.4),
        ("asymmetric", "asymmetric_clip", 0.05, 0.01),
    ],
)
def test_linear_head_beside_another_loss_setting_keeps_every_bit(
    loss: str, key: str, own: float, other: float
) -> None:
    fixed = {"training.loss": loss, f"training.{key}": own, "training.max_epochs": 6}
    watched = with_values(WATCHED[0], fixed, where="test")
    neighbour = with_values(watched, {f"training.{key}": other}, where="test")
    (alone,) = train_to_end([watched], *SPLITS, SETTINGS)
    for configs in ([watched, watched], [watched, neighbour], [watched, neighbour, watched]):
        among = train_to_end(configs, *SPLITS, SETTINGS)[0].predictor.state_dict()
        for name, tensor in alone.predictor.state_dict().items():
            assert among[name].equal(tensor), name


@pytest.mark.parametrize("watched", WATCHED, ids=lambda c: c.head.kind)
def test_replay_from_the_tape_position_repeats_a_refilled_slot(watched: Config) -> None:
    engine = Engine(*SPLITS, EngineSettings(device="cpu", slots=2))
    other = with_values(watched, {"training.learning_rate": 0.5}, where="test")
    engine.admit(with_values(watched, {"training.max_epochs": 20}, where="test"))
    doomed = engine.admit(other).slot
    for _ in range(3):
        engine.run_epoch()
    engine.evict(doomed)
    admission = engine.admit(watched)
    assert admission.tape_position == 3
    late = [r for _ in range(4) for r in engine.run_epoch() if r.slot == admission.slot]
    exported = with_values(watched, {"training.tape_position": 3}, where="test")
    (replayed,) = train_to_end([exported], *SPLITS, SETTINGS)
    assert numbers(list(replayed.history)) == numbers(late)


def test_run_epoch_with_a_diverging_slot_fails_it_alone() -> None:
    healthy = config("training.learning_rate=0.02")
    broken = config("training.learning_rate=1e30", "training.optimizer=sgd")
    engine = Engine(*SPLITS, SETTINGS)
    ok, bad = engine.admit(healthy).slot, engine.admit(broken).slot
    reports = {report.slot: report for report in engine.run_epoch()}
    assert reports[bad].failure is not None
    assert reports[bad].finished
    assert reports[ok].failure is None
    assert numbers([reports[ok]]) == numbers(run_among(healthy, []))[:1]


def test_train_to_end_without_improvement_stops_after_its_patience() -> None:
    patient = config(
        "training.learning_rate=1e-9",
        "training.early_stopping_patience=3",
        "training.max_epochs=50",
    )
    (trained,) = train_to_end([patient], *SPLITS, SETTINGS)
    assert len(trained.history) == trained.best_epoch + 3


def test_train_to_end_that_overfits_keeps_the_best_epoch() -> None:
    overfits = config("head=mlp", "head.width=64", "training.max_epochs=25")
    (trained,) = train_to_end([overfits], *SPLITS, SETTINGS)
    assert trained.best_epoch < len(trained.history)
    shorter = with_values(
        overfits,
        {"training.max_epochs": 25, "training.early_stopping_patience": None},
        where="test",
    )
    (again,) = train_to_end([shorter], *SPLITS, SETTINGS)
    assert again.best_value == max(report.auprc_macro for report in again.history)


def test_train_to_end_of_more_configs_than_slots_gives_equal_results() -> None:
    configs = [config(f"training.learning_rate={rate}") for rate in (0.001, 0.01, 0.02, 0.05)]
    few = train_to_end(configs, *SPLITS, EngineSettings(device="cpu", slots=2))
    all_at_once = train_to_end(configs, *SPLITS, SETTINGS)
    assert [t.best_value for t in few] == [t.best_value for t in all_at_once]


def test_admit_to_a_full_engine_raises() -> None:
    engine = Engine(*SPLITS, EngineSettings(device="cpu", slots=1))
    engine.admit(WATCHED[0])
    assert engine.free == 0
    with pytest.raises(RuntimeError, match="all 1 slots are in use"):
        engine.admit(WATCHED[0])


class TestRefusals:
    def test_admit_without_a_needed_modality_is_refused(self) -> None:
        train, valid = (
            replace(split, features={"visual": split.features["visual"]}) for split in SPLITS
        )
        engine = Engine(train, valid, SETTINGS)
        with pytest.raises(ConfigError, match="needs text features, but the data has visual"):
            engine.admit(config("features=both"))

    def test_engine_without_a_rankable_label_is_refused(self) -> None:
        train, valid = SPLITS
        with pytest.raises(ManifestError, match="no label has both positives and negatives"):
            Engine(train, replace(valid, targets=valid.targets * 0), SETTINGS)

    def test_engine_on_an_unknown_device_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="--device must be"):
            Engine(*SPLITS, EngineSettings(device="abacus"))
