"""A trained head with its input normalisation: raw features in, label probabilities out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from headsweep.arguments import finite_matrix, refuse_no_mapping, refuse_no_path
from headsweep.atomic_files import write_bytes
from headsweep.config.data_sections import Normalization
from headsweep.config.fingerprints import without_added_defaults
from headsweep.config.head_section import HeadConfig, head_config_type
from headsweep.config.inputs import BUILT_IN, Modality
from headsweep.config.messages import nearest
from headsweep.errors import FeatureError
from headsweep.heads.base import Head, HeadShape
from headsweep.heads.ensemble import EnsembleConfig, EnsembleHead, joint_shape
from headsweep.heads.normalization import Normalizer
from headsweep.heads.registry import rebuild_head
from headsweep.heads.retrieval import RetrievalHead
from headsweep.json_text import parse_json


@dataclass(frozen=True)
class PredictorSpec:
    """What it takes to build a predictor before its tensors are loaded."""

    head: HeadConfig
    shape: HeadShape
    normalization: Normalization
    labels: tuple[str, ...]


HEAD = "head."
"""Prefix of the head's tensors in the file of a predictor."""
MEMBERS = "members"
"""Key of the members in the metadata of an ensemble."""
MODEL = "model.safetensors"
"""Name of the file of a predictor in its folder."""


def _module_name(name: str) -> str:
    """Return the name of an input's normalizer; a module's own attributes are never that."""
    return name if name in BUILT_IN else f"input_{name}"


