"""A linear head of low rank: the labels share a few directions of the features."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from headsweep.config.head_section import HeadConfig
from headsweep.heads.base import HeadShape, LabelHead


class BottleneckConfig(HeadConfig):
    """Its keys are `head.rank` and `head.bias`; a study may search both."""

    kind: Literal["bottleneck"] = "bottleneck"
    rank: Annotated[int, Field(gt=0)] = 8
    bias: bool = True


class BottleneckHead(LabelHead):
    """Two linear maps without anything between them."""

    config_type = BottleneckConfig

    def __init__(self, config: BottleneckConfig, shape: HeadShape) -> None:
        super().__init__(shape)
        self.down = nn.Linear(shape.input_width, config.rank, bias=False)
        self.up = nn.Linear(config.rank, shape.n_labels, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(n, c)` of inputs `(n, d)`."""
        logits: Tensor = self.up(self.down(x))
        return logits
