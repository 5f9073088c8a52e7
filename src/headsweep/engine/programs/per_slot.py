"""Programs that train their slots one after another on the shared minibatch.

On a CPU a stack of wide heads falls out of the cache, so wide heads are trained slot by slot at
their true shapes: slots of any depth and width share a group, nothing is padded, and a slot's
numbers are the same alone and among others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from headsweep.engine.inputs import Inputs, Variant
from headsweep.engine.numerics.optimizers import make_optimizer
from headsweep.engine.programs.base import GroupKey, Program, by_batch_size, minibatches
from headsweep.engine.slots import Slot
from headsweep.heads.base import Head
from headsweep.heads.registry import build_head, rebuild_head

LARGEST_BY_COLUMNS = (128, 512)
"""Rows of a minibatch and units of a first layer, up to which weights are stored by columns.

Measured with MKL for 64 to 1,024 units, 512 features and batches of 64 to 512 rows: `x @ weight.T`
takes half the time at 64 units and three quarters at 512, and more time beyond.
"""

STRETCH = 8
"""Steps that a slot takes before the next one does; 1 is 3 % slower on MLPs, 32 no faster."""

Batch = TypeVar("Batch")
Trainer = TypeVar("Trainer", bound="SingleTrainer[Any]")


class SingleTrainer(ABC, Generic[Batch]):
    """One slot's weights, moments and best weights; subclasses compute gradients by hand.

    `params` are the head's own parameters, trained in place.
    """

    def __init__(self, slot: Slot, inputs: Inputs) -> None:
        config = slot.config
        self.slot = slot
        self.inputs = inputs
        self.variant = Variant.of(config)
        shape = inputs.shape(config)
        self.head: Head = build_head(config.head, shape, seed=config.training.seed).to(
            inputs.device
        )
        for weight in self.first_layers(self.head):
            _store_by_columns(weight, config.training.batch_size)
        self.params: list[Tensor] = [p.detach() for p in self.head.parameters()]
        self.grads: list[Tensor] = [torch.empty_like(p) for p in self.params]
        self.optimizer = make_optimizer(self.params, self.grads, config.training)
        self.best = {name: t.clone() for name, t in self.head.state_dict().items()}

    def train_batch(self, batch: Batch) -> None:
        """Take one optimizer step."""
        self.compute_gradients(batch)
        self.optimizer.clip()
        self.optimizer.step(self.slot.next_learning_rate(), self.slot.step)

    def weights(self) -> dict[str, Tensor]:
        """Return the tensors that training changes, by name, not copied."""
        return self.head.state_dict()

    def keep_best(self) -> None:
        """Copy the present weights."""
        for name, tensor in self.weights().items():
            self.best[name].copy_(tensor)

    def state(self) -> dict[str, Tensor]:
        """Return weights, best weights and moments, not copied."""
        weights = self.weights()
        best = {f"best.{name}": self.best[name] for name in weights}
        return {**weights, **best, **self.optimizer.moments()}

    def best_head(self) -> Head:
        """Return a new head on the CPU with the best weights."""
        config = self.slot.config
        return rebuild_head(config.head, self.inputs.shape(config), self.best)

    @staticmethod
    def first_layers(head: Head) -> Sequence[nn.Parameter]:
        """Return the weights whose only input are the features; none are known here."""
        return ()

    @abstractmethod
    def compute_gradients(self, batch: Batch) -> None:
        """Fill `grads` with the gradient of the mean loss over a minibatch."""

    @abstractmethod
    def validate(self) -> Tensor:
        """Return validation scores `(n_valid, c)` of the present weights, if possible logits."""


def _store_by_columns(weight: nn.Parameter, batch_size: int) -> None:
    """Lay a matrix out column by column where its products are faster then; no number changes."""
    most_rows, most_units = LARGEST_BY_COLUMNS
    if batch_size <= most_rows and len(weight) <= most_units:
        weight.data = weight.data.T.contiguous().T


class SlotwiseProgram(Program, Generic[Batch, Trainer]):
    """Prepares a minibatch once for all slots of its size, and trains each slot on it in turn."""

    def __init__(self, key: GroupKey, inputs: Inputs) -> None:
        super().__init__(key, inputs)
        self.members: dict[int, Trainer] = {}

    @abstractmethod
    def prepare_batch(self, rows: Tensor, tape_step: int, members: Sequence[Trainer]) -> Batch:
        """Return the part of a minibatch that `members`, the slots of one batch size, share."""

    @abstractmethod
    def trainer(self, slot: Slot) -> Trainer:
        """Return the trainer of a new slot."""

    def gather(self, rows: Tensor, members: Sequence[Trainer]) -> dict[Variant, Tensor]:
        """Return training inputs `(b, d)` in every variant that some of `members` read."""
        variants = dict.fromkeys(member.variant for member in members)
        return {v: self.inputs.matrix(v, valid=False).index_select(0, rows) for v in variants}

    def admit(self, slot: Slot) -> None:
        """Build the slot's head."""
        self.members[slot.number] = self.trainer(slot)

    def evict(self, slot: Slot) -> None:
        """Remove the slot's head."""
        del self.members[slot.number]

    def train_epoch(self, order: Tensor, position: int) -> None:
        """Train one batch size after another.

        Every slot in turn takes a few steps, during which its weights and moments stay in cache.
        """
        for slots in by_batch_size([member.slot for member in self.members.values()]).values():
            members = [self.members[slot.number] for slot in slots]
            rows_of = minibatches(slots[0], order)
            first = position * slots[0].steps_per_epoch + slots[0].taken
            for start in range(0, len(rows_of), STRETCH):
                batches = [
                    self.prepare_batch(rows.to(self.inputs.device), first + step, members)
                    for step, rows in enumerate(rows_of[start : start + STRETCH], start)
                ]
                for member in members:
                    for batch in batches:
                        member.train_batch(batch)

    def validate(self) -> tuple[list[Slot], Tensor]:
        """Validate every slot in turn.

        Returns:
            The slots and their scores `(K, c, n_valid)`.
        """
        members = list(self.members.values())
        scores = torch.stack([member.validate().T for member in members])
        return [member.slot for member in members], scores

    def probabilities(self, scores: Tensor) -> Tensor:
        """Return the sigmoid of logits, computed row by row as in a head."""
        return torch.stack([logits.T.contiguous().sigmoid_().T for logits in scores])

    def keep_best(self, slot: Slot) -> None:
        """Copy the slot's weights."""
        self.members[slot.number].keep_best()

    def state(self, slot: Slot) -> dict[str, Tensor]:
        """Return the slot's weights, best weights and moments."""
        return self.members[slot.number].state()

    def best_head(self, slot: Slot) -> Head:
        """Return the slot's head with its best weights."""
        return self.members[slot.number].best_head()
