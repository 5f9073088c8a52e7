"""The typed training config: everything that changes a leaderboard number, and where the data are.

A config is a tree of frozen sections. Its leaves are addressed by dotted paths
(`training.learning_rate`), which are also the keys of a study's space and of `key=value` overrides.
Runtime settings, which change no number, are in `settings.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from headsweep.config.fingerprints import ADDED_KEYS, without_added_defaults, without_irrelevant
from headsweep.config.inputs import (
    BUILT_IN,
    Modality,
    check_input,
    check_known,
    check_names,
    input_names,
    joined_input,
    paired_inputs,
)
from headsweep.config.messages import nearest, unknown_key
from headsweep.errors import ConfigError

HEAD_ENTRY_POINTS = "headsweep.heads"


def _given(folder: str) -> str:
    if not folder.strip():
        raise ValueError("a folder's name must not be empty; '.' is the current folder")
    return folder


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

FolderName = Annotated[str, AfterValidator(_given)]

FeatureInput = Annotated[str, BeforeValidator(joined_input), AfterValidator(check_input)]
Normalization = Literal["none", "l2", "layer", "std", "zscore", "whiten"]
Init = Literal["default", "normal", "zero"]
Precision = Literal["float32", "tf32", "bf16"]
SharedContent = Literal["refuse", "warn", "drop"]
ObjectiveMetric = Literal[
    "auprc_macro", "auroc_macro", "auprc_skill", "balanced_accuracy", "recall_at_10"
]
BlankLabels = Literal["refuse", "mask"]


class Section(BaseModel):
    """A frozen part of the config; unknown keys and loose types are refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class HeadConfig(Section):
    """What every head has: its kind, the name under which the head is registered."""

    kind: str
    """Kind of head: `linear`, `mlp`, `retrieval`, or the name of a registered head."""


class LinearConfig(HeadConfig):
    """One linear map from the input to the label logits."""

    kind: Literal["linear"] = "linear"
    init: Init = "default"
    """Initial weights: PyTorch's (`default`), drawn with standard deviation 0.01 (`normal`), or 0
    (`zero`); the bias is 0 with the last two."""


class MLPConfig(HeadConfig):
    """Hidden layers (linear, norm, activation, dropout), then a linear map to the logits."""

    kind: Literal["mlp"] = "mlp"
    init: Init = "default"
    """Initial weights of the last layer, as in a linear head; hidden layers always have
    PyTorch's."""
    depth: Depth = 2
    """Number of hidden layers."""
    width: Width = 512
    """Width of every hidden layer."""
    hidden_dims: Annotated[tuple[Width, ...], Field(max_length=100)] | None = None
    """Widths of the hidden layers one by one, instead of `depth` and `width`."""
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    """Function after each hidden layer."""
    norm: Literal["none", "layer", "batch"] = "none"
    """Normalisation of each hidden layer, before its activation."""
    dropout: Dropout = 0.0
    """Share of the hidden units that are set to 0 in training, after each hidden layer."""

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
    """Width of the space into which both modalities are projected."""
    temperature: PositiveFloat = 0.07
    """Temperature of the contrastive loss."""
    neighbours: Rows = 30
    """Number of nearest training rows from which a row's label scores are computed."""
    neighbour_temperature: PositiveFloat = 0.07
    """Temperature of the softmax over similarities that weights those rows."""
    label_weight: Fraction = 0.5
    """Weight of the label loss: 0 trains on pairs alone (instance loss), 1 on labels alone."""
    gallery_rows: Rows | None = 8192
    """Training rows searched for neighbours: a seeded subset of this size, or all of them."""


class FeaturesConfig(Section):
    """Which features enter the head, and how they are normalised (fitted on train only)."""

    input: FeatureInput = "visual"
    """Features that the head reads: `visual`, `text`, `both` of these side by side, the name of an
    input in `data.inputs`, or several names joined by `+`, as in `ct_clip+colipri`; a list of
    names is joined."""
    partner: str | None = None
    """Input of the other modality that a retrieval head pairs with `input`; null takes the only
    one in `data.inputs`, or `visual` and `text` for each other."""
    normalization: Normalization = "zscore"
    """`l2` scales rows to length 1, `layer` rows to mean 0 and variance 1, `std` columns to
    variance 1 without centring them, `zscore` columns to mean 0 and variance 1, and `whiten` also
    removes the correlation between columns. With two modalities each is normalised by itself."""


