"""How well the two modalities of a scan find each other, raw or through a retrieval head."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from headsweep.cli import main
from headsweep.cli.preflight import check_manifests, check_output
from headsweep.config import Config, Modality
from headsweep.data.dataset import MODALITIES, Split, load_test_splits
from headsweep.errors import ConfigError
from headsweep.heads.predictor import Predictor, load_predictor
from headsweep.heads.retrieval import RetrievalHead
from headsweep.metrics.retrieval import INSTANCE_RECALL, instance_ranks, recall_at
from headsweep.settings import cache_dir

RECALL_AT = (1, 5, 10, 50, 100)

Views = Mapping[Modality, NDArray[np.float32]]


def align(
    config: Config, model: Path | None, out: Path, *, progress: bool
) -> dict[str, dict[str, Any]]:
    """Instance recall in both directions on every test manifest.

    Args:
        config: names the manifests and where features lie.
        model: a retrieval head's `model.safetensors`; None compares the features as they are.
        out: folder that gets `alignment.json`.
        progress: draw a progress bar while features are packed.

    Raises:
        InputError: the head, the data or the output folder cannot be used.
    """
    check_output(out)
    check_manifests(config)
    predictor = _retrieval_predictor(model) if model else None
    splits = load_test_splits(
        config, cache_dir=cache_dir(), modalities=MODALITIES, progress=progress
    )
    results = {split.name: _measure(split, _views(split, predictor)) for split in splits}
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=2) + "\n"
    (out / "alignment.json").write_text(text, encoding="utf-8")
    return results


def _retrieval_predictor(model: Path) -> Predictor:
    predictor = load_predictor(model)
    if not isinstance(predictor.head, RetrievalHead):
        raise ConfigError(
            f"{model}: only a retrieval head projects both modalities, "
            f"found a head of kind {predictor.spec.head.kind}"
        )
    return predictor


def _views(split: Split, predictor: Predictor | None) -> Views:
    """Unit vectors `(n, d)` of both modalities, in one space."""
    if predictor is not None:
        tensors = {m: torch.from_numpy(np.array(split.features[m])) for m in MODALITIES}
        return {m: view.numpy() for m, view in predictor.project(tensors).items()}
    widths = {m: split.features[m].shape[1] for m in MODALITIES}
    if len(set(widths.values())) > 1:
        raise ConfigError(
            f"{split.name}: features of both modalities must be equally wide to be compared as "
            f"they are, found {widths} (a retrieval head, --checkpoint, projects them)"
        )
    return {m: _unit(split.features[m]) for m in MODALITIES}


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return unit


def _measure(split: Split, views: Views) -> dict[str, Any]:
    result: dict[str, Any] = {"definition": INSTANCE_RECALL, "n_rows": len(split.volumes)}
    directions: tuple[tuple[Modality, Modality], ...] = (("visual", "text"), ("text", "visual"))
    for source, target in directions:
        ranks = instance_ranks(views[source], views[target], split.scans, split.reports)
        result[f"{source}_to_{target}"] = {f"recall@{k}": recall_at(ranks, k) for k in RECALL_AT}
    return result


if __name__ == "__main__":
    main(["align", *sys.argv[1:]])
