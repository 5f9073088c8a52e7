"""Features and labels of a study on the device, with one matrix for each normalization."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headsweep.config.data_sections import Normalization
from headsweep.config.inputs import BUILT_IN, input_names
from headsweep.config.schema import Config
from headsweep.data.dataset import Split, required_inputs
from headsweep.engine.numerics.precision import exact_products
from headsweep.errors import ConfigError, ManifestError
from headsweep.heads.base import HeadShape
from headsweep.heads.normalization import Normalizer, fit_normalizer
from headsweep.metrics.masking import BLANK, has_blanks, labelled_counts, positive_counts


@dataclass(frozen=True)
class Variant:
    """One way to read the features: which inputs, and how each is normalized."""

    input: str
    normalization: Normalization

    @classmethod
    def of(cls, config: Config) -> Variant:
        """Return the variant that a config chooses."""
        return cls(config.features.input, config.features.normalization)


class Inputs:
    """Train and valid splits on one device; normalized matrices are computed once.

    Attributes:
        targets: training labels `(n, c)`, float32; 0 where a label is blank.
        labelled: `(n, c)`, float32, 1 where a label is known and 0 where it is blank; None where
            no label is blank.
        pos_weight: negatives over positives of every label `(c,)`, of the rows that have it; 1
            where there is no positive.
        valid_targets: validation labels `(n_valid, c)`, on the host; `BLANK` where not known.
        ranks_logits: rank validation rows by logits; False ranks float32 probabilities, with ties
            from rounding, as earlier versions did.
    """

    def __init__(
        self, train: Split, valid: Split, device: torch.device, *, ranks_logits: bool = True
    ) -> None:
        self.train, self.valid, self.device = train, valid, device
        self.ranks_logits = ranks_logits
        self.labels = train.labels
        self.targets = torch.tensor(train.targets, dtype=torch.float32, device=device)
        self.labelled: Tensor | None = None
        rows: int | Tensor = len(self.targets)
        if has_blanks(train.targets):
            known = self.targets != BLANK
            self.targets *= known
            self.labelled = known.to(torch.float32)
            rows = self.labelled.sum(dim=0)
        self.valid_targets: NDArray[np.uint8] = valid.targets
        positives = self.targets.sum(dim=0)
        self.pos_weight = torch.where(
            positives > 0, (rows - positives) / positives.clamp_min(1), 1.0
        )
        self._normalizers: dict[tuple[str, Normalization], Normalizer] = {}
        self._views: dict[tuple[str, Normalization, bool], Tensor] = {}
        self._joined: dict[tuple[Variant, bool], Tensor] = {}
        self._refuse_undefined()

    @property
    def n_train(self) -> int:
        """Number of training rows."""
        return len(self.targets)

    def loss_weights(self, rows: Tensor) -> Tensor | None:
        """Return the weight `(b, c)` of every entry of a minibatch in its mean loss.

        The mean is over the entries that are labelled, of all labels together: one over their
        number, and 0 for blank ones. Without a labelled entry all weights are 0.

        Args:
            rows: of the minibatch `(b,)`.

        Returns:
            The weights; None where no label is blank, so that all weights are 1 / (b · c).
        """
        if self.labelled is None:
            return None
        known = self.labelled.index_select(0, rows)
        return known.div_(known.sum().clamp_min_(1))

    def shape(self, config: Config) -> HeadShape:
        """Return the shape that a head of this config must have.

        Raises:
            ConfigError: the head reads an input that the splits lack.
        """
        widths: dict[str, int] = {}
        for name in required_inputs(config):
            if name not in self.train.features:
                present = ", ".join(self.train.features) or "none"
                raise ConfigError(
                    f"features.input={config.features.input} of a {config.head.kind} head needs "
                    f"{name} features, but the data has {present}"
                )
            widths[name] = self.train.features[name].shape[1]
        modalities = {n: m for n, m in config.data.modalities.items() if n in widths}
        named = {name: m for name, m in modalities.items() if name not in BUILT_IN}
        return HeadShape(widths, config.features.input, len(self.labels), named)

    def normalizer(self, name: str, normalization: Normalization) -> Normalizer:
        """Return the normalizer of one input, fitted on train."""
        key = (name, normalization)
        if key not in self._normalizers:
            raw = torch.from_numpy(np.array(self.train.features[name]))
            with exact_products():
                self._normalizers[key] = fit_normalizer(normalization, raw)
        return self._normalizers[key]

    def view(self, name: str, normalization: Normalization, *, valid: bool) -> Tensor:
        """Return normalized features `(n, d)` of one input."""
        key = (name, normalization, valid)
        if key not in self._views:
            split = self.valid if valid else self.train
            raw = torch.from_numpy(np.array(split.features[name])).to(self.device)
            normalizer = copy.deepcopy(self.normalizer(name, normalization)).to(self.device)
            with exact_products():
                self._views[key] = normalizer(raw)
        return self._views[key]

    def matrix(self, variant: Variant, *, valid: bool) -> Tensor:
        """Return the `(n, d)` input of label heads: the chosen views side by side."""
        names = input_names(variant.input)
        if len(names) == 1:
            return self.view(names[0], variant.normalization, valid=valid)
        key = (variant, valid)
        if key not in self._joined:
            views = [self.view(name, variant.normalization, valid=valid) for name in names]
            self._joined[key] = torch.cat(views, dim=1)
        return self._joined[key]

    def _refuse_undefined(self) -> None:
        """Refuse validation rows on which no label can be measured.

        Raises:
            ManifestError: no label has both positives and negatives.
        """
        count = positive_counts(self.valid_targets)
        if not ((count > 0) & (count < labelled_counts(self.valid_targets))).any():
            raise ManifestError(
                f"{self.valid.name}: no label has both positives and negatives in its "
                f"{len(self.valid_targets)} rows; at least one must have"
            )
