"""What every head is: a module from normalised views of a scan to label probabilities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from headsweep.config.head_section import HeadConfig
from headsweep.config.inputs import BUILT_IN, MODALITIES, Modality, input_names


@dataclass(frozen=True)
class HeadShape:
    """What a head must fit: its input and the number of labels.

    Attributes:
        widths: of the features, by the names of the inputs.
        input: value of `features.input`.
        n_labels: number of labels.
        modalities: of named inputs; `visual` and `text` need no entry.
    """

    widths: Mapping[str, int]
    input: str
    n_labels: int
    modalities: Mapping[str, Modality] = field(default_factory=dict)

    @property
    def input_width(self) -> int:
        """Width of the concatenated input."""
        return sum(self.widths[name] for name in input_names(self.input))

    def modality_of(self, name: str) -> Modality:
        """Return the modality of an input."""
        return BUILT_IN[name] if name in BUILT_IN else self.modalities[name]

    @property
    def sides(self) -> dict[Modality, tuple[str, ...]]:
        """Names of the inputs of each modality, visual ones first."""
        by_modality = {
            modality: tuple(name for name in self.widths if self.modality_of(name) == modality)
            for modality in MODALITIES
        }
        return {modality: names for modality, names in by_modality.items() if names}


def join_views(views: Mapping[str, Tensor], feature_input: str) -> Tensor:
    """Return the `(n, d)` input matrix: the views that `feature_input` names, side by side."""
    return join_named(views, input_names(feature_input))


def join_named(views: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Return the views of some inputs side by side, `(n, d)`."""
    chosen = [views[name] for name in names]
    return chosen[0] if len(chosen) == 1 else torch.cat(chosen, dim=1)


class Head(nn.Module, ABC):
    """A trainable map from views to label probabilities."""

    config_type: type[HeadConfig]

    @abstractmethod
    def probabilities(self, views: Mapping[str, Tensor]) -> Tensor:
        """Label probabilities `(n, c)` in [0, 1] from normalised views `(n, d)`."""

    def logits(self, views: Mapping[str, Tensor]) -> Tensor | None:
        """Return label logits `(n, c)`, which rank rows; None if the probabilities do."""
        return None


class LabelHead(Head):
    """A head that maps one input matrix to label logits; subclasses define `forward`.

    `forward` takes the `(n, d)` input and returns `(n, c)` logits.
    """

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.input = shape.input

    def logits(self, views: Mapping[str, Tensor]) -> Tensor:
        """Return label logits `(n, c)` of the joined views."""
        logits: Tensor = self(join_views(views, self.input))
        return logits

    def probabilities(self, views: Mapping[str, Tensor]) -> Tensor:
        """Return sigmoid of the logits, in their precision: exactly 1 above 16.7 in float32."""
        return torch.sigmoid(self.logits(views))
