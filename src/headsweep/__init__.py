"""Hyperparameter search for heads on frozen features.

The names below are loaded when they are first used: importing the package is instant.

Example:
    ```python
    import headsweep as hs

    data = hs.Dataset.from_manifests(data_root="features", manifest_dir="manifests")
    with hs.Study.create("linear_visual", data=data) as study:
        study.run(workers=2)
        board = study.finalize()
    board.to_dataframe()
    ```
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headsweep.api import Study as Study
    from headsweep.data.dataset import Dataset as Dataset
    from headsweep.data.dataset import Split as Split
    from headsweep.errors import ConfigError as ConfigError
    from headsweep.errors import FeatureError as FeatureError
    from headsweep.errors import HeadsweepError as HeadsweepError
    from headsweep.errors import InputError as InputError
    from headsweep.errors import LaunchError as LaunchError
    from headsweep.errors import ManifestError as ManifestError
    from headsweep.errors import OutputError as OutputError
    from headsweep.errors import SearchError as SearchError
    from headsweep.errors import StorageError as StorageError
    from headsweep.errors import StudyDeletedError as StudyDeletedError
    from headsweep.errors import StudyError as StudyError
    from headsweep.errors import TrialError as TrialError
    from headsweep.errors import VerificationError as VerificationError
    from headsweep.errors import WorkerError as WorkerError
    from headsweep.errors import WorkError as WorkError
    from headsweep.heads.predictor import Predictor as Predictor
    from headsweep.heads.predictor import load_predictor as load_predictor
    from headsweep.leaderboard.leaderboard import Leaderboard as Leaderboard
    from headsweep.studies.summary import Summary as Summary

    __version__: str

_MODULES = {
    "headsweep.api": ("Study",),
    "headsweep.data.dataset": ("Dataset", "Split"),
    "headsweep.leaderboard.leaderboard": ("Leaderboard",),
    "headsweep.heads.predictor": ("Predictor", "load_predictor"),
    "headsweep.studies.summary": ("Summary",),
    "headsweep.errors": (
        "ConfigError",
        "FeatureError",
        "HeadsweepError",
        "InputError",
        "LaunchError",
        "ManifestError",
        "OutputError",
        "SearchError",
        "StorageError",
        "StudyDeletedError",
        "StudyError",
        "TrialError",
        "VerificationError",
        "WorkError",
        "WorkerError",
    ),
}
"""The public names by the module that defines them."""

_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used.

    Returns:
        The object of this name.

    Raises:
        AttributeError: the package has no such name.
    """
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("headsweep")
    elif name in _MODULE_OF:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    else:
        raise AttributeError(f"module 'headsweep' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
