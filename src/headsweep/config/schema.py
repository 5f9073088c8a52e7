"""The typed training config: everything that changes a leaderboard number, and where the data are.

A config is a tree of frozen sections. Its leaves are addressed by dotted paths
(`training.learning_rate`), which are also the keys of a study's space and of `key=value` overrides.
Runtime settings, which change no number, are in `settings.py`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, SerializeAsAny, model_validator

from headsweep.config.data_sections import DataConfig, FeaturesConfig
from headsweep.config.fingerprints import ADDED_KEYS, without_added_defaults, without_irrelevant
from headsweep.config.head_section import HeadConfig, LinearConfig, RetrievalConfig, typed_head
from headsweep.config.inputs import check_known, input_names, paired_inputs
from headsweep.config.section import Section
from headsweep.config.training_section import TrainingConfig
from headsweep.json_text import parse_json


def _given(folder: str) -> str:
    if not folder.strip():
        raise ValueError("a folder's name must not be empty; '.' is the current folder")
    return folder


FolderName = Annotated[str, AfterValidator(_given)]


class PathsConfig(Section):
    """Where files are; a path changes no number, so it is left out of every fingerprint."""

    data_root: FolderName = "data/features"
    """Folder of the feature files."""
    manifest_dir: FolderName = "data/manifests"
    """Folder of the manifests."""
    output_dir: FolderName = "outputs"
    """Folder of the leaderboards, one folder a study."""
    checkpoint_dir: FolderName = "outputs/checkpoints"
    """Folder that a single run writes to."""


class LoggingConfig(Section):
    """Where a single run's metrics are logged besides its own files.

    W&B runs stay in `paths.checkpoint_dir` until `wandb sync`, unless `offline` is false.
    """

    logger_name: Literal["none", "wandb", "tensorboard"] = "none"
    """Logger of a single run's metrics."""
    project: str = "headsweep"
    """W&B project."""
    run_name: str | None = None
    """Name of the run; null takes the name of `paths.checkpoint_dir`."""
    group: str | None = None
    """W&B group of the run."""
    tags: tuple[str, ...] = ()
    """W&B tags of the run."""
    offline: bool = True
    """Whether W&B writes to `paths.checkpoint_dir` only, for a later `wandb sync`."""
    log_model: bool = False
    """Whether W&B also gets the best weights, as an artifact."""


class Config(Section):
    """The whole config of one training run."""

    head: Annotated[SerializeAsAny[HeadConfig], BeforeValidator(typed_head)] = LinearConfig()
    """The head: its kind and what that kind can be set to."""
    features: FeaturesConfig = FeaturesConfig()
    """Which features enter the head."""
    training: TrainingConfig = TrainingConfig()
    """Optimisation of the head."""
    data: DataConfig = DataConfig()
    """Which manifests are read, and how."""
    paths: PathsConfig = PathsConfig()
    """Folders of data and results."""
    logging: LoggingConfig = LoggingConfig()
    """Loggers of single runs."""

    @model_validator(mode="after")
    def _inputs_are_known(self) -> Self:
        features, modalities = self.features, self.data.modalities
        check_known(input_names(features.input), tuple(modalities), "features.input")
        if features.partner is not None:
            check_known((features.partner,), tuple(modalities), "features.partner")
        if isinstance(self.head, RetrievalConfig):
            paired_inputs(features.input, features.partner, modalities)
        return self

    @model_validator(mode="after")
    def _lbfgs_is_for_logistic_regression(self) -> Self:
        training = self.training
        if training.optimizer != "lbfgs":
            return self
        found = {
            "head.kind": (self.head.kind, "linear"),
            "training.loss": (training.loss, "bce"),
            "training.label_smoothing": (training.label_smoothing, 0.0),
            "training.precision": (training.precision, "float32"),
            **self._of_iterative_training(),
        }
        for key, (value, expected) in found.items():
            if value != expected:
                raise ValueError(
                    f"{key} must be {'null' if expected is None else expected} "
                    f"with training.optimizer=lbfgs, found {value}"
                )
        if training.weight_decay == 0:
            raise ValueError(
                "training.weight_decay must be greater than 0 with training.optimizer=lbfgs, "
                "found 0"
            )
        return self

    def _of_iterative_training(self) -> dict[str, tuple[Any, Any]]:
        """Return values of keys that a solver has no use for, and those that it accepts.

        It starts from 0 and takes one epoch.
        """
        training, init = self.training, getattr(self.head, "init", "default")
        added = (
            *("training.adam_betas", "training.adam_epsilon", "training.early_stopping_metric"),
            *("training.early_stopping_window", "training.early_stopping_start_epoch"),
        )
        one_cycle = training.schedule == "one_cycle"
        return {
            "head.init": ("zero" if init == "default" else init, "zero"),
            "training.schedule": ("one_cycle" if one_cycle else "cosine", "cosine"),
            **{key: (getattr(training, key.split(".")[1]), ADDED_KEYS[key]) for key in added},
        }

    @model_validator(mode="after")
    def _warm_up_ends_in_time(self) -> Self:
        if self.training.warmup_epochs > self.training.max_epochs:
            raise ValueError(
                "training.warmup_epochs must be at most training.max_epochs "
                f"({self.training.max_epochs}), found {self.training.warmup_epochs:g}"
            )
        return self

    @model_validator(mode="after")
    def _recall_is_of_retrieval(self) -> Self:
        if self.training.metric == "recall_at_10" and self.head.kind != "retrieval":
            raise ValueError(
                "training.metric: recall_at_10 needs head=retrieval, "
                f"found a head of kind {self.head.kind}"
            )
        return self

    def fingerprint(self) -> str:
        """Return SHA-256 over everything that changes a number (see `config.fingerprints`)."""
        relevant = without_irrelevant(to_dict(self))
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


def to_dict(config: Config) -> dict[str, Any]:
    """Return the config as plain data, as it is written to YAML and JSON.

    Keys of `ADDED_KEYS` are left out where they have their default.
    """
    return without_added_defaults(all_values(config))


def all_values(config: Config) -> dict[str, Any]:
    """Return the config as plain data with every key."""
    plain: dict[str, Any] = parse_json(config.model_dump_json())
    return plain


def escapes(path: str) -> bool:
    """Return whether a path can lead out of the folder that it is relative to, links aside."""
    return path.startswith("/") or ".." in path.split("/") or "\0" in path
