"""Measure how well the views of a scan retrieve each other, raw or through a retrieval head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from headsweep.atomic_files import write_json
from headsweep.config.inputs import BUILT_IN, MODALITIES, Modality, input_names
from headsweep.config.schema import Config
from headsweep.data.ct_rate.ct_clip import read_ctclip_latents
from headsweep.data.ct_rate.names import patient_of, scan_of
from headsweep.data.dataset import Dataset, Split
from headsweep.errors import ConfigError
from headsweep.evaluation.summaries import CONFIDENCE, N_RESAMPLES, RESAMPLING_SEED, finite
from headsweep.heads.predictor import Predictor, load_predictor
from headsweep.metrics.alignment import (
    RELEVANCES,
    REPORT_TO_VOLUME,
    VERSION,
    VOLUME_TO_VOLUME,
    Gallery,
    pair_similarity,
    report_to_volume,
    resampled_means,
    retrieve,
    volume_to_volume,
)
from headsweep.metrics.bootstrap import Multiplicities, patient_resamples
from headsweep.metrics.ranking import Metric
from headsweep.preflight import check_output, check_stems

PROTOCOLS = (*RELEVANCES, REPORT_TO_VOLUME, VOLUME_TO_VOLUME)
WITHOUT_LABELS = ("same_scan", REPORT_TO_VOLUME)
DIRECTIONS: tuple[tuple[Modality, Modality], ...] = (
    ("visual", "text"),
    ("text", "visual"),
    ("visual", "visual"),
)
MEANS = {"reciprocal_rank": "mrr", "average_precision": "map"}
"""Names of means over queries, where they differ from the name for one query."""

Views = Mapping[Modality, NDArray[np.float32]]


def align(
    config: Config,
    model: Path | None,
    out: Path,
    *,
    data: Dataset | None = None,
    protocols: Sequence[str] = PROTOCOLS,
    progress: bool,
) -> dict[str, dict[str, Any]]:
    """Measure retrieval by every protocol and in every direction on every test manifest.

    Means are over queries; intervals resample the queries' patients, the gallery stays as it is.

    Args:
        config: names the manifests and the folder of the features.
        model: a retrieval head's `model.safetensors`; None compares the raw features; manifests
            without text features are then searched within the visual ones.
        out: folder that gets `alignment.json`.
        data: the data set to search; None is what the config names.
        protocols: some of `PROTOCOLS`.
        progress: draw a progress bar while features are packed.

    Returns:
        The results by manifest, as `alignment.json` holds them.

    Raises:
        InputError: the head, the data or the output folder cannot be used.
    """
    check_stems(config)
    check_output(out)
    data = data or Dataset.from_config(config, progress=progress)
    if model is None:
        sides = _raw_sides(config)
        read = None if sides is BUILT_IN_SIDES else [n for names in sides.values() for n in names]
        splits = data.splits_alone(config, inputs=read)
        results = {s.name: _measure_split(s, _raw_views(s, sides), protocols) for s in splits}
    else:
        predictor = _retrieval_predictor(model)
        splits = data.test_splits(config, inputs=tuple(predictor.inputs))
        results = {s.name: _measure_split(s, _projected(s, predictor), protocols) for s in splits}
    _write(results, out)
    return results


def align_ctclip(
    folder: Path, out: Path, *, protocols: Sequence[str] = PROTOCOLS
) -> dict[str, dict[str, Any]]:
    """Measure retrieval among the latents that CT-CLIP's scripts wrote into a folder.

    Args:
        folder: holds `image_latents.npz`, `accessions.txt`, and may hold `text_latents.npz` and
            `labels_weights.npz`; without the latter, protocols that need labels are left out.
        out: folder that gets `alignment.json`.
        protocols: some of `PROTOCOLS`.

    Returns:
        The results, as `alignment.json` holds them.

    Raises:
        InputError: a file cannot be used, or the output folder cannot be written.
    """
    check_output(out)
    found = read_ctclip_latents(folder)
    patients = [patient_of(volume) for volume in found.volumes]
    scans = [scan_of(volume) for volume in found.volumes]
    targets = found.targets
    if targets is None:
        targets = np.zeros((len(scans), 1), dtype=np.uint8)
        protocols = [name for name in protocols if name in WITHOUT_LABELS]
    views = {modality: _unit(rows) for modality, rows in found.latents.items()}
    gallery = Gallery(scans, None, targets)
    results = {"ctclip": _measure(gallery, patients, views, protocols)}
    _write(results, out)
    return results


def _write(results: Mapping[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "alignment.json", results)


def _retrieval_predictor(model: Path) -> Predictor:
    predictor = load_predictor(model)
    if not predictor.retrieves:
        raise ConfigError(
            f"{model}: only a retrieval head projects both modalities, "
            f"found a head of kind {predictor.spec.head.kind}"
        )
    return predictor


def _projected(split: Split, predictor: Predictor) -> Views:
    """Return unit vectors `(n, dim)` of both modalities in the head's space."""
    tensors = {n: torch.from_numpy(np.array(split.features[n])) for n in predictor.inputs}
    return {m: view.numpy() for m, view in predictor.project(tensors).items()}


