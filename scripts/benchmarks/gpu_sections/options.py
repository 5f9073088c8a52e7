"""What few studies use: other options of training, blank labels, folds, heads of other programs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from gpu_sections.correctness import CHECKED, checked_configs, compared
from gpu_sections.device import now
from gpu_sections.run import Run
from headsweep.data.dataset import Split
from headsweep.data.folds import divide
from headsweep.engine.engine import FoldedEngine
from headsweep.engine.train_configs import train_in, train_to_end
from headsweep.metrics.masking import BLANK

OPTIONS = (
    "training.schedule=one_cycle training.adam_betas=[0.8,0.95] training.adam_epsilon=1e-4",
    "head.init=zero features.normalization=layer training.label_smoothing=0.1",
    "head=mlp head.width=64 head.init=normal features.normalization=std training.warmup_epochs=1",
    "head=mlp head.width=64 training.schedule=one_cycle training.adam_epsilon=1e-6",
    "head=mlp head.width=128 head.norm=layer features.normalization=whiten",
    "training.early_stopping_metric=loss training.early_stopping_patience=1",
)
OTHER_PROGRAMS = ("training.optimizer=lbfgs", "head=mlp head.width=64 head.norm=batch")


def options(run: Run, until: float) -> dict[str, Any]:
    """Compare heads with the CPU's, with repeats, alone, and among others.

    Returns:
        The measurements.
    """
    splits = run.checked_data()
    blank = tuple(with_blanks(split, seed) for seed, split in enumerate(splits))
    folds = divide(splits[0], None, 3, seed=7)
    width = run.sizes.width
    found: dict[str, Any] = {}
    found["options"], *_ = compared(
        run, "options", checked_configs(width, OPTIONS),
        lambda some, settings: train_to_end(some, *splits, settings),
    )  # fmt: skip
    if now() < until:
        found["blank labels"], *_ = compared(
            run, "blank labels", checked_configs(width, CHECKED),
            lambda some, settings: train_to_end(some, blank[0], blank[1], settings),
        )  # fmt: skip
    if now() < until:
        found["folds"], *_ = compared(
            run, "folds", checked_configs(width, CHECKED[::3]),
            lambda some, settings: train_in(FoldedEngine(folds, settings), some),
        )  # fmt: skip
    if now() < until:
        found["other programs"], *_ = compared(
            run, "other programs", checked_configs(width, OTHER_PROGRAMS),
            lambda some, settings: train_to_end(some, *splits, settings),
        )  # fmt: skip
    return found


def with_blanks(split: Split, seed: int) -> Split:
    """Return the split without a third of its labels."""
    targets = split.targets.copy()
    targets[np.random.default_rng(seed).random(targets.shape) < 1 / 3] = BLANK
    return replace(split, targets=targets)