class ResumeConfig(Section):
    """Whether a single run goes on from a saved state."""

    enabled: bool = False
    """Continue from `state.safetensors` in `paths.checkpoint_dir`, if there is one."""
    state_path: str | None = None
    """State to continue from, or its folder, instead of the one in `paths.checkpoint_dir`."""


class TrainingConfig(Section):
    """Optimisation of one head."""

    optimizer: Literal["adamw", "sgd", "lbfgs"] = "adamw"
    """`lbfgs` solves a linear head as logistic regression to convergence, in one epoch; its
    penalty is `weight_decay` (scikit-learn's C = 1 / (rows · weight_decay))."""
    learning_rate: PositiveFloat = 1e-3
    """Largest step size, reached at the end of the warm-up or of the rise of `one_cycle`."""
    weight_decay: NonNegativeFloat = 1e-4
    """Weight decay, decoupled in `adamw`; in `sgd` and `lbfgs` a penalty on squared weights."""
    beta1: Momentum = 0.9
    """Decay of AdamW's mean of the gradients."""
    beta2: Momentum = 0.999
    """Decay of AdamW's mean of the squared gradients."""
    adam_betas: tuple[Momentum, Momentum] | None = None
    """Both decays as a pair, instead of `beta1` and `beta2`; null takes these."""
    adam_epsilon: PositiveFloat = 1e-8
    """Number that AdamW adds to the root of the mean of the squared gradients."""
    momentum: Momentum = 0.9
    """Momentum of `sgd`."""
    batch_size: Rows = 256
    """Rows of a minibatch."""
    max_epochs: Epochs = 50
    """Epochs after which training ends at the latest."""
    metric: ObjectiveMetric = "auprc_macro"
    """Metric on valid, higher is better, that chooses the epoch whose weights are used.
    `auprc_skill` is the mean over labels of (AUPRC - prevalence) / (1 - prevalence),
    `balanced_accuracy` has thresholds chosen on valid itself, and `recall_at_10` is the share of
    scans whose report a retrieval head ranks among the first 10. In a study file write
    `objective.metric`."""
    early_stopping_patience: Epochs | None = 10
    """Epochs without a better value of `early_stopping_metric` after which training ends; null
    never stops early. The weights are always those of the epoch of the best `metric`."""
    early_stopping_metric: Literal["auprc_macro", "auroc_macro", "loss"] | None = None
    """Validation metric that early stopping watches; null is `metric`. Of `loss`, the mean
    cross-entropy of all rows and labels, lower is better."""
    early_stopping_window: Epochs = 1
    """Epochs over whose mean the metric is watched: a moving average of the last so many."""
    early_stopping_start_epoch: Epochs = 1
    """First epoch whose value counts as the best so far; the patience begins then."""
    schedule: Literal["constant", "cosine", "one_cycle"] = "cosine"
    """Course of the learning rate, step by step. `constant` and `cosine` begin with the warm-up;
    `cosine` then falls to 0 at `max_epochs`. `one_cycle` rises along a cosine from 1/25 of
    `learning_rate` and falls to 1/250,000 at `max_epochs`, as PyTorch's `OneCycleLR`; momentum and
    betas stay constant."""
    warmup_epochs: NonNegativeFloat = 0.0
    """Epochs, or a fraction of one, over which the learning rate rises linearly from 0; without
    effect in `one_cycle`."""
    one_cycle_rise: Fraction = 0.3
    """Share of all steps over which `one_cycle` rises."""
    clip_norm: PositiveFloat | None = None
    """Largest Euclidean norm of a minibatch's gradient; null does not clip."""
    loss: Literal["bce", "weighted_bce", "focal", "asymmetric"] = "bce"
    """Loss of a label; `bce` is binary cross-entropy."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """How far targets are moved from 0 and 1 towards 1/2."""
    pos_weight_cap: PositiveFloat = 10.0
    """Largest weight of positives in `weighted_bce`, which weights them by negatives over
    positives."""
    focal_gamma: NonNegativeFloat = 2.0
    """Exponent by which the focal loss plays down easy rows."""
    focal_alpha: Fraction = 0.25
    """Weight of positives in the focal loss; negatives have 1 - alpha."""
    asymmetric_gamma_neg: NonNegativeFloat = 4.0
    """Exponent of the asymmetric loss for negatives."""
    asymmetric_gamma_pos: NonNegativeFloat = 1.0
    """Exponent of the asymmetric loss for positives."""
    asymmetric_clip: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Probability that the asymmetric loss subtracts from negatives, down to 0."""
    precision: Precision = "float32"
    """To what the inputs of matrix products are rounded in training (see `engine.precision`)."""
    seed: Seed = 42
    """Seed of the initial weights, of the order of rows and of dropout."""
    tape_position: NonNegativeInt = 0
    """Epoch of the shared tape of permutations at which training enters (see `engine.tape`)."""
    target_labels: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Label columns to train, in this order; null takes CT-RATE's labels or, where a manifest has
    none of them, every column that holds 0 and 1."""
    resume: ResumeConfig = ResumeConfig()
    """Whether a single run goes on from a saved state."""

    @property
    def betas(self) -> tuple[float, float]:
        """Both decays of AdamW; `adam_betas` wins over `beta1` and `beta2`."""
        return self.adam_betas if self.adam_betas is not None else (self.beta1, self.beta2)


class ColumnsConfig(Section):
    """Names of the manifest's columns."""

    volume: str = "volumename"
    """Column of the volume names, which must differ from row to row."""
    visual_feature: str = "visual_feature_path"
    """Column of the visual features' files, relative to `paths.data_root`."""
    text_feature: str = "text_feature_path"
    """Column of the text features' files, relative to `paths.data_root`."""
    patient: str | None = None
    """Column of the patients; null takes them from CT-RATE's volume names, or takes every volume
    as a patient of its own where the names do not follow CT-RATE's pattern."""
    scan: str | None = None
    """Column of the scans, whose rows share labels and report; null takes them from CT-RATE's
    volume names, or takes every volume as a scan of its own."""

    def feature_columns(self) -> dict[str, str]:
        """Return the columns of feature paths by the name of the input."""
        return {"visual": self.visual_feature, "text": self.text_feature}

    def key_of(self, name: str) -> str:
        """Return the config key that names the column of an input."""
        return f"data.columns.{name}_feature"


