"""Named inputs of different width train as the same features under their built-in names do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.data.dataset import Split
from headsweep.engine.engine import Engine
from headsweep.engine.groups import group_key
from headsweep.engine.inputs import Inputs
from headsweep.engine.train_configs import train_to_end
from headsweep.heads.predictor import load_predictor, save_predictor
from headsweep.settings import EngineSettings
from tests.helpers.splits import config, make_split

SETTINGS = EngineSettings(device="cpu", slots=8)
INPUTS = {
    "ct_clip": {"column": "a", "modality": "visual"},
    "colipri": {"column": "b", "modality": "visual"},
    "report": {"column": "c", "modality": "text"},
}
HEADS = {
    "linear": ("head=linear",),
    "lbfgs": ("head=linear", "training.optimizer=lbfgs", "training.weight_decay=0.1"),
    "mlp": ("head=mlp", "head.width=8", "head.dropout=0.2"),
    "autograd": ("head=mlp", "head.width=8", "head.norm=batch"),
    "retrieval": ("head=retrieval", "head.dim=8", "head.neighbours=5"),
}


def renamed(split: Split) -> Split:
    """The split with its visual features as `ct_clip`, half of them as `colipri`, its text as
    `report`."""
    visual, text = split.features["visual"], split.features["text"]
    return replace(split, features={"ct_clip": visual, "colipri": visual[:, ::2], "report": text})


def named(base: Config, feature_input: str, **values: object) -> Config:
    return with_values(
        base,
        {"data.inputs": INPUTS, "features.input": feature_input, **values},
        where="test",
    )


@pytest.fixture(scope="module")
def splits() -> tuple[Split, Split]:
    return make_split("train", 120, seed=1), make_split("valid", 60, seed=2)


def test_shape_of_named_inputs_has_their_widths_in_order(splits) -> None:
    train, valid = map(renamed, splits)
    inputs = Inputs(train, valid, torch.device("cpu"))
    shape = inputs.shape(named(config(), "colipri+ct_clip"))
    assert list(shape.widths.items()) == [("colipri", 12), ("ct_clip", 24)]
    assert shape.input_width == 36


@pytest.mark.parametrize("kind", HEADS)
def test_named_inputs_train_like_built_in_ones(kind: str, splits) -> None:
    base = config(*HEADS[kind], "training.max_epochs=2")
    names = {"visual": "ct_clip", "text": "report", "both": "ct_clip+report"}
    built_in = [with_values(base, {"features.input": name}, where="t") for name in names]
    partner = {"report": {"features.partner": "ct_clip"}}  # there are two visual inputs
    other = [named(base, name, **partner.get(name, {})) for name in names.values()]
    expected = train_to_end(built_in, *splits, SETTINGS)
    found = train_to_end(other, *map(renamed, splits), SETTINGS)
    for one, two in zip(expected, found, strict=True):
        assert [r.auprc_macro for r in one.history] == [r.auprc_macro for r in two.history]
        features = splits[1].features
        as_named = {"ct_clip": features["visual"], "report": features["text"]}
        np.testing.assert_array_equal(
            one.predictor.predict_proba(features), two.predictor.predict_proba(as_named)
        )


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_inputs_of_different_width_share_a_group_and_train_as_alone(kind: str, splits) -> None:
    base = config(*HEADS[kind], "training.max_epochs=2")
    configs = [named(base, name) for name in ("ct_clip", "colipri", "colipri+ct_clip")]
    named_splits = tuple(map(renamed, splits))
    inputs = Engine(*named_splits, SETTINGS).inputs
    assert len({group_key(one, inputs) for one in configs}) == 1
    together = train_to_end(configs, *named_splits, SETTINGS)
    for one, fused in zip(configs, together, strict=True):
        (alone,) = train_to_end([one], *named_splits, SETTINGS)
        assert [r.auprc_macro for r in alone.history] == pytest.approx(
            [r.auprc_macro for r in fused.history], abs=1e-6
        )


def test_retrieval_head_with_one_modality_is_trained_against_the_partner(splits) -> None:
    base = config(*HEADS["retrieval"], "training.max_epochs=1")
    train, valid = map(renamed, splits)
    (trained,) = train_to_end([named(base, "ct_clip+colipri")], train, valid, SETTINGS)
    assert trained.predictor.inputs == {"ct_clip": 24, "colipri": 12, "report": 12}
    tensors = {n: np.asarray(x) for n, x in trained.predictor.head.state_dict().items()}
    assert tensors["projections.visual.weight"].shape == (8, 36)
    assert tensors["projections.text.weight"].shape == (8, 12)


def test_predictor_saved_and_loaded_names_its_inputs(splits, tmp_path) -> None:
    train, valid = map(renamed, splits)
    base = config(*HEADS["retrieval"], "training.max_epochs=1")
    (trained,) = train_to_end([named(base, "ct_clip+report")], train, valid, SETTINGS)
    save_predictor(trained.predictor, tmp_path / "model.safetensors")
    head = load_predictor(tmp_path)
    assert head.inputs == {"ct_clip": 24, "report": 12}
    np.testing.assert_array_equal(
        head.predict_proba(valid.features), trained.predictor.predict_proba(valid.features)
    )
