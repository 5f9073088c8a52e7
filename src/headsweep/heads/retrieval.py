"""The retrieval head: a linear projection for each modality into one space.

Labels are read off the nearest training rows (the gallery), weighted by similarity.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from headsweep.config.head_section import RetrievalConfig
from headsweep.config.inputs import Modality, input_names
from headsweep.heads.base import Head, HeadShape, join_named
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
        self.sides = shape.sides
        chosen = {shape.modality_of(name) for name in input_names(shape.input)}
        self.embedded: tuple[Modality, ...] = tuple(m for m in self.sides if m in chosen)
        self.projections = nn.ModuleDict(
            {
                modality: nn.Linear(sum(shape.widths[n] for n in names), config.dim, bias=False)
                for modality, names in self.sides.items()
            }
        )
        embedding_width = config.dim * len(self.embedded)
        self.register_buffer("gallery", torch.zeros(0, embedding_width))
        self.register_buffer("gallery_targets", torch.zeros(0, shape.n_labels))

    def by_modality(self, views: Mapping[str, Tensor]) -> dict[Modality, Tensor]:
        """Return the views of each modality side by side, `(n, d)`."""
        return {modality: join_named(views, names) for modality, names in self.sides.items()}

    def project(self, sides: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
        """Return unit vectors `(n, dim)` of every side; see `by_modality`."""
        return {
            modality: functional.normalize(self.projections[modality](side), dim=1)
            for modality, side in sides.items()
        }

    def embed(self, sides: Mapping[Modality, Tensor]) -> Tensor:
        """Return the unit vectors `(n, e)` of the chosen sides, by which neighbours are found."""
        projected = self.project({modality: sides[modality] for modality in self.embedded})
        if len(projected) == 1:
            return projected[self.embedded[0]]
        return functional.normalize(torch.cat(list(projected.values()), dim=1), dim=1)

    def set_gallery(self, sides: Mapping[Modality, Tensor], targets: Tensor) -> None:
        """Keep the embeddings of training rows `(m, d)` and their targets `(m, c)`.

        A target is NaN where it is not known.
        """
        self.gallery = self.embed(sides).detach()
        self.gallery_targets = targets.to(self.gallery)

    def probabilities(self, views: Mapping[str, Tensor]) -> Tensor:
        """Return labels `(n, c)` of the nearest gallery rows, weighted by similarity (softmax)."""
        return self.probabilities_of(self.by_modality(views))

    def probabilities_of(self, sides: Mapping[Modality, Tensor]) -> Tensor:
        """Return `probabilities` of views that are joined by modality."""
        return neighbour_probabilities(
            self.embed(sides),
            self.gallery,
            self.gallery_targets,
            neighbours=self.config.neighbours,
            temperature=self.config.neighbour_temperature,
        )
