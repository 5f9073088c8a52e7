"""What a group asks of the program that trains its slots."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from headsweep.config.schema import Precision
from headsweep.engine.inputs import Inputs, Variant
from headsweep.engine.slots import Slot
from headsweep.heads.base import Head


@dataclass(frozen=True)
class GroupKey:
    """What cannot vary among slots that read one tape in one tensor program.

    `variant` is none where a program reads several of them side by side.
    """

    program: str
    variant: Variant | None
    batch_size: int
    seed: int
    precision: Precision


class Program(ABC):
    """Trains slots that share minibatches; a slot's numbers never depend on its neighbours."""

    one_variant: ClassVar[bool] = True
    """Whether all slots must read the features in one way."""

    def __init__(self, key: GroupKey, inputs: Inputs) -> None:
        self.key = key
        self.inputs = inputs

    def matrix(self, *, valid: bool) -> Tensor:
        """The input `(n, d)` that all slots read."""
        assert self.key.variant is not None
        return self.inputs.matrix(self.key.variant, valid=valid)

    @abstractmethod
    def admit(self, slot: Slot) -> None:
        """Give the slot freshly initialised weights and moments."""

    @abstractmethod
    def evict(self, slot: Slot) -> None:
        """Forget the slot."""

    @abstractmethod
    def train_epoch(self, minibatches: Sequence[Tensor], tape_step: int) -> None:
        """One optimiser step of every slot on each minibatch of training rows `(b,)`, in order.

        The rows lie on the CPU. `tape_step` counts minibatches from the tape's beginning to the
        first; dropout noise is keyed by it.
        """

    @abstractmethod
    def validate(self) -> tuple[list[Slot], Tensor]:
        """The slots, and their validation probabilities `(K, c, n_valid)` in the same order."""

    @abstractmethod
    def keep_best(self, slot: Slot) -> None:
        """Remember the slot's present weights as its best."""

    @abstractmethod
    def state(self, slot: Slot) -> dict[str, Tensor]:
        """The slot's live tensors by name: weights, moments and best weights.

        With the slot's clock and the tape's position they determine all that follows.
        """

    def restore(self, slot: Slot, state: Mapping[str, Tensor]) -> None:
        """Overwrite a slot's tensors with those that `state` gave."""
        for name, tensor in self.state(slot).items():
            tensor.copy_(state[name])

    @abstractmethod
    def best_head(self, slot: Slot) -> Head:
        """A plain module on the CPU with the slot's best weights."""