class Predictor(nn.Module):
    """A normalizer for each input, then the head.

    `predict_proba` takes and gives NumPy arrays; a call of the module takes and gives tensors.
    """

    def __init__(
        self, spec: PredictorSpec, normalizers: Mapping[str, Normalizer], head: Head
    ) -> None:
        super().__init__()
        self.spec = spec
        self.normalizers = nn.ModuleDict(
            {_module_name(name): normalizers[name] for name in spec.shape.widths}
        )
        self.head = head
        self.eval()

    def views(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return normalised features `(n, d)` of raw features `(n, d)`, by name of the input.

        Raises:
            FeatureError: an input is missing, is not finite, or has another width than in training.
        """
        views: dict[str, Tensor] = {}
        for name, width in self.spec.shape.widths.items():
            self._refuse_missing(name, features)
            if features[name].shape[1] != width:
                raise FeatureError(
                    f"{name} features must be {width} wide as in training, "
                    f"found {features[name].shape[1]}"
                )
            views[name] = self.normalizers[_module_name(name)](features[name])
        return views

    def _refuse_missing(self, name: str, features: Mapping[str, Any]) -> None:
        if name not in features:
            given = [other for other in features if other not in self.inputs]
            found = f"only {', '.join(map(repr, given))}" if given else "none"
            hint = nearest(name, given)
            raise FeatureError(
                f"the head reads {name} features, found {found}{'.' if hint else ''}{hint}"
            )

    def _tensors(self, features: Mapping[str, NDArray[np.floating]]) -> dict[str, Tensor]:
        refuse_no_mapping("features", features, "{'visual': array}", FeatureError)
        tensors = {}
        for name in self.inputs:
            self._refuse_missing(name, features)
            matrix = finite_matrix(f"features[{name!r}]", features[name], FeatureError)
            tensors[name] = torch.from_numpy(matrix.copy())  # the caller's may be read-only
        return tensors

    @property
    def inputs(self) -> dict[str, int]:
        """Inputs that the head reads: the width of the features by name."""
        return dict(self.spec.shape.widths)

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in the order of the columns of every result."""
        return self.spec.labels

    @property
    def retrieves(self) -> bool:
        """Whether the head, or every head of an ensemble, projects both modalities."""
        if isinstance(self.head, EnsembleHead):
            return all(member.retrieves for member in self.head.predictors)
        return isinstance(self.head, RetrievalHead)

    def predict_proba(self, features: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float64]:
        """Compute label probabilities in float64.

        Args:
            features: raw features `(n, d)` by name of the input, as in `inputs`.

        Returns:
            Probabilities `(n, c)`, columns in the order of `labels`.

        Raises:
            FeatureError: an input is missing, is not finite, or has another width than in training.
        """
        return self.probabilities_of(self._tensors(features))

    @torch.inference_mode()
    def probabilities_of(self, features: Mapping[str, Tensor]) -> NDArray[np.float64]:
        """Compute label probabilities `(n, c)` in float64 from raw features as tensors.

        Returns:
            The sigmoid of the logits in float64, or the head's own probabilities.
        """
        views = self.views(features)
        logits = self.head.logits(views)
        if logits is not None:
            return np.asarray(scipy.special.expit(logits.cpu().numpy().astype(np.float64)))
        return np.asarray(self.head.probabilities(views).cpu().numpy(), dtype=np.float64)

    @torch.inference_mode()
    def decision_function(
        self, features: Mapping[str, NDArray[np.floating]]
    ) -> NDArray[np.float32] | None:
        """Compute label logits, whose order is exact where probabilities are rounded to 1.

        Args:
            features: raw features `(n, d)` by name of the input, as in `inputs`.

        Returns:
            Logits `(n, c)`; None for a retrieval head, whose scores are probabilities already.

        Raises:
            FeatureError: an input is missing, is not finite, or has another width than in training.
        """
        logits = self.head.logits(self.views(self._tensors(features)))
        return None if logits is None else np.asarray(logits.cpu().numpy(), dtype=np.float32)

    @torch.inference_mode()
    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return label probabilities `(n, c)` of raw features `(n, d)`."""
        return self.head.probabilities(self.views(features))

    @torch.inference_mode()
    def project(self, features: Mapping[str, Tensor]) -> dict[Modality, Tensor]:
        """Return unit embeddings `(n, dim)` by modality; only a retrieval head has them."""
        if isinstance(self.head, EnsembleHead):
            return self.head.project(features)
        assert isinstance(self.head, RetrievalHead)
        return self.head.project(self.head.by_modality(self.views(features)))


def ensemble_of(members: Sequence[Predictor], weights: Sequence[float]) -> Predictor:
    """Join predictors of the same labels into one that averages their scores.

    Args:
        members: each with its own normalisation.
        weights: of the members; they add up to 1.

    Returns:
        The ensemble: logits are averaged, or probabilities if a member has no logits.

    Raises:
        ValueError: the members differ in labels, or in the width of a feature.
    """
    shape = joint_shape([one.spec.shape for one in members])
    if len({one.labels for one in members}) > 1:
        raise ValueError("members of an ensemble must have the same labels in the same order")
    spec = PredictorSpec(EnsembleConfig(), shape, "none", members[0].labels)
    normalizers = {name: Normalizer("none", width) for name, width in shape.widths.items()}
    return Predictor(spec, normalizers, EnsembleHead(members, weights))


def save_predictor(predictor: Predictor, path: Path) -> None:
    """Write tensors and, as metadata, the spec to one safetensors file."""
    # Members of an ensemble may share a normalizer; a file holds every tensor for itself.
    state = predictor.state_dict()
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in state.items()}
    metadata = _metadata(predictor)
    write_bytes(path, safetensors.torch.save(tensors, {"headsweep": json.dumps(metadata)}))


def _head_metadata(head: HeadConfig) -> dict[str, Any]:
    """Return a head's config as plain data, without keys at defaults that were added later.

    So the files of heads that do not use them stay readable by earlier versions.
    """
    plain = {"head": head.model_dump(mode="json")}
    metadata: dict[str, Any] = without_added_defaults(plain)["head"]
    return metadata


def load_predictor(path: Path | str) -> Predictor:
    """Load the predictor that `save_predictor` wrote, on the CPU.

    Args:
        path: its file, or the folder that holds it as `model.safetensors`.

    Returns:
        The predictor, ready to use; of an ensemble, all members as one predictor.

    Raises:
        FeatureError: the file is no predictor of headsweep.
    """
    refuse_no_path("path", path, FeatureError)
    path = Path(path)
    if path.is_dir():
        path = path / MODEL
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = parse_json((file.metadata() or {})["headsweep"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        predictor = _restored(metadata, tensors)
    except Exception as error:  # untrusted metadata may break any step above
        raise FeatureError(
            f"{path}: a model must be a safetensors file written by headsweep, found {error}"
        ) from None
    return predictor


def _metadata(predictor: Predictor) -> dict[str, Any]:
    if isinstance(head := predictor.head, EnsembleHead):
        members = [_metadata(member) for member in head.predictors]
        return {MEMBERS: members, "weights": list(head.weights), "labels": list(predictor.labels)}
    spec = predictor.spec
    return {
        "head": _head_metadata(spec.head),
        "widths": dict(spec.shape.widths),
        "input": spec.shape.input,
        "normalization": spec.normalization,
        "labels": list(spec.labels),
        **({"modalities": dict(spec.shape.modalities)} if spec.shape.modalities else {}),
    }


def _restored(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Predictor:
    return _ensemble(metadata, tensors) if MEMBERS in metadata else _single(metadata, tensors)


def _single(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Predictor:
    """Return the predictor of one head."""
    head = head_config_type(metadata["head"]["kind"]).model_validate_json(
        json.dumps(metadata["head"])
    )
    widths: dict[str, int] = metadata["widths"]
    modalities: dict[str, Modality] = metadata.get("modalities", {})
    shape = HeadShape(widths, metadata["input"], len(metadata["labels"]), modalities)
    spec = PredictorSpec(head, shape, metadata["normalization"], tuple(metadata["labels"]))
    normalizers = {m: Normalizer(spec.normalization, w) for m, w in widths.items()}
    weights = {n.removeprefix(HEAD): t for n, t in tensors.items() if n.startswith(HEAD)}
    predictor = Predictor(spec, normalizers, rebuild_head(head, shape, weights))
    predictor.load_state_dict(dict(tensors))
    return predictor


def _ensemble(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Predictor:
    """Return the predictor of an ensemble, whose members may be ensembles: means of fold heads.

    Raises:
        ValueError: there are not as many weights between 0 and 1 as members.
    """
    members = []
    for i, member in enumerate(metadata[MEMBERS]):
        prefix = f"{HEAD}members.{i}."
        own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        members.append(_restored(member, own))
    weights = [float(weight) for weight in metadata["weights"]]
    if len(weights) != len(members) or not all(0 <= weight <= 1 for weight in weights):
        raise ValueError(f"weights {weights} of {len(members)} members")
    return ensemble_of(members, weights)
