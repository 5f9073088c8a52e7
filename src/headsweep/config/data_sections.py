"""The sections `data` and `features` of the config: what is read, and what of it enters a head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from headsweep.config.inputs import (
    BUILT_IN,
    Modality,
    check_input,
    check_known,
    check_names,
    joined_input,
)
from headsweep.config.messages import nearest
from headsweep.config.section import Section

FeatureInput = Annotated[str, BeforeValidator(joined_input), AfterValidator(check_input)]
Normalization = Literal["none", "l2", "layer", "std", "zscore", "whiten"]
SharedContent = Literal["refuse", "warn", "drop"]
BlankLabels = Literal["refuse", "mask"]


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
