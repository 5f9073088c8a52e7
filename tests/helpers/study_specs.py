"""Study files and specs for tests."""

from pathlib import Path
from typing import Any

import yaml

from headsweep.search.spec import StudySpec
from headsweep.search.study_file import load_study_file

DOCUMENT: dict[str, Any] = {
    "study": {"name": "probe", "n_trials": 40, "seed": 7},
    "base": ["head=linear", "features=visual", "training.max_epochs=9"],
    "space": {
        "training.learning_rate": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
        "training.batch_size": {"type": "categorical", "choices": [64, 256]},
        "training.optimizer": {"type": "categorical", "choices": ["adamw", "sgd"]},
        "training.momentum": {
            "type": "float",
            "low": 0.8,
            "high": 0.99,
            "when": {"training.optimizer": ["sgd"]},
        },
    },
    "sampler": {"name": "random"},
    "pruner": {"name": "successive_halving", "min_resource": 1, "reduction_factor": 3},
    "finalists": {"top_k": 2, "seeds": [0, 1]},
}


def write_study(folder: Path, **sections: Any) -> Path:
    """A study file: `DOCUMENT` with whole sections replaced."""
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(DOCUMENT | sections, sort_keys=False))
    return path


def make_spec(folder: Path, *overrides: str, **sections: Any) -> StudySpec:
    """The spec of such a file."""
    return load_study_file(write_study(folder, **sections), overrides)
