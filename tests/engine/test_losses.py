"""Gradients equal autograd's, and losses equal the published formulas."""

import pytest
import torch
from torch.nn import functional

from headsweep.config.training_section import TrainingConfig
from headsweep.engine.numerics.losses import LOSSES, gradient_, loss, loss_settings, stack_settings

POS_WEIGHT = torch.tensor([1.0, 4.0, 30.0])


def example(kind: str, **values: float) -> tuple[torch.Tensor, torch.Tensor, TrainingConfig]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(50, 3, generator=generator, dtype=torch.float64) * 3
    targets = (torch.rand(50, 3, generator=generator) < 0.3).double()
    return logits, targets, TrainingConfig.model_validate({"loss": kind, **values})


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_gradient_of_every_loss_equals_autograd(kind: str, label_smoothing: float) -> None:
    logits, targets, training = example(kind, label_smoothing=label_smoothing)
    settings = loss_settings(training, POS_WEIGHT.double())
    logits.requires_grad_()
    (expected,) = torch.autograd.grad(loss(logits, targets, settings).sum(), logits)
    torch.testing.assert_close(gradient_(logits.detach().clone(), targets, settings), expected)


@pytest.mark.parametrize("kind", LOSSES)
def test_gradient_of_stacked_slots_equals_that_of_each_slot(kind: str) -> None:
    logits, targets, _ = example(kind)
    trainings = [
        TrainingConfig.model_validate(
            {
                "loss": kind,
                "label_smoothing": smoothing,
                "focal_gamma": gamma,
                "asymmetric_gamma_neg": gamma,
                "pos_weight_cap": cap,
            }
        )
        for smoothing, gamma, cap in [(0.0, 1.0, 2.0), (0.1, 2.5, 10.0), (0.3, 4.0, 50.0)]
    ]
    slots = [loss_settings(training, POS_WEIGHT.double()) for training in trainings]
    stacked = gradient_(logits.T.repeat(3, 1, 1), targets.T, stack_settings(slots))
    for k, settings in enumerate(slots):
        torch.testing.assert_close(stacked[k].T, gradient_(logits.clone(), targets, settings))


def test_loss_bce_equals_pytorch() -> None:
    logits, targets, training = example("bce")
    ours = loss(logits, targets, loss_settings(training, POS_WEIGHT))
    expected = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    torch.testing.assert_close(ours, expected)


def test_loss_weighted_bce_equals_pytorch_with_capped_pos_weight() -> None:
    logits, targets, training = example("weighted_bce", pos_weight_cap=10.0)
    ours = loss(logits, targets, loss_settings(training, POS_WEIGHT.double()))
    expected = functional.binary_cross_entropy_with_logits(
        logits,
        targets,
        reduction="none",
        pos_weight=torch.tensor([1.0, 4.0, 10.0], dtype=torch.float64),
    )
    torch.testing.assert_close(ours, expected)


def test_loss_focal_without_focus_is_half_of_bce() -> None:
    logits, targets, training = example("focal", focal_gamma=0.0, focal_alpha=0.5)
    ours = loss(logits, targets, loss_settings(training, POS_WEIGHT))
    expected = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    torch.testing.assert_close(ours, expected / 2)


def test_gradient_asymmetric_of_easy_negatives_is_zero() -> None:
    _, _, training = example("asymmetric")
    easy = torch.tensor([[-4.0, -4.0, -4.0]])
    settings = loss_settings(training, POS_WEIGHT)
    assert gradient_(easy.clone(), torch.zeros(1, 3), settings).abs().max() == 0
    assert gradient_(easy.clone(), torch.ones(1, 3), settings).abs().min() > 0
