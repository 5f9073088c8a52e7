"""The interface between a group and the program that trains its slots."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headsweep.config.schema import Config
from headsweep.config.training_section import Precision
from headsweep.engine.inputs import Inputs
from headsweep.engine.slots import Slot
from headsweep.engine.tape import batch_bounds
from headsweep.heads.base import Head


@dataclass(frozen=True)
class GroupKey:
    """Values that all slots of one group share.

    `also` has further values that the program cannot mix, from `Program.cannot_mix`.
    """

    program: str
    seed: int
    precision: Precision
    also: tuple[Hashable, ...] = ()


class Program(ABC):
    """Trains the slots of one group, epoch by epoch of the tape.

    Slots may differ in everything that is not in the `GroupKey`, including input variant and
    batch size. A slot's results never depend on the other slots.
    """

    def __init__(self, key: GroupKey, inputs: Inputs) -> None:
        self.key = key
        self.inputs = inputs

    @classmethod
    def cannot_mix(cls, config: Config, inputs: Inputs) -> tuple[Hashable, ...]:
        """Return further values that the slots of one group must share; none by default."""
        return ()

    @abstractmethod
    def admit(self, slot: Slot) -> None:
        """Give the slot newly initialized weights and moments."""

    @abstractmethod
    def evict(self, slot: Slot) -> None:
        """Remove the slot."""

    @abstractmethod
    def train_epoch(self, order: Tensor, position: int) -> None:
        """Train every slot on the rest of its epoch.

        A slot takes consecutive minibatches of `slot.batch_size` rows of `order`
        (`tape.batch_bounds`), from its `slot.taken`-th one on. Dropout noise of the i-th
        minibatch of an epoch is determined by step `position * slot.steps_per_epoch + i`. Slots of
        one batch size have always taken equally many minibatches. When memory runs out, every
        slot's clock says which steps it has taken.

        Args:
            order: the epoch's permutation of the training rows `(n_train,)`, int64, on the CPU.
            position: the tape's position, counted in epochs.
        """

    @abstractmethod
    def validate(self) -> tuple[list[Slot], Tensor]:
        """Return the slots, and their validation scores `(K, c, n_valid)` in the same order.

        Slots are ranked by these scores. They are logits, unless the heads have none
        (`probabilities`).
        """

    def probabilities(self, scores: Tensor) -> Tensor:
        """Return the label probabilities of validation scores `(K, c, n_valid)` on the CPU.

        They are the sigmoid of logits, slot by slot: vector kernels compute the remainder of a
        tensor with other bits, and which slot that affects would depend on the other slots.
        """
        return torch.stack([logits.sigmoid() for logits in scores])

    def recall_at_10(self, slot: Slot, *, best: bool) -> float:
        """Return the recall@10 of text reports by their scans, of the present or best weights.

        Raises:
            TypeError: the heads do not project two views.
        """
        raise TypeError(f"a {slot.config.head.kind} head retrieves nothing")

    @abstractmethod
    def keep_best(self, slot: Slot) -> None:
        """Store the slot's present weights as its best."""

    @abstractmethod
    def state(self, slot: Slot) -> dict[str, Tensor]:
        """Return the slot's tensors by name, not copied: weights, moments and best weights.

        With the slot's clock and the tape's position they determine the rest of the training.
        """

    def restore(self, slot: Slot, state: Mapping[str, Tensor]) -> None:
        """Overwrite a slot's tensors with those that `state` returned."""
        for name, tensor in self.state(slot).items():
            tensor.copy_(state[name])

    @abstractmethod
    def best_head(self, slot: Slot) -> Head:
        """Return a plain module on the CPU with the slot's best weights."""

    def best_heads(self, slot: Slot) -> list[Head]:
        """Return all heads of the slot: one, or one for each fold of a cross-validated trial."""
        return [self.best_head(slot)]


def minibatches(slot: Slot, order: Tensor) -> list[Tensor]:
    """Return the minibatches `(b,)` of row indices that a slot still has to take in this epoch."""
    bounds = batch_bounds(len(order), slot.batch_size)
    return [order[start:end] for start, end in bounds[slot.taken :]]


def labelled_in_row(inputs: Inputs) -> Tensor | None:
    """Return the number of known labels of every training row `(n,)`, on the CPU.

    Returns:
        Whole numbers; None where no label is blank.
    """
    if inputs.labelled is None:
        return None
    return inputs.labelled.sum(dim=1).to("cpu", torch.int64)


def by_batch_size(slots: Sequence[Slot]) -> dict[int, list[Slot]]:
    """Return the slots by batch size."""
    batches: dict[int, list[Slot]] = {}
    for slot in slots:
        batches.setdefault(slot.batch_size, []).append(slot)
    return batches
