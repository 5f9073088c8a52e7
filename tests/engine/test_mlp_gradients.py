"""The hand-written gradients of an MLP on a CPU, against autograd in float64."""

import itertools

import pytest
import torch
from torch import Tensor

from headsweep.config.schema import Config
from headsweep.data.dataset import Split
from headsweep.engine.groups import group_key
from headsweep.engine.inputs import Inputs
from headsweep.engine.numerics.losses import loss
from headsweep.engine.programs.mlp import LAYER_NORM_EPSILON, MLPBatch, MLPProgram, MLPTrainer
from headsweep.engine.slots import Slot
from headsweep.heads.mlp import ACTIVATIONS
from tests.helpers.splits import config

ROWS = torch.arange(40)


def tensors_of(batch: MLPBatch) -> list[Tensor]:
    return [*batch.x.values(), batch.targets, *batch.noise]


def trainer_of(one: Config, splits: tuple[Split, Split]) -> tuple[MLPProgram, MLPTrainer]:
    inputs = Inputs(*splits, torch.device("cpu"))
    program = MLPProgram(group_key(one, inputs), inputs)
    return program, program.trainer(Slot(0, one, len(ROWS), steps_per_epoch=3, max_epochs=4))


def gradients_by_autograd(trainer: MLPTrainer, batch: MLPBatch) -> list[Tensor]:
    params = [p.double().requires_grad_() for p in trainer.params]
    head, left = trainer.config, iter(params)
    a = batch.x[trainer.variant].double()
    for width, noise in zip(head.widths, batch.noise or [None] * 3, strict=False):
        a = torch.nn.functional.linear(a, next(left), next(left))
        if head.norm == "layer":
            a = torch.nn.functional.layer_norm(
                a, (width,), next(left), next(left), LAYER_NORM_EPSILON
            )
        a = ACTIVATIONS[head.activation]()(a)
        if noise is not None:
            a = a * (noise.view_as(a) > head.dropout) / (1 - head.dropout)
    logits = torch.nn.functional.linear(a, next(left), next(left))
    mean = loss(logits, batch.targets.double(), trainer.loss).mean()
    return list(torch.autograd.grad(mean, params))


@pytest.mark.parametrize(
    ("activation", "norm", "dropout"),
    list(itertools.product(ACTIVATIONS, ["none", "layer"], [0.0, 0.4])),
)
def test_compute_gradients_equals_autograd_and_leaves_the_shared_batch_as_it_was(
    activation: str, norm: str, dropout: float, splits: tuple[Split, Split]
) -> None:
    one = config(
        *("head=mlp", "head.width=16", "head.depth=3", f"head.activation={activation}"),
        *(f"head.norm={norm}", f"head.dropout={dropout}", "features.normalization=zscore"),
    )
    program, trainer = trainer_of(one, splits)
    batch = program.prepare_batch(ROWS, tape_step=5, members=[trainer])
    before = [tensor.clone() for tensor in tensors_of(batch)]
    trainer.compute_gradients(batch)
    expected = gradients_by_autograd(trainer, batch)
    assert len(expected) == len(trainer.grads)
    for grad, exact in zip(trainer.grads, expected, strict=True):
        torch.testing.assert_close(grad.double(), exact, rtol=1e-4, atol=1e-6)
    for tensor, unchanged in zip(tensors_of(batch), before, strict=True):
        assert tensor.equal(unchanged)
    first = [grad.clone() for grad in trainer.grads]
    trainer.compute_gradients(batch)
    assert all(again.equal(grad) for again, grad in zip(trainer.grads, first, strict=True))
