"""A trained head with its input normalisation: raw features in, label probabilities out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor, nn

from headsweep.atomic_files import write_bytes
from headsweep.config.schema import (
    FeatureInput,
    HeadConfig,
    Modality,
    Normalization,
    head_config_type,
)
from headsweep.errors import FeatureError
from headsweep.heads.base import Head, HeadShape
from headsweep.heads.normalization import Normalizer
from headsweep.heads.registry import rebuild_head
from headsweep.heads.retrieval import RetrievalHead


@dataclass(frozen=True)
class PredictorSpec:
    """What it takes to build a predictor before its tensors are loaded."""

    head: HeadConfig
    shape: HeadShape
    normalization: Normalization
    labels: tuple[str, ...]


HEAD = "head."
"""Prefix of the head's tensors in the file of a predictor."""
MODEL = "model.safetensors"
"""Name of the file of a predictor in its folder."""


class Predictor(nn.Module):
    """Normalizers by modality, then the head.

    `predict_proba` takes and gives NumPy arrays; a call of the module takes and gives tensors.
    """

    def __init__(
        self, spec: PredictorSpec, normalizers: Mapping[Modality, Normalizer], head: Head
    ) -> None:
        super().__init__()
        self.spec = spec
        self.normalizers = nn.ModuleDict({name: normalizers[name] for name in spec.shape.widths})
        self.head = head
        self.eval()

    def views(self, features: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
        """Return normalised features `(n, d)` of raw features `(n, d)`, by modality.

        Raises:
            FeatureError: a modality is missing, or has another width than in training.
        """
        views: dict[Modality, Tensor] = {}
        for modality, width in self.spec.shape.widths.items():
            if modality not in features:
                raise FeatureError(f"the head reads {modality} features, found none")
            if features[modality].shape[1] != width:
                raise FeatureError(
                    f"{modality} features must be {width} wide as in training, "
                    f"found {features[modality].shape[1]}"
                )
            views[modality] = self.normalizers[modality](features[modality])
        return views

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in the order of the columns of every result."""
        return self.spec.labels

    @property
    def retrieves(self) -> bool:
        """Whether the head projects both modalities into one space."""
        return isinstance(self.head, RetrievalHead)

    def predict_proba(
        self, features: Mapping[Modality, NDArray[np.floating]]
    ) -> NDArray[np.float64]:
        """Compute label probabilities in float64.

        Args:
            features: raw features `(n, d)` by modality, as the head was trained on.

        Returns:
            Probabilities `(n, c)`, columns in the order of `labels`.

        Raises:
            FeatureError: a modality is missing, or has another width than in training.
        """
        logits = self.decision_function(features)
        if logits is not None:
            return np.asarray(expit(logits.astype(np.float64)))
        return np.asarray(self(_tensors(features)).cpu().numpy(), dtype=np.float64)

    @torch.inference_mode()
    def decision_function(
        self, features: Mapping[Modality, NDArray[np.floating]]
    ) -> NDArray[np.float32] | None:
        """Compute label logits, whose order is exact where probabilities are rounded to 1.

        Args:
            features: raw features `(n, d)` by modality, as the head was trained on.

        Returns:
            Logits `(n, c)`; None for a retrieval head, whose scores are probabilities already.

        Raises:
            FeatureError: a modality is missing, or has another width than in training.
        """
        logits = self.head.logits(self.views(_tensors(features)))
        return None if logits is None else np.asarray(logits.cpu().numpy(), dtype=np.float32)

    @torch.inference_mode()
    def forward(self, features: Mapping[Modality, Tensor]) -> Tensor:
        """Return label probabilities `(n, c)` of raw features `(n, d)`."""
        return self.head.probabilities(self.views(features))

    @torch.inference_mode()
    def project(self, features: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
        """Return unit embeddings `(n, dim)` by modality; only a retrieval head has them."""
        assert isinstance(self.head, RetrievalHead)
        return self.head.project(self.views(features))


class MeanPredictor(Predictor):
    """The mean of heads of one kind: of their logits, or of probabilities where they have none.

    Each member keeps its own normalizers.
    """

    def __init__(self, members: Sequence[Predictor]) -> None:
        nn.Module.__init__(self)
        self.spec = members[0].spec
        self.members = nn.ModuleList(members)
        self.eval()

    @property
    def retrieves(self) -> bool:
        """Whether the members are retrieval heads."""
        return self.predictors[0].retrieves

    @property
    def predictors(self) -> tuple[Predictor, ...]:
        """The members."""
        return tuple(member for member in self.members if isinstance(member, Predictor))

    @torch.inference_mode()
    def decision_function(
        self, features: Mapping[Modality, NDArray[np.floating]]
    ) -> NDArray[np.float32] | None:
        """Compute the mean of the members' label logits; see `Predictor.decision_function`.

        Returns:
            Logits `(n, c)`; None for retrieval heads.
        """
        logits = self._mean_logits(_tensors(features))
        return None if logits is None else np.asarray(logits.cpu().numpy(), dtype=np.float32)

    @torch.inference_mode()
    def forward(self, features: Mapping[Modality, Tensor]) -> Tensor:
        """Return label probabilities `(n, c)` of raw features `(n, d)`."""
        logits = self._mean_logits(features)
        if logits is not None:
            return logits.sigmoid()
        return torch.stack([member(features) for member in self.predictors]).mean(dim=0)

    @torch.inference_mode()
    def project(self, features: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
        """Return unit embeddings by modality, whose products are the means of the members'."""
        parts = [member.project(features) for member in self.predictors]
        scale = len(parts) ** -0.5
        return {m: torch.cat([part[m] for part in parts], dim=1) * scale for m in parts[0]}

    def _mean_logits(self, features: Mapping[Modality, Tensor]) -> Tensor | None:
        logits = [member.head.logits(member.views(features)) for member in self.predictors]
        defined = [one for one in logits if one is not None]
        return torch.stack(defined).mean(dim=0) if defined else None


def save_predictor(predictor: Predictor, path: Path) -> None:
    """Write tensors and, as metadata, the spec to one safetensors file."""
    spec = predictor.spec
    metadata = {
        "head": spec.head.model_dump(mode="json"),
        "widths": dict(spec.shape.widths),
        "input": spec.shape.input,
        "normalization": spec.normalization,
        "labels": list(spec.labels),
    }
    if isinstance(predictor, MeanPredictor):
        metadata["members"] = len(predictor.predictors)
    tensors = {name: t.detach().cpu().contiguous() for name, t in predictor.state_dict().items()}
    write_bytes(path, safetensors.torch.save(tensors, {"headsweep": json.dumps(metadata)}))


def load_predictor(path: Path | str) -> Predictor:
    """Load the predictor that `save_predictor` wrote, on the CPU.

    Args:
        path: its file, or the folder that holds it as `model.safetensors`.

    Returns:
        The predictor, ready to use.

    Raises:
        FeatureError: the file is no predictor of headsweep.
    """
    path = Path(path)
    if path.is_dir():
        path = path / MODEL
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})["headsweep"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        head = head_config_type(metadata["head"]["kind"]).model_validate_json(
            json.dumps(metadata["head"])
        )
        widths: dict[Modality, int] = metadata["widths"]
        feature_input: FeatureInput = metadata["input"]
        shape = HeadShape(widths, feature_input, len(metadata["labels"]))
        spec = PredictorSpec(head, shape, metadata["normalization"], tuple(metadata["labels"]))
        if "members" not in metadata:
            return _restored(spec, tensors)
        prefixes = [f"members.{k}." for k in range(metadata["members"])]
        predictor = MeanPredictor([_restored(spec, _below(tensors, p)) for p in prefixes])
        predictor.load_state_dict(tensors)
        return predictor
    except Exception as error:  # untrusted metadata may break any step above
        raise FeatureError(
            f"{path}: a model must be a safetensors file written by headsweep, found {error}"
        ) from None


def _restored(spec: PredictorSpec, tensors: Mapping[str, Tensor]) -> Predictor:
    """Build a predictor of one head from its tensors.

    Returns:
        The predictor.
    """
    normalizers = {m: Normalizer(spec.normalization, w) for m, w in spec.shape.widths.items()}
    predictor = Predictor(
        spec, normalizers, rebuild_head(spec.head, spec.shape, _below(tensors, HEAD))
    )
    predictor.load_state_dict(tensors)
    return predictor


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _tensors(features: Mapping[Modality, NDArray[np.floating]]) -> dict[Modality, Tensor]:
    return {
        modality: torch.from_numpy(np.array(matrix, dtype=np.float32))
        for modality, matrix in features.items()
    }