class InputConfig(Section):
    """The features of one encoder."""

    column: str
    """Column of the features' files, relative to `paths.data_root`."""
    modality: Modality
    """`visual` for features of the volumes, `text` for features of the reports."""


def _named(inputs: Mapping[str, InputConfig]) -> Mapping[str, InputConfig]:
    check_names({name: one.column for name, one in inputs.items()})
    return inputs


class ManifestColumns(ColumnsConfig):
    """Names of the manifest's columns, with those of named inputs."""

    inputs: tuple[tuple[str, str], ...] = ()

    def feature_columns(self) -> dict[str, str]:
        """Return the columns of feature paths by the name of the input."""
        return super().feature_columns() | dict(self.inputs)

    def key_of(self, name: str) -> str:
        """Return the config key that names the column of an input."""
        return super().key_of(name) if name in BUILT_IN else f"data.inputs.{name}.column"


class DataConfig(Section):
    """Which manifests are read; names are relative to `paths.manifest_dir`."""

    train_manifest: str = "train.csv"
    """Manifest of the training rows."""
    val_manifest: str | None = "valid.csv"
    """Manifest of the validation rows; null splits the train manifest by patient, stratified over
    the labels."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the training rows that become validation rows where `val_manifest` is null."""
    test_manifests: tuple[str, ...] = (
        "test_manual_all.csv",
        "test_manual_train.csv",
        "test_manual_valid.csv",
    )
    """Manifests of the test rows; each is measured by itself."""
    columns: ColumnsConfig = ColumnsConfig()
    """Names of the manifests' columns."""
    inputs: Annotated[Mapping[str, InputConfig], AfterValidator(_named)] | None = None
    """Features of several encoders by a name of your choice: `{ct_clip: {column: ct_clip_path,
    modality: visual}, …}`; `features.input` names those that a head reads."""
    feature_key: str | None = None
    """Name of the array or tensor that holds the features, in files with several; null takes
    `arr`, `embeddings`, or the only one."""
    shared_content: SharedContent | None = None
    """What is done when rows of different patients in two splits share a report or a feature
    vector: `refuse` the data, `warn`, or `drop` such rows from valid and test; null refuses visual
    features and warns of text features and reports. A few rows with equal labels are accepted."""
    label_maps: Mapping[str, str] | None = None
    """Label maps of valid and test manifests whose columns are not the study's labels:
    `{rad_chestct.csv: rad_chestct_map.yaml}`, relative to `paths.manifest_dir`."""
    zero_shot: str | None = None
    """File of prompt embeddings for the reference row `zero_shot`, relative to
    `paths.manifest_dir`: a `.npz` with one array for each label, named as the label, or two, named
    `positive:<label>` and `negative:<label>`; null makes no such row."""
    zero_shot_input: str = "visual"
    """Input with which the prompts are compared: `visual`, or a name in `data.inputs`."""
    blank_labels: BlankLabels = "refuse"
    """What is done with blank label cells: `refuse` the manifest, or `mask` them. A masked cell
    weighs nothing in the loss and is left out of its label's metrics."""
    follow_links: bool = False
    """Whether links below `paths.data_root` may lead out of it, as in a Hugging Face snapshot."""

    @model_validator(mode="after")
    def _prompts_are_of_a_known_input(self) -> Self:
        if self.zero_shot is not None:
            check_known([self.zero_shot_input], list(self.modalities), "data.zero_shot_input")
        return self

    @model_validator(mode="after")
    def _label_maps_are_of_manifests(self) -> Self:
        named = [name for name in (self.val_manifest, *self.test_manifests) if name is not None]
        for name in self.label_maps or {}:
            if name == self.train_manifest:
                raise ValueError(
                    f"data.label_maps: {name!r} is the train manifest, whose labels are the "
                    "study's own: map the other manifests to them"
                )
            if name not in named:
                raise ValueError(
                    f"data.label_maps: no manifest {name!r}.{nearest(name, named)} "
                    "data.val_manifest and data.test_manifests name them"
                )
        return self

    @property
    def modalities(self) -> dict[str, Modality]:
        """Modality of every input, by name; the built-in ones first."""
        named = self.inputs or {}
        return {**BUILT_IN, **{name: one.modality for name, one in named.items()}}

    @property
    def manifest_columns(self) -> ManifestColumns:
        """Names of the manifests' columns, with those of named inputs."""
        named = tuple((name, one.column) for name, one in (self.inputs or {}).items())
        return ManifestColumns(**self.columns.model_dump(), inputs=named)


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


