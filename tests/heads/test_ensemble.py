"""Ensembles of heads as one predictor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit

from headsweep.config.data_sections import FeatureInput, Normalization
from headsweep.config.head_section import HeadConfig, LinearConfig, MLPConfig, RetrievalConfig
from headsweep.errors import FeatureError
from headsweep.heads.base import HeadShape
from headsweep.heads.normalization import fit_normalizer
from headsweep.heads.predictor import (
    Predictor,
    PredictorSpec,
    ensemble_of,
    load_predictor,
    save_predictor,
)
from headsweep.heads.registry import build_head
from headsweep.heads.retrieval import RetrievalHead

WIDTHS = {"visual": 6, "text": 4}
LABELS = ("a", "b", "c")
FEATURES = {
    name: np.random.default_rng(0).normal(size=(20, width)).astype(np.float32)
    for name, width in WIDTHS.items()
}
WEIGHTS = (0.5, 0.2, 0.3)


def member(
    head: HeadConfig, read: FeatureInput = "visual", normalization: Normalization = "zscore"
) -> Predictor:
    names = ("visual", "text") if read == "both" else (read,)
    shape = HeadShape({name: WIDTHS[name] for name in names}, read, len(LABELS))
    train = {name: torch.from_numpy(FEATURES[name]) for name in names}
    normalizers = {name: fit_normalizer(normalization, rows) for name, rows in train.items()}
    built = build_head(head, shape, seed=3)
    if isinstance(built, RetrievalHead):
        views = {name: normalizers[name](rows) for name, rows in train.items()}
        built.set_gallery(views, torch.randint(0, 2, (20, len(LABELS))))
    return Predictor(PredictorSpec(head, shape, normalization, LABELS), normalizers, built)


@pytest.fixture(scope="module")
def members() -> list[Predictor]:
    """Heads of different kinds, inputs and normalisations."""
    return [
        member(LinearConfig()),
        member(MLPConfig(width=8), "both", "whiten"),
        member(LinearConfig(), "text", "none"),
    ]


def test_ensemble_of_heads_with_logits_averages_their_logits(members):
    ensemble = ensemble_of(members, WEIGHTS)
    expected = sum(
        weight * one.decision_function(FEATURES).astype(np.float64)
        for weight, one in zip(WEIGHTS, members, strict=True)
    )
    logits = ensemble.decision_function(FEATURES)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, expected.astype(np.float32))
    np.testing.assert_array_equal(
        ensemble.predict_proba(FEATURES), expit(logits.astype(np.float64))
    )
    tensors = {name: torch.from_numpy(rows) for name, rows in FEATURES.items()}
    np.testing.assert_allclose(ensemble(tensors), ensemble.predict_proba(FEATURES), rtol=1e-12)


def test_ensemble_with_a_retrieval_head_averages_probabilities(members):
    both = [members[0], member(RetrievalConfig(dim=4, neighbours=3), "both")]
    ensemble = ensemble_of(both, (0.25, 0.75))
    assert ensemble.decision_function(FEATURES) is None
    expected = 0.25 * both[0].predict_proba(FEATURES) + 0.75 * both[1].predict_proba(FEATURES)
    np.testing.assert_array_equal(ensemble.predict_proba(FEATURES), expected)


def test_load_predictor_of_a_saved_ensemble_gives_the_same_bits(members, tmp_path: Path):
    ensemble = ensemble_of(members, WEIGHTS)
    save_predictor(ensemble, tmp_path / "model.safetensors")
    loaded = load_predictor(tmp_path)
    assert loaded.spec == ensemble.spec
    assert loaded.labels == LABELS
    assert dict(loaded.spec.shape.widths) == WIDTHS
    np.testing.assert_array_equal(
        loaded.decision_function(FEATURES), ensemble.decision_function(FEATURES)
    )


def test_ensemble_of_other_labels_or_widths_is_refused(members):
    other = member(LinearConfig())
    object.__setattr__(other.spec, "labels", ("a", "c", "b"))
    with pytest.raises(ValueError, match="same labels in the same order"):
        ensemble_of([members[0], other], (0.5, 0.5))
    wide = member(LinearConfig())
    object.__setattr__(wide.spec.shape, "widths", {"visual": 7})
    with pytest.raises(ValueError, match="visual features of one width, found 6 and 7"):
        ensemble_of([members[0], wide], (0.5, 0.5))


def test_load_predictor_of_an_ensemble_with_wrong_weights_is_refused(members, tmp_path: Path):
    path = tmp_path / "model.safetensors"
    save_predictor(ensemble_of(members, WEIGHTS), path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"[0.5, 0.2, 0.3]", b"[0.5, 0.2, 3.3]"))
    with pytest.raises(FeatureError, match="must be a safetensors file written by headsweep"):
        load_predictor(path)
