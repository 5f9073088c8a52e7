"""The typed training config: everything that changes a leaderboard number, and where the data lies.

A config is a tree of frozen sections. Its leaves are addressed by dotted paths
(`training.learning_rate`), which are also the keys of a study's space and of `key=value` overrides.
Runtime knobs that change no number live in `settings.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from headsweep.config.messages import unknown_key
from headsweep.errors import ConfigError

HEAD_ENTRY_POINTS = "headsweep.heads"

PositiveInt = Annotated[int, Field(gt=0, le=10**9)]
NonNegativeInt = Annotated[int, Field(ge=0, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Width = Annotated[int, Field(gt=0, le=100_000)]
Depth = Annotated[int, Field(gt=0, le=100)]
Epochs = Annotated[int, Field(gt=0, le=1_000_000)]
Rows = Annotated[int, Field(gt=0, le=1_000_000)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]

Modality = Literal["visual", "text"]
FeatureInput = Literal["visual", "text", "both"]
Normalization = Literal["none", "l2", "zscore", "whiten"]
Precision = Literal["float32", "tf32", "bf16"]


class Section(BaseModel):
    """A frozen part of the config; unknown keys and loose types are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class HeadConfig(Section):
    """What every head has: its kind, the name under which the head is registered."""

    kind: str


class LinearConfig(HeadConfig):
    """One linear map from the input to the label logits."""

    kind: Literal["linear"] = "linear"


