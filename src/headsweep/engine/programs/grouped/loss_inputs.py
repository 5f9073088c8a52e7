"""What the losses of grouped programs read besides logits: labels, and which of them are blank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from headsweep.engine.inputs import Inputs
from headsweep.engine.programs.base import labelled_in_row


@dataclass
class LossInputs:
    """Labels, which of them are blank, and weights of positives; shared by all lanes."""

    targets: Tensor
    """`(n, c)`."""
    labelled: Tensor
    """`(n, c)`, 0 where a label is blank; the targets where none is, which nobody then reads."""
    pos_weight: Tensor
    labelled_in_row: Tensor | None
    """Known labels of every row `(n,)`, on the CPU; None where no label is blank."""
    order: Tensor | None = None
    """The present epoch's permutation, on the CPU."""

    @classmethod
    def of(cls, inputs: Inputs) -> LossInputs:
        """Return what the losses of these inputs read."""
        labelled = inputs.targets if inputs.labelled is None else inputs.labelled
        return cls(inputs.targets, labelled, inputs.pos_weight, labelled_in_row(inputs))

    def labelled_in_order(self) -> NDArray[np.int64]:
        """Return the known labels of the rows in the order of the epoch."""
        assert self.labelled_in_row is not None
        assert self.order is not None
        counts: NDArray[np.int64] = self.labelled_in_row[self.order].numpy()
        return counts
