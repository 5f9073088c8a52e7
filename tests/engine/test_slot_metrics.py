"""Metrics of slots are the same for any number of threads, and equal scikit-learn's."""

import os

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from headsweep.engine.slot_metrics import slot_metrics
from headsweep.metrics.masking import BLANK


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_slot_metrics_of_several_threads_equal_those_of_one(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    rng = np.random.default_rng(0)
    targets = (rng.random((57, 4)) < 0.3).astype(np.uint8)
    scores = torch.tensor(rng.normal(size=(7, 4, 57)), dtype=torch.float32)
    scores[2, 1, 3] = torch.nan

    named = ["auprc_macro", "auprc_skill", "auroc_macro", "balanced_accuracy"]
    named += ["recall_at_10", "balanced_accuracy", "auprc_skill"]

    def measure(count: int) -> list[list[float]]:
        found = slot_metrics(
            targets, scores, torch.sigmoid, metrics=named, ranks_logits=True, threads=count
        )
        return [values.tolist() for values in found]

    one, several = measure(1), measure(threads)
    assert np.array_equal(one, several, equal_nan=True)
    for k in (0, 6):
        labels, logits = range(4), scores[k].numpy()
        auprc = [average_precision_score(targets[:, j], logits[j]) for j in labels]
        auroc = [roc_auc_score(targets[:, j], logits[j]) for j in labels]
        assert several[0][k] == pytest.approx(np.mean(auprc))
        assert several[1][k] == pytest.approx(np.mean(auroc))
    assert np.isnan(several[0][2])
    assert np.isnan(several[1][2])


@pytest.mark.parametrize("blanks", [0.0, 0.3])
def test_slot_metrics_of_a_slot_alone_equal_those_among_others(blanks: float) -> None:
    rng = np.random.default_rng(1)
    targets = (rng.random((157, 5)) < 0.3).astype(np.uint8)
    targets[rng.random(targets.shape) < blanks] = BLANK
    scores = torch.tensor(rng.normal(size=(9, 5, 157)), dtype=torch.float32)

    def measure(part: torch.Tensor) -> np.ndarray:
        names = ["auprc_macro"] * len(part)
        found = slot_metrics(
            targets, part, torch.sigmoid, metrics=names, ranks_logits=True, threads=1
        )
        return np.stack(found)

    alone = [measure(scores[k : k + 1]) for k in range(9)]
    np.testing.assert_array_equal(measure(scores), np.concatenate(alone, axis=1))
