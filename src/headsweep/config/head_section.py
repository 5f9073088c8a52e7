"""The section `head` of the config: one class for each kind of head."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal

from pydantic import Field

from headsweep.config.section import (
    Depth,
    Dropout,
    Fraction,
    PositiveFloat,
    Rows,
    Section,
    Width,
)
from headsweep.errors import ConfigError

HEAD_ENTRY_POINTS = "headsweep.heads"

Init = Literal["default", "normal", "zero"]


class HeadConfig(Section):
    """What every head has: its kind, the name under which the head is registered."""

    kind: str
    """Kind of head: `linear`, `mlp`, `retrieval`, or the name of a registered head."""


class LinearConfig(HeadConfig):
    """One linear map from the input to the label logits."""

    kind: Literal["linear"] = "linear"
    init: Init = "default"
    """Initial weights: PyTorch's (`default`), drawn with standard deviation 0.01 (`normal`), or 0
    (`zero`); the bias is 0 with the last two."""


class MLPConfig(HeadConfig):
    """Hidden layers (linear, norm, activation, dropout), then a linear map to the logits."""

    kind: Literal["mlp"] = "mlp"
    init: Init = "default"
    """Initial weights of the last layer, as in a linear head; hidden layers always have
    PyTorch's."""
    depth: Depth = 2
    """Number of hidden layers."""
    width: Width = 512
    """Width of every hidden layer."""
    hidden_dims: Annotated[tuple[Width, ...], Field(max_length=100)] | None = None
    """Widths of the hidden layers one by one, instead of `depth` and `width`."""
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    """Function after each hidden layer."""
    norm: Literal["none", "layer", "batch"] = "none"
    """Normalisation of each hidden layer, before its activation."""
    dropout: Dropout = 0.0
    """Share of the hidden units that are set to 0 in training, after each hidden layer."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the hidden layers; `hidden_dims` wins over `depth` and `width`."""
        return self.hidden_dims if self.hidden_dims is not None else (self.width,) * self.depth


class RetrievalConfig(HeadConfig):
    """A linear projection for each modality, trained by a contrastive loss.

    Label scores are the similarity-weighted labels of the nearest training rows.
    """

    kind: Literal["retrieval"] = "retrieval"
    dim: Width = 256
    """Width of the space into which both modalities are projected."""
    temperature: PositiveFloat = 0.07
    """Temperature of the contrastive loss."""
    neighbours: Rows = 30
    """Number of nearest training rows from which a row's label scores are computed."""
    neighbour_temperature: PositiveFloat = 0.07
    """Temperature of the softmax over similarities that weights those rows."""
    label_weight: Fraction = 0.5
    """Weight of the label loss: 0 trains on pairs alone (instance loss), 1 on labels alone."""
    gallery_rows: Rows | None = 8192
    """Training rows searched for neighbours: a seeded subset of this size, or all of them."""


BUILT_IN_HEADS: Mapping[str, type[HeadConfig]] = {
    "linear": LinearConfig,
    "mlp": MLPConfig,
    "retrieval": RetrievalConfig,
}


def head_config_type(kind: str) -> type[HeadConfig]:
    """Find the config class of a head kind, built in or registered by a plug-in.

    Returns:
        The class; a plug-in's is the `config_type` of its head.

    Raises:
        ConfigError: no head of that kind is known.
    """
    if kind in BUILT_IN_HEADS:
        return BUILT_IN_HEADS[kind]
    plugins = {entry.name: entry for entry in entry_points(group=HEAD_ENTRY_POINTS)}
    if kind in plugins:
        config_type: type[HeadConfig] = plugins[kind].load().config_type
        return config_type
    known = [*BUILT_IN_HEADS, *plugins]
    raise ConfigError(f"head.kind must be one of {', '.join(known)}, found {kind!r}")


def typed_head(value: Any) -> Any:
    """Return a mapping as the config class of its `kind`, and anything else unchanged."""
    if isinstance(value, Mapping):
        kind = value.get("kind", "linear")
        return head_config_type(str(kind)).model_validate_json(json.dumps(dict(value)))
    return value
