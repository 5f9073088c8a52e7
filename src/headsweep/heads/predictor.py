"""A trained head with its input normalisation: raw features in, label probabilities out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
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
from headsweep.heads.registry import build_head
from headsweep.heads.retrieval import RetrievalHead


@dataclass(frozen=True)
class PredictorSpec:
    """What it takes to build a predictor before its tensors are loaded."""

    head: HeadConfig
    shape: HeadShape
    normalization: Normalization
    labels: tuple[str, ...]


class Predictor(nn.Module):
    """Normalisers by modality, then the head."""

    def __init__(
        self, spec: PredictorSpec, normalizers: Mapping[Modality, Normalizer], head: Head
    ) -> None:
        super().__init__()
        self.spec = spec
        self.normalizers = nn.ModuleDict({name: normalizers[name] for name in spec.shape.widths})
        self.head = head
        self.eval()

    def views(self, features: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
        """Normalised features `(n, d)` of raw features `(n, d)`, by modality.

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

    @torch.inference_mode()
    def forward(self, features: Mapping[Modality, Tensor]) -> Tensor:
        """Label probabilities `(n, c)` of raw features `(n, d)`."""
        return self.head.probabilities(self.views(features))

    @torch.inference_mode()
    def project(self, features: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
        """Unit embeddings `(n, dim)` by modality; only a retrieval head has them."""
        assert isinstance(self.head, RetrievalHead)
        return self.head.project(self.views(features))


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
    tensors = {name: t.detach().cpu().contiguous() for name, t in predictor.state_dict().items()}
    write_bytes(path, safetensors.torch.save(tensors, {"headsweep": json.dumps(metadata)}))


def load_predictor(path: Path) -> Predictor:
    """The predictor that `save_predictor` wrote, on the CPU.

    Raises:
        FeatureError: the file is no predictor of headsweep.
    """
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
        normalizers = {m: Normalizer(spec.normalization, w) for m, w in widths.items()}
        predictor = Predictor(spec, normalizers, build_head(head, shape, seed=0))
        if isinstance(predictor.head, RetrievalHead):
            predictor.head.gallery = tensors["head.gallery"]
            predictor.head.gallery_targets = tensors["head.gallery_targets"]
        predictor.load_state_dict(tensors)
    except Exception as error:  # what a stranger's metadata hold may break any step above
        raise FeatureError(
            f"{path}: a model must be a safetensors file written by headsweep, found {error}"
        ) from None
    return predictor
