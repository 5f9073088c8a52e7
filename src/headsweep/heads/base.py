"""What every head is: a module from normalised views of a scan to label probabilities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headsweep.config.schema import FeatureInput, HeadConfig, Modality

MODALITIES_OF: Mapping[FeatureInput, tuple[Modality, ...]] = {
    "visual": ("visual",),
    "text": ("text",),
    "both": ("visual", "text"),
}


@dataclass(frozen=True)
class HeadShape:
    """What a head must fit: feature widths by modality, its input, and the number of labels."""

    widths: Mapping[Modality, int]
    input: FeatureInput
    n_labels: int

    @property
    def input_width(self) -> int:
        """Width of the concatenated input."""
        return sum(self.widths[modality] for modality in MODALITIES_OF[self.input])


def join_views(views: Mapping[Modality, Tensor], feature_input: FeatureInput) -> Tensor:
    """Return the `(n, d)` input matrix: the views that `feature_input` names, side by side."""
    chosen: Sequence[Tensor] = [views[modality] for modality in MODALITIES_OF[feature_input]]
    return chosen[0] if len(chosen) == 1 else torch.cat(list(chosen), dim=1)


class Head(nn.Module, ABC):
    """A trainable map from views to label probabilities."""

    config_type: type[HeadConfig]

    @abstractmethod
    def probabilities(self, views: Mapping[Modality, Tensor]) -> Tensor:
        """Label probabilities `(n, c)` in [0, 1] from normalised views `(n, d)`."""

    def logits(self, views: Mapping[Modality, Tensor]) -> Tensor | None:
        """Return label logits `(n, c)`, which rank rows; None if the probabilities do."""
        return None


class LabelHead(Head):
    """A head that maps one input matrix to label logits; subclasses define `forward`.

    `forward` takes the `(n, d)` input and returns `(n, c)` logits.
    """

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.input: FeatureInput = shape.input

    def logits(self, views: Mapping[Modality, Tensor]) -> Tensor:
        """Return label logits `(n, c)` of the joined views."""
        logits: Tensor = self(join_views(views, self.input))
        return logits

    def probabilities(self, views: Mapping[Modality, Tensor]) -> Tensor:
        """Return sigmoid of the logits, in their precision: exactly 1 above 16.7 in float32."""
        return torch.sigmoid(self.logits(views))
