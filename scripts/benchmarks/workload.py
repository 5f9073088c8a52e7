"""Workload of the engine's benchmarks: random features, and configs drawn from a shipped study."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna

from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.data.dataset import Split
from headsweep.search.space import suggest
from headsweep.search.study_file import load_study_file

ROOT = Path(__file__).parents[2]
STUDIES = {"linear": "linear_visual", "mlp": "mlp_visual", "retrieval": "retrieval"}


def make_split(name: str, rows: int, width: int, n_labels: int, seed: int) -> Split:
    """Return random features with linear labels of CT-RATE's mean prevalence."""
    rng = np.random.default_rng(seed)
    visual = rng.normal(size=(rows, width)).astype(np.float32)
    text = (visual + rng.normal(size=visual.shape)).astype(np.float32)
    signal = visual @ np.random.default_rng(0).normal(size=(width, n_labels)) / width**0.5
    targets = (signal + rng.normal(size=signal.shape) > 1.2).astype(np.uint8)
    keys = tuple(f"{name}_{i}" for i in range(rows))
    return Split(
        name=name, volumes=keys, patients=keys, scans=keys,
        labels=tuple(f"label {j}" for j in range(n_labels)), targets=targets,
        features={"visual": visual, "text": text}, reports=None,
        manifest_fingerprint="", feature_fingerprints={},
    )  # fmt: skip


def draw_configs(study: str, n: int, epochs: int, fixed: Sequence[str], seed: int) -> list[Config]:
    """Return `n` random configs of a shipped study's space, each for exactly `epochs` epochs."""
    spec = load_study_file(ROOT / "search_spaces" / f"{study}.yaml", [])
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    keep = {"training.max_epochs": epochs, "training.early_stopping_patience": None,
            "training.warmup_epochs": 0.0}  # fmt: skip
    keep |= {key: json.loads(value) for key, value in (text.split("=", 1) for text in fixed)}
    return [
        with_values(spec.config, suggest(drawn.ask(), spec.space, spec.config) | keep, where=study)
        for _ in range(n)
    ]
