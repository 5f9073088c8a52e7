"""Fused training of K heads equals K plain PyTorch runs."""

from dataclasses import replace

import pytest
import torch

from headsweep.config.schema import Config
from headsweep.data.dataset import Split
from headsweep.engine.train_configs import train_to_end
from headsweep.settings import EngineSettings
from tests.helpers.head_configs import LINEAR, MLP, RETRIEVAL, SMALL_RETRIEVAL
from tests.helpers.plain_training import macro_average_precision, train_plainly
from tests.helpers.splits import config


@pytest.mark.parametrize("configs", [LINEAR, MLP, RETRIEVAL], ids=["linear", "mlp", "retrieval"])
def test_train_to_end_of_fused_heads_equals_plain_training(
    configs: list[Config], splits: tuple[Split, Split]
) -> None:
    fused = train_to_end(configs, *splits, EngineSettings(device="cpu"))
    for one, trained in zip(configs, fused, strict=True):
        values, head = train_plainly(one, *splits)
        reached = [report.auprc_macro for report in trained.history]
        assert reached == pytest.approx(values, abs=2e-4), one
        assert trained.best_value == max(reached)
        if trained.best_epoch == len(values):
            plain = head.state_dict()
            for name, tensor in trained.predictor.head.named_parameters():
                torch.testing.assert_close(tensor.detach(), plain[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("one", [LINEAR[0], MLP[1], MLP[5], RETRIEVAL[2]])
def test_predictor_of_a_trained_head_gives_the_validated_scores(
    one: Config, splits: tuple[Split, Split]
) -> None:
    train, valid = splits
    (trained,) = train_to_end([one], train, valid, EngineSettings(device="cpu"))
    scores = trained.predictor({m: torch.tensor(x) for m, x in valid.features.items()})
    value = macro_average_precision(valid.targets, scores.numpy())
    assert value == pytest.approx(trained.best_value, abs=1e-6)


def test_retrieval_training_on_one_scan_learns_nothing(splits: tuple[Split, Split]) -> None:
    """All rows are the same scan, so there is nothing to distinguish and nothing to learn."""
    train, valid = splits
    one_scan = replace(train, scans=("the same",) * len(train.scans))
    frozen = config(
        *SMALL_RETRIEVAL, "head.label_weight=0", "training.weight_decay=0", "training.max_epochs=2"
    )
    (trained,) = train_to_end([frozen], one_scan, valid, EngineSettings(device="cpu"))
    values = [report.auprc_macro for report in trained.history]
    assert values[0] == values[1]
    (learning,) = train_to_end([frozen], train, valid, EngineSettings(device="cpu"))
    values = [report.auprc_macro for report in learning.history]
    assert values[0] != values[1]
