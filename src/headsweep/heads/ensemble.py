"""An ensemble of trained heads as one head: the weighted mean of its members' scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from headsweep.config.head_section import HeadConfig
from headsweep.config.inputs import BUILT_IN, Modality, joined_input
from headsweep.heads.base import Head, HeadShape
from headsweep.metrics.ensemble_selection import weighted_mean

if TYPE_CHECKING:
    from headsweep.heads.predictor import Predictor


class EnsembleConfig(HeadConfig):
    """The head of an ensemble; it is selected, never trained, so no config can ask for it."""

    kind: Literal["ensemble"] = "ensemble"


class EnsembleHead(Head):
    """Averages the logits of its members; their probabilities if a member has no logits.

    `members` are predictors, each with its own normalisation, so the views are raw features.
    """

    config_type = EnsembleConfig

    def __init__(self, members: Sequence[Predictor], weights: Sequence[float]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.weights = tuple(weights)

    @property
    def predictors(self) -> Iterable[Predictor]:
        """The members."""
        return cast("Iterable[Predictor]", self.members)

    def logits(self, views: Mapping[str, Tensor]) -> Tensor | None:
        """Return the mean logits `(n, c)`; None if a member has none."""
        found = [one.head.logits(one.views(views)) for one in self.predictors]
        known = [logits.cpu().numpy() for logits in found if logits is not None]
        if len(known) < len(found):
            return None
        return torch.from_numpy(weighted_mean(known, self.weights).astype(np.float32))

    def probabilities(self, views: Mapping[str, Tensor]) -> Tensor:
        """Return label probabilities `(n, c)` in float64."""
        logits = self.logits(views)
        if logits is not None:
            return torch.sigmoid(logits.double())
        found = [one.probabilities_of(views) for one in self.predictors]
        return torch.from_numpy(weighted_mean(found, self.weights))

    def project(self, features: Mapping[str, Tensor]) -> dict[Modality, Tensor]:
        """Return unit embeddings of raw features, whose products are the members' weighted mean.

        All members must be retrieval heads.
        """
        parts = [member.project(features) for member in self.predictors]
        scales = [weight**0.5 for weight in self.weights]
        return {
            modality: torch.cat(
                [part[modality] * scale for part, scale in zip(parts, scales, strict=True)], dim=1
            )
            for modality in parts[0]
        }


def joint_shape(shapes: Sequence[HeadShape]) -> HeadShape:
    """Return the shape of heads that are used together: all features that any of them reads.

    Raises:
        ValueError: they differ in the width of a feature, or in the number of labels.
    """
    widths: dict[str, int] = {}
    modalities: dict[str, Modality] = {}
    for shape in shapes:
        modalities |= shape.modalities
        for name, width in shape.widths.items():
            if widths.setdefault(name, width) != width:
                raise ValueError(
                    f"members of an ensemble must read {name} features of one width, "
                    f"found {widths[name]} and {width}"
                )
    if len({shape.n_labels for shape in shapes}) > 1:
        raise ValueError("members of an ensemble must have the same labels")
    names = [name for name in (*BUILT_IN, *modalities) if name in widths]
    return HeadShape(
        {name: widths[name] for name in names},
        joined_input(names),
        shapes[0].n_labels,
        modalities,
    )
