"""The retrieval head: a linear projection for each modality into one space.

Labels are read off the nearest training rows (the gallery), weighted by similarity.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from headsweep.config.schema import Modality, RetrievalConfig
from headsweep.heads.base import MODALITIES_OF, Head, HeadShape, join_views
from headsweep.heads.neighbours import neighbour_probabilities


class RetrievalHead(Head):
    """Projects views to unit vectors; scores labels by similarity-weighted nearest neighbours.

    `gallery` holds the training rows' embeddings `(m, e)` and `gallery_targets` their labels
    `(m, c)`, NaN where one is not known; both are empty until `set_gallery`.
    """

    config_type = RetrievalConfig

    gallery: Tensor
    gallery_targets: Tensor

    def __init__(self, config: RetrievalConfig, shape: HeadShape) -> None:
        super().__init__()
        self.config = config
        self.input = shape.input
        self.projections = nn.ModuleDict(
            {
                modality: nn.Linear(width, config.dim, bias=False)
                for modality, width in shape.widths.items()
            }
        )
        embedding_width = config.dim * (2 if shape.input == "both" else 1)
        self.register_buffer("gallery", torch.zeros(0, embedding_width))
        self.register_buffer("gallery_targets", torch.zeros(0, shape.n_labels))

    def project(self, views: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
        """Return unit vectors `(n, dim)` of every view."""
        return {
            modality: functional.normalize(self.projections[modality](view), dim=1)
            for modality, view in views.items()
        }

    def embed(self, views: Mapping[Modality, Tensor]) -> Tensor:
        """Return the unit vectors `(n, e)` of the chosen views, by which neighbours are found."""
        chosen = {modality: views[modality] for modality in MODALITIES_OF[self.input]}
        unit = join_views(self.project(chosen), self.input)
        return unit if len(chosen) == 1 else functional.normalize(unit, dim=1)

    def set_gallery(self, views: Mapping[Modality, Tensor], targets: Tensor) -> None:
        """Keep the embeddings of training views `(m, d)` and their targets `(m, c)`.

        A target is NaN where it is not known.
        """
        self.gallery = self.embed(views).detach()
        self.gallery_targets = targets.to(self.gallery)

    def probabilities(self, views: Mapping[Modality, Tensor]) -> Tensor:
        """Return labels `(n, c)` of the nearest gallery rows, weighted by similarity (softmax)."""
        return neighbour_probabilities(
            self.embed(views),
            self.gallery,
            self.gallery_targets,
            neighbours=self.config.neighbours,
            temperature=self.config.neighbour_temperature,
        )
