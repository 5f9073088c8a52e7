"""Fused training of K heads equals K plain PyTorch runs."""

from dataclasses import replace

import pytest
import torch

from headsweep.config.schema import Config
from headsweep.data.dataset import Split
from headsweep.engine.train_configs import train_to_end
from headsweep.settings import EngineSettings
from tests.helpers.plain_training import macro_average_precision, train_plainly
from tests.helpers.splits import config

LINEAR = [
    config("training.learning_rate=0.03"),
    config("training.weight_decay=0.5", "training.loss=focal"),
    config("training.optimizer=sgd", "training.warmup_epochs=1", "training.momentum=0.5"),
    config("training.loss=weighted_bce", "training.label_smoothing=0.1", "training.clip_norm=0.2"),
    config("training.loss=asymmetric", "training.schedule=constant", "training.max_epochs=6"),
    config("features=both", "features.normalization=whiten"),
    config("features=text", "features.normalization=l2", "training.batch_size=1000"),
    config("training.learning_rate=20", "training.optimizer=sgd"),  # float32 sigmoids would tie
]
MLP = [
    config("head=mlp", "head.width=16", "head.depth=1"),
    config("head=mlp", "head.width=32", "head.depth=3", "head.dropout=0.3"),
    config("head=mlp", "head.hidden_dims=[24,8]", "head.activation=gelu", "head.norm=layer"),
    config("head=mlp", "head.hidden_dims=[8,40]", "head.activation=silu", "head.dropout=0.6"),
    config("head=mlp", "head.width=12", "head.activation=tanh", "head.dropout=0.2"),
    # Batch statistics cancel the bias before them: its gradient is rounding noise, which Adam
    # would blow up to full steps.
    config("head=mlp", "head.width=12", "head.norm=batch", "training.optimizer=sgd"),
    config(
        "head=mlp", "head.width=12", "head.norm=layer", "head.dropout=0.4", "training.loss=focal"
    ),
]
SMALL_RETRIEVAL = ("head=retrieval", "head.dim=8", "head.neighbours=5", "head.temperature=0.2")
RETRIEVAL = [
    config(*SMALL_RETRIEVAL, "head.label_weight=0"),
    config(*SMALL_RETRIEVAL, "head.label_weight=1", "features=both"),
    config(*SMALL_RETRIEVAL, "head.label_weight=0.3", "features=text"),
    config(*SMALL_RETRIEVAL, "head.label_weight=0.5", "training.optimizer=sgd"),
]


@pytest.mark.parametrize("configs", [LINEAR, MLP, RETRIEVAL], ids=["linear", "mlp", "retrieval"])
def test_fused_training_equals_plain_training(
    configs: list[Config], splits: tuple[Split, Split]
) -> None:
    fused = train_to_end(configs, *splits, EngineSettings(device="cpu"))
    for one, trained in zip(configs, fused, strict=True):
        values, head = train_plainly(one, *splits)
        reached = [report.auprc_macro for report in trained.history]
        assert reached == pytest.approx(values, abs=2e-4), one
        assert trained.best_auprc_macro == max(reached)
        if trained.best_epoch == len(values):
            plain = head.state_dict()
            for name, tensor in trained.predictor.head.named_parameters():
                torch.testing.assert_close(tensor.detach(), plain[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("one", [LINEAR[0], MLP[1], MLP[5], RETRIEVAL[2]])
def test_the_predictor_gives_the_scores_that_were_validated(
    one: Config, splits: tuple[Split, Split]
) -> None:
    train, valid = splits
    (trained,) = train_to_end([one], train, valid, EngineSettings(device="cpu"))
    scores = trained.predictor({m: torch.tensor(x) for m, x in valid.features.items()})
    value = macro_average_precision(valid.targets, scores.numpy())
    assert value == pytest.approx(trained.best_auprc_macro, abs=1e-6)


def test_pairs_of_one_scan_or_report_are_no_negatives(splits: tuple[Split, Split]) -> None:
    """With every row the same scan there is nothing to tell apart, so nothing is learned."""
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
