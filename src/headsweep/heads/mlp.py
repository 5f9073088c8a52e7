"""The multi-layer perceptron."""

from __future__ import annotations

from torch import Tensor, nn

from headsweep.config.head_section import MLPConfig
from headsweep.heads.base import HeadShape, LabelHead

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
NORMS: dict[str, type[nn.Module]] = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d}


class MLPHead(LabelHead):
    """Hidden layers of linear, norm, activation and dropout, then a linear map to the logits."""

    config_type = MLPConfig

    def __init__(self, config: MLPConfig, shape: HeadShape) -> None:
        super().__init__(shape)
        self.hidden = nn.Sequential()
        width_in = shape.input_width
        for width in config.widths:
            self.hidden.append(nn.Linear(width_in, width))
            if config.norm != "none":
                self.hidden.append(NORMS[config.norm](width))
            self.hidden.append(ACTIVATIONS[config.activation]())
            if config.dropout > 0:
                self.hidden.append(nn.Dropout(config.dropout))
            width_in = width
        self.output = nn.Linear(width_in, shape.n_labels)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(n, c)` of inputs `(n, d)`."""
        logits: Tensor = self.output(self.hidden(x))
        return logits
