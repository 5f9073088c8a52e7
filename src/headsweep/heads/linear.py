"""The linear probe."""

from __future__ import annotations

from torch import Tensor, nn

from headsweep.config.head_section import LinearConfig
from headsweep.heads.base import HeadShape, LabelHead


class LinearHead(LabelHead):
    """One linear map from the input to the label logits."""

    config_type = LinearConfig

    def __init__(self, config: LinearConfig, shape: HeadShape) -> None:
        super().__init__(shape)
        self.output = nn.Linear(shape.input_width, shape.n_labels)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(n, c)` of inputs `(n, d)`."""
        logits: Tensor = self.output(x)
        return logits
