"""Small splits in memory, and configs in short notation."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from headsweep.config.overrides import compose_config
from headsweep.config.schema import Config
from headsweep.data.dataset import Split
from headsweep.metrics.masking import BLANK

MakeSplit = Callable[..., Split]


def make_split(name: str, n: int, *, seed: int, width: int = 24, n_labels: int = 4) -> Split:
    """`n` rows of two views whose labels depend on them through one fixed linear map."""
    rng = np.random.default_rng(seed)
    visual = rng.normal(size=(n, width)).astype(np.float32)
    text = (0.5 * visual[:, : width // 2] + rng.normal(size=(n, width // 2))).astype(np.float32)
    signal = visual @ np.random.default_rng(0).normal(size=(width, n_labels))
    noise = rng.normal(size=signal.shape) * 3
    targets = (signal + noise > 2).astype(np.uint8)
    return Split(
        name=name,
        volumes=tuple(f"{name}_{i}_a_1" for i in range(n)),
        patients=tuple(f"{name}_{i}" for i in range(n)),
        scans=tuple(f"{name}_{i}_a" for i in range(n)),
        labels=tuple(f"label {j}" for j in range(n_labels)),
        targets=targets,
        features={"visual": visual, "text": text},
        reports=None,
        manifest_fingerprint="",
        feature_fingerprints={},
    )


def with_blanks(split: Split, share: float, *, seed: int = 0) -> Split:
    """The split with a random share of its labels blank, and all labels of its first row."""
    targets = split.targets.copy()
    targets[np.random.default_rng(seed).random(targets.shape) < share] = BLANK
    targets[0] = BLANK
    return replace(split, targets=targets)


def config(*overrides: str) -> Config:
    """A small, short config with overrides."""
    small = ("training.batch_size=32", "training.max_epochs=4", "training.learning_rate=0.01")
    return compose_config([*small, *overrides], where="test")
