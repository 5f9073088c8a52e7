"""Cross-validated trials equal a loop that trains each fold on its own."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from headsweep.config.schema import Config
from headsweep.data.folds import Folds, divide
from headsweep.engine.engine import Engine, FoldedEngine
from headsweep.engine.slots import EpochReport
from headsweep.settings import EngineSettings
from tests.helpers.plain_training import macro_average_precision, train_plainly
from tests.helpers.splits import config, make_split

SETTINGS = EngineSettings(device="cpu", slots=8)
ROWS = make_split("train", 130, seed=1)
FOLDS = divide(ROWS, None, 3, seed=7)


def run(engine: Engine, slot: int, epochs: int) -> list[EpochReport]:
    return [r for _ in range(epochs) for r in engine.run_epoch() if r.slot == slot]


def pooled_by_plain_loop(one: Config, epochs: int, folds: Folds = FOLDS) -> float:
    """Macro AUPRC of out-of-fold logits of heads trained one by one in plain PyTorch."""
    scores = np.zeros(folds.rows.targets.shape)
    short = one.model_copy(update={"training": one.training})
    for k in range(folds.count):
        held_out = folds.held_out(k)
        scores[folds.held_out_rows(k)] = train_plainly(short, folds.training(k), held_out)[2]
    return macro_average_precision(folds.rows.targets, scores)