class MLPConfig(HeadConfig):
    """Hidden layers (linear, norm, activation, dropout), then a linear map to the logits."""

    kind: Literal["mlp"] = "mlp"
    depth: Depth = 2
    width: Width = 512
    hidden_dims: Annotated[tuple[Width, ...], Field(max_length=100)] | None = None
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    norm: Literal["none", "layer", "batch"] = "none"
    dropout: Dropout = 0.0

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the hidden layers; `hidden_dims` wins over `depth` and `width`."""
        return self.hidden_dims if self.hidden_dims is not None else (self.width,) * self.depth


class RetrievalConfig(HeadConfig):
    """A linear projection for each modality, trained by a contrastive loss.

    Label scores are the similarity-weighted labels of the nearest training rows.
    """

    kind: Literal["retrieval"] = "retrieval"
    dim: Width = 256
    temperature: PositiveFloat = 0.07
    neighbours: Rows = 30
    neighbour_temperature: PositiveFloat = 0.07
    label_weight: Fraction = 0.5
    """0 trains on pairs alone (instance loss), 1 on labels alone."""
    gallery_rows: Rows | None = 8192
    """Training rows searched for neighbours: a seeded subset of this size, or all of them."""


class FeaturesConfig(Section):
    """Which features enter the head, and how they are normalised (fitted on train only)."""

    input: FeatureInput = "visual"
    normalization: Normalization = "zscore"


class ResumeConfig(Section):
    """Whether a single run goes on from a saved state."""

    enabled: bool = False
    state_path: str | None = None


class TrainingConfig(Section):
    """Optimisation of one head."""

    optimizer: Literal["adamw", "sgd", "lbfgs"] = "adamw"
    """`lbfgs` solves a linear head as logistic regression to convergence, in one epoch; its
    penalty is `weight_decay` (scikit-learn's C = 1 / (rows · weight_decay))."""
    learning_rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 1e-4
    beta1: Momentum = 0.9
    beta2: Momentum = 0.999
    momentum: Momentum = 0.9
    batch_size: Rows = 256
    max_epochs: Epochs = 50
    early_stopping_patience: Epochs | None = 10
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup_epochs: NonNegativeFloat = 0.0
    clip_norm: PositiveFloat | None = None
    loss: Literal["bce", "weighted_bce", "focal", "asymmetric"] = "bce"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    pos_weight_cap: PositiveFloat = 10.0
    focal_gamma: NonNegativeFloat = 2.0
    focal_alpha: Fraction = 0.25
    asymmetric_gamma_neg: NonNegativeFloat = 4.0
    asymmetric_gamma_pos: NonNegativeFloat = 1.0
    asymmetric_clip: Annotated[float, Field(ge=0, lt=1)] = 0.05
    precision: Precision = "float32"
    """To what the inputs of matrix products are rounded in training (see `engine.precision`)."""
    seed: Seed = 42
    tape_position: NonNegativeInt = 0
    """Epoch of the shared tape of permutations at which training enters (see `engine.tape`)."""
    target_labels: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    resume: ResumeConfig = ResumeConfig()


class ColumnsConfig(Section):
    """Names of the manifest's columns."""

    volume: str = "volumename"
    visual_feature: str = "visual_feature_path"
    text_feature: str = "text_feature_path"


class DataConfig(Section):
    """Which manifests are read; names are relative to `paths.manifest_dir`."""

    train_manifest: str = "train.csv"
    val_manifest: str | None = "valid.csv"
    """None splits the train manifest by patient, stratified over the labels."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    test_manifests: tuple[str, ...] = (
        "test_manual_all.csv",
        "test_manual_train.csv",
        "test_manual_valid.csv",
    )
    columns: ColumnsConfig = ColumnsConfig()


class PathsConfig(Section):
    """Where things lie; a path changes no number, so it is left out of every fingerprint."""

    data_root: str = "data/features"
    manifest_dir: str = "data/manifests"
    output_dir: str = "outputs"
    checkpoint_dir: str = "outputs/checkpoints"


class LoggingConfig(Section):
    """Where a single run's metrics are logged besides its own files.

    W&B runs stay in `paths.checkpoint_dir` until `wandb sync`, unless `offline` is false.
    """

    logger_name: Literal["none", "wandb", "tensorboard"] = "none"
    project: str = "headsweep"
    run_name: str | None = None
    """None takes the name of `paths.checkpoint_dir`."""
    group: str | None = None
    tags: tuple[str, ...] = ()
    offline: bool = True
    log_model: bool = False
    """Whether W&B also gets the best weights, as an artifact."""


BUILT_IN_HEADS: Mapping[str, type[HeadConfig]] = {
    "linear": LinearConfig,
    "mlp": MLPConfig,
    "retrieval": RetrievalConfig,
}


def head_config_type(kind: str) -> type[HeadConfig]:
    """The config class of a head kind: a built-in, or `config_type` of a registered plug-in.

    Raises:
        ConfigError: no head of that kind is known.
    """
    if kind in BUILT_IN_HEADS:
        return BUILT_IN_HEADS[kind]
    plugins = {entry.name: entry for entry in entry_points(group=HEAD_ENTRY_POINTS)}
    if kind in plugins:
        config_type: type[HeadConfig] = plugins[kind].load().config_type
        return config_type
    known = [*BUILT_IN_HEADS, *plugins]
    raise ConfigError(f"head.kind must be one of {', '.join(known)}, found {kind!r}")


def _typed_head(value: Any) -> Any:
    if isinstance(value, Mapping):
        kind = value.get("kind", "linear")
        return head_config_type(str(kind)).model_validate_json(json.dumps(dict(value)))
    return value


class Config(Section):
    """The whole config of one training run."""

    head: Annotated[SerializeAsAny[HeadConfig], BeforeValidator(_typed_head)] = LinearConfig()
    features: FeaturesConfig = FeaturesConfig()
    training: TrainingConfig = TrainingConfig()
    data: DataConfig = DataConfig()
    paths: PathsConfig = PathsConfig()
    logging: LoggingConfig = LoggingConfig()

    IRRELEVANT: ClassVar[tuple[str, ...]] = ("paths", "logging")

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
        }
        for key, (value, due) in found.items():
            if value != due:
                raise ValueError(
                    f"{key} must be {due} with training.optimizer=lbfgs, found {value}"
                )
        if training.weight_decay == 0:
            raise ValueError(
                "training.weight_decay must be greater than 0 with training.optimizer=lbfgs, "
                "found 0"
            )
        return self

    @model_validator(mode="after")
    def _warm_up_ends_in_time(self) -> Self:
        if self.training.warmup_epochs > self.training.max_epochs:
            raise ValueError(
                "training.warmup_epochs must be at most training.max_epochs "
                f"({self.training.max_epochs}), found {self.training.warmup_epochs:g}"
            )
        return self

    def fingerprint(self) -> str:
        """SHA-256 over everything that changes a number; paths and logging are left out."""
        relevant = {k: v for k, v in to_dict(self).items() if k not in self.IRRELEVANT}
        relevant["training"].pop("resume")
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain data, as it is written to YAML and JSON."""
    plain: dict[str, Any] = json.loads(config.model_dump_json())
    return plain


def escapes(path: str) -> bool:
    """Whether a path can lead out of the folder that it is relative to, links aside."""
    return path.startswith("/") or ".." in path.split("/") or "\0" in path


def explain(error: ValidationError, data: Mapping[str, Any]) -> str:
    """One line for the first fault of a pydantic error: place, law, value found."""
    first = error.errors()[0]
    keys = [str(part) for part in first["loc"]]
    place = ".".join(keys)
    if first["type"] == "extra_forbidden":
        known = _known_keys(error.title, keys[:-1], data)
        return f"{place}: {unknown_key(keys[-1], known)}"
    law = first["msg"].removeprefix("Value error, ")
    found = "" if first["type"] in {"missing", "value_error"} else f", found {first['input']!r}"
    return f"{place}: {law[:1].lower()}{law[1:]}{found}" if place else f"{law}{found}"


def _known_keys(title: str, sections: list[str], data: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys of the section in which an unknown key was found, walking from the model `title`."""
    model = next((m for m in _all_sections(Section) if m.__name__ == title), Section)
    for name in sections:
        if name not in model.model_fields:
            return ()
        annotation = model.model_fields[name].annotation
        if annotation is HeadConfig:
            annotation = head_config_type(data.get("head", {}).get("kind", "linear"))
        if not (isinstance(annotation, type) and issubclass(annotation, Section)):
            return ()
        model = annotation
    return tuple(model.model_fields)


def _all_sections(root: type[Section]) -> Iterator[type[Section]]:
    yield root
    for child in root.__subclasses__():
        yield from _all_sections(child)