BUILT_IN_HEADS: Mapping[str, type[HeadConfig]] = {
    "linear": LinearConfig,
    "mlp": MLPConfig,
    "retrieval": RetrievalConfig,
}


def head_config_type(kind: str) -> type[HeadConfig]:
    """Find the config class of a head kind, built in or registered by a plug-in.

    Returns:
        The class; a plug-in's is the `config_type` of its head.

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
    plain: dict[str, Any] = json.loads(config.model_dump_json())
    return plain


def escapes(path: str) -> bool:
    """Return whether a path can lead out of the folder that it is relative to, links aside."""
    return path.startswith("/") or ".." in path.split("/") or "\0" in path


def explain(error: ValidationError, data: Mapping[str, Any]) -> str:
    """Return one line about the first fault of a pydantic error: key, rule, value."""
    faults = error.errors()
    # A misspelled key is also missing under its right name: the misspelled one says more.
    first = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
    keys = [str(part) for part in first["loc"]]
    path = ".".join(keys)
    if first["type"] == "extra_forbidden":
        known = _known_keys(error.title, keys[:-1], data)
        return f"{path}: {unknown_key(keys[-1], known)}"
    rule = first["msg"].removeprefix("Value error, ")
    found = "" if first["type"] in {"missing", "value_error"} else f", found {first['input']!r}"
    return f"{path}: {rule[:1].lower()}{rule[1:]}{found}" if path else f"{rule}{found}"


def _known_keys(title: str, sections: list[str], data: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys of the section in which an unknown key is, starting from model `title`."""
    if sections[:2] == ["data", "inputs"] and len(sections) == 3:
        return tuple(InputConfig.model_fields)
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
