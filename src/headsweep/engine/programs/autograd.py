"""Heads without a hand-written program, such as those of plug-ins: autograd on the module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headsweep.engine.inputs import Inputs, Variant
from headsweep.engine.numerics.dropout_noise import minibatch_key
from headsweep.engine.numerics.losses import loss, loss_settings
from headsweep.engine.programs.per_slot import SingleTrainer, SlotwiseProgram
from headsweep.engine.slots import Slot
from headsweep.errors import ConfigError
from headsweep.heads.base import LabelHead


@dataclass(frozen=True)
class AutogradBatch:
    """A minibatch: inputs `(b, d)`, targets `(b, c)`, and the seed of its random layers.

    `weights` are those of `Inputs.loss_weights`.
    """

    x: Mapping[Variant, Tensor]
    targets: Tensor
    weights: Tensor | None
    seed: int


class AutogradTrainer(SingleTrainer[AutogradBatch]):
    """One `LabelHead`, trained by autograd."""

    def __init__(self, slot: Slot, inputs: Inputs) -> None:
        super().__init__(slot, inputs)
        if not isinstance(self.head, LabelHead):
            raise ConfigError(
                f"{type(self.head).__name__} has no program of its own and is not a LabelHead"
            )
        self.x_valid = inputs.matrix(self.variant, valid=True)
        self.loss = loss_settings(slot.config.training, inputs.pos_weight)

    def compute_gradients(self, batch: AutogradBatch) -> None:
        """Run forward and backward by autograd, with random layers seeded by the minibatch."""
        self.head.train()
        devices = [self.inputs.device] if self.inputs.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            torch.manual_seed(batch.seed)
            logits = self.head(batch.x[self.variant])
            losses = loss(logits, batch.targets, self.loss)
            weights = batch.weights
            mean_loss = losses.mean() if weights is None else (losses * weights).sum()
            grads = torch.autograd.grad(mean_loss, list(self.head.parameters()))
        for kept, grad in zip(self.grads, grads, strict=True):
            kept.copy_(grad)

    def validate(self) -> Tensor:
        """Return logits `(n_valid, c)`."""
        self.head.eval()
        logits: Tensor = self.head(self.x_valid)
        return logits


class AutogradProgram(SlotwiseProgram[AutogradBatch, AutogradTrainer]):
    """Slots of any `LabelHead` on one tape."""

    def trainer(self, slot: Slot) -> AutogradTrainer:
        """Return an autograd trainer."""
        return AutogradTrainer(slot, self.inputs)

    def prepare_batch(
        self, rows: Tensor, tape_step: int, members: Sequence[AutogradTrainer]
    ) -> AutogradBatch:
        """Gather the rows and derive the seed of this minibatch.

        Returns:
            The minibatch.
        """
        return AutogradBatch(
            x=self.gather(rows, members),
            targets=self.inputs.targets.index_select(0, rows),
            weights=self.inputs.loss_weights(rows),
            seed=minibatch_key(self.key.seed, tape_step, 0),
        )