BUILT_IN_SIDES: Mapping[Modality, tuple[str, ...]] = {m: (m,) for m in MODALITIES}


def _raw_sides(config: Config) -> Mapping[Modality, tuple[str, ...]]:
    """Return the inputs that are compared, by modality: the named ones of `features.input`."""
    names = input_names(config.features.input)
    if set(names) <= BUILT_IN.keys():
        return BUILT_IN_SIDES
    modalities = config.data.modalities
    return {m: tuple(n for n in names if modalities[n] == m) for m in MODALITIES}


def _raw_views(split: Split, sides: Mapping[Modality, tuple[str, ...]]) -> Views:
    """Return the features of each modality side by side, as unit vectors `(n, d)`.

    Raises:
        ConfigError: the features of the modalities differ in width.
    """
    present = {m: [n for n in names if n in split.features] for m, names in sides.items()}
    matrices = {
        modality: np.concatenate([split.features[name] for name in names], axis=1)
        for modality, names in present.items()
        if names
    }
    widths = {modality: matrix.shape[1] for modality, matrix in matrices.items()}
    if len(set(widths.values())) > 1:
        raise ConfigError(
            f"{split.name}: raw features of different widths cannot be compared: {widths}. "
            "Pass a retrieval head with --checkpoint, which projects them"
        )
    return {modality: _unit(matrix) for modality, matrix in matrices.items()}


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return unit


def _measure_split(split: Split, views: Views, protocols: Sequence[str]) -> dict[str, Any]:
    present = (split.targets == 1).astype(np.uint8)  # a blank label is not known to be present
    gallery = Gallery(split.scans, split.reports, present)
    return _measure(gallery, split.patients, views, protocols)


def _measure(
    gallery: Gallery, patients: Sequence[str], views: Views, protocols: Sequence[str]
) -> dict[str, Any]:
    counts = patient_resamples(sorted(set(patients)), N_RESAMPLES, RESAMPLING_SEED)

    def summary(values: Mapping[str, Metric]) -> dict[str, Any]:
        return _summary(values, patients, counts)

    result: dict[str, Any] = {
        "n_rows": len(patients),
        "n_patients": counts.shape[1],
        "similarity": {},
        "protocols": {f"{name}/{VERSION}": {} for name in protocols},
    }
    for source, target in DIRECTIONS:
        if source not in views or target not in views:
            continue
        direction = f"{source}_to_{target}"
        queries, candidates = views[source], views[target]
        within = source == target
        if direction == "visual_to_text":
            pairs = pair_similarity(queries, candidates, gallery)
            result["similarity"][direction] = summary(pairs)
        asked = [name for name in RELEVANCES if name in protocols]
        found: dict[str, Mapping[str, Metric]] = {
            **retrieve(queries, candidates, gallery, asked, within=within)
        }
        if direction == "text_to_visual" and REPORT_TO_VOLUME in protocols:
            found[REPORT_TO_VOLUME] = report_to_volume(queries, candidates)
        if direction == "visual_to_visual" and VOLUME_TO_VOLUME in protocols:
            found[VOLUME_TO_VOLUME] = volume_to_volume(queries, gallery.targets)
        for name, values in found.items():
            result["protocols"][f"{name}/{VERSION}"][direction] = summary(values)
    return result


def _summary(
    values: Mapping[str, Metric], patients: Sequence[str], counts: Multiplicities
) -> dict[str, Any]:
    """Return mean over queries and percentile interval of each metric; null where none has it."""
    tail = (1 - CONFIDENCE) / 2
    draws = resampled_means(values, patients, counts)
    defined = np.isfinite(next(iter(values.values())))
    summary: dict[str, Any] = {"n_queries": int(defined.sum())}
    for name, value in values.items():
        drawn = draws[name][np.isfinite(draws[name])]
        low, high = np.quantile(drawn, [tail, 1 - tail]) if drawn.size else (np.nan, np.nan)
        mean = value[defined].mean() if defined.any() else np.nan
        summary[MEANS.get(name, name)] = {
            "mean": finite(mean),
            "ci_low": finite(low),
            "ci_high": finite(high),
        }
    return summary
