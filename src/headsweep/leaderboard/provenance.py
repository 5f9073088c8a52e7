"""The origin of a leaderboard: study, data, code, machine, and the digest of every file."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from headsweep.atomic_files import replacing
from headsweep.config.explain import explain
from headsweep.config.schema import Config, escapes, to_dict
from headsweep.config.section import PositiveInt, Seed
from headsweep.data.dataset import Split, in_order, required_inputs, row_digests
from headsweep.errors import VerificationError
from headsweep.evaluation.areas import area_interval_facts
from headsweep.evaluation.rules import CURRENT, RULES, Rules
from headsweep.evaluation.summaries import (
    CONFIDENCE,
    MIN_PATIENTS,
    N_RESAMPLES,
    RESAMPLING_SEED,
)
from headsweep.json_text import parse_json
from headsweep.leaderboard.cohorts import describe_cohorts
from headsweep.leaderboard.cross_validation import CrossValidation
from headsweep.leaderboard.ensembles.chosen import selection_to_dict
from headsweep.leaderboard.finalists import Finalist
from headsweep.leaderboard.references.chosen import NONE, References
from headsweep.leaderboard.search_facts import SearchFacts
from headsweep.leaderboard.staging import PROVENANCE
from headsweep.leaderboard.unblinding import Opening
from headsweep.metrics.ensemble_selection import Selection
from headsweep.metrics.masking import BLANK
from headsweep.package_info import code_commit
from headsweep.settings import EngineSettings

DATA_ROWS = "data_rows.parquet"
COMPARISONS = "comparisons.json"
PACKAGES = ("headsweep", "numpy", "torch", "optuna", "pyarrow", "safetensors", "scipy")


def _inside(name: str) -> str:
    if escapes(name):
        raise ValueError(f"{name!r} is not a file name inside of the leaderboard's folder")
    return name


class _Read(BaseModel):
    """The part of a provenance that is read again; other keys are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class _Machine(_Read):
    device: str
    device_kind: Literal["cpu", "cuda"]
    slots: PositiveInt
    threads: PositiveInt
    torch: str


class _Finalist(_Read):
    trial: Annotated[int, Field(ge=0)]
    value: float
    config: dict[str, Any]


class _References(_Read):
    names: list[Literal["prevalence", "logistic_regression", "knn", "zero_shot"]]


class _Selection(_Read):
    n_bags: Annotated[int, Field(gt=0, le=1000)]
    share: Annotated[float, Field(gt=0, le=1)]
    n_rounds: Annotated[int, Field(gt=0, le=1000)]
    seed: Seed


class _Provenance(_Read):
    study: str
    study_fingerprint: str
    n_trials_searched: int
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=1000)]
    finalists: Annotated[list[_Finalist], Field(min_length=1)]
    data: dict[str, Any]
    machine: _Machine
    search: SearchFacts | None = None
    references: _References | None = None
    ensembles: _Selection | None = None
    shows_unseen: bool = False
    figures_version: int = 1
    files: dict[Annotated[str, AfterValidator(_inside)], str]


@dataclass(frozen=True)
class StudyFacts:
    """What the leaderboard states about its study, and the rules of its figures."""

    name: str
    fingerprint: str
    n_trials_searched: int
    seeds: tuple[int, ...]
    rules: Rules = CURRENT
    search: SearchFacts | None = None
    """How the search ended; None on boards of before."""
    states_inputs: bool = True
    """Whether the table names inputs and widths; False on boards of before."""
    references: References = NONE
    """Rows that are not searched; none on boards of before."""
    selection: Selection | None = None
    """How the ensemble is selected; None on boards without ensembles."""
    shows_unseen: bool = False
    """Whether metrics on unseen content are shown where there is other; not on boards of before."""
    cross_validation: CrossValidation | None = None
    """The folds of a study that has any."""

    @property
    def note(self) -> str:
        """Sentences for readers of the board; empty if there is nothing to say."""
        parts = (self.cross_validation, self.search)
        return " ".join(part.note for part in parts if part is not None and part.note)


def describe(
    study: StudyFacts,
    finalists: Sequence[Finalist],
    openings: Sequence[Opening],
    splits: Sequence[Split],
    settings: EngineSettings,
) -> dict[str, Any]:
    """Describe how a leaderboard was made.

    Args:
        study: what the leaderboard says about its study.
        finalists: in the order of their ranks.
        openings: when test was opened.
        splits: all splits, train first.
        settings: of the engine that trained the finalists.

    Returns:
        The provenance as plain data.
    """
    return {
        "study": study.name,
        "study_fingerprint": study.fingerprint,
        "n_trials_searched": study.n_trials_searched,
        "seeds": list(study.seeds),
        "finalists": [
            {"trial": f.trial, "value": f.value, "config": to_dict(f.config)} for f in finalists
        ],
        "test_openings": [asdict(opening) for opening in openings],
        "data_fingerprint": data_fingerprint(splits),
        "data": {split.name: fingerprints(split) for split in splits},
        "inputs": inputs_read([f.config for f in finalists], splits[0]),
        "cohorts": describe_cohorts(splits),
        "figures_version": study.rules.version,
        "bootstrap": {
            "n_resamples": N_RESAMPLES,
            "seed": RESAMPLING_SEED,
            "confidence": CONFIDENCE,
            "unit": "patient",
            "interval": "bias-corrected percentiles, expanded",
            **area_interval_facts(study.rules),
            "interval_of_perfect_ranking": "one-sided exact binomial bound over patients",
            "min_patients": MIN_PATIENTS,
        },
        "commit": code_commit(),
        "machine": machine(settings),
        "packages": {name: version(name) for name in PACKAGES},
        **_followed_links(finalists),
        **({"search": study.search.to_dict()} if study.search else {}),
        **study.references.to_dict(),
        **selection_to_dict(study.selection),
        **({"shows_unseen": True} if study.shows_unseen else {}),
        **_rows_left_out(splits),
        **(
            {"cross_validation": study.cross_validation.to_dict()} if study.cross_validation else {}
        ),
    }


def inputs_read(configs: Sequence[Config], train: Split) -> dict[str, dict[str, Any]]:
    """Return column, modality and width of every input that some config reads, by name."""
    data = configs[0].data
    columns = data.manifest_columns.feature_columns()
    names = {name for config in configs for name in required_inputs(config)}
    return {
        name: {
            "column": columns[name],
            "modality": data.modalities[name],
            "width": train.features[name].shape[1],
        }
        for name in in_order(names, configs[0])
    }


def _rows_left_out(splits: Sequence[Split]) -> dict[str, Any]:
    """Return how many rows of each split `data.shared_content=drop` left out, if any."""
    counts = {split.name: split.n_left_out for split in splits if split.n_left_out}
    return {"rows_left_out": counts} if counts else {}


def _followed_links(finalists: Sequence[Finalist]) -> dict[str, Any]:
    """Return where links below the data root were followed from, if any config follows them."""
    roots = {f.config.paths.data_root for f in finalists if f.config.data.follow_links}
    if not roots:
        return {}
    return {"links_followed_in": sorted(os.path.realpath(root) for root in roots)}


def fingerprints(split: Split) -> dict[str, Any]:
    """Return the fingerprints of a split's manifest, features and label map, if it has one."""
    label_map = split.label_map_fingerprint
    return {
        "manifest": split.manifest_fingerprint,
        "features": dict(sorted(split.feature_fingerprints.items())),
        **({} if label_map is None else {"label_map": label_map}),
    }


def data_fingerprint(splits: Sequence[Split]) -> str:
    """Return one SHA-256 over the manifests of all splits; rows of one leaderboard share it.

    Features are left out, so that encoders can be compared on the same data.
    """
    manifests = {split.name: split.manifest_fingerprint for split in splits}
    return hashlib.sha256(json.dumps(manifests, sort_keys=True).encode()).hexdigest()


def machine(settings: EngineSettings) -> dict[str, Any]:
    """Return what the bits of a result depend on besides config and data."""
    on_gpu = settings.device != "cpu" and torch.cuda.is_available()
    kind = "cuda" if on_gpu else "cpu"
    return {
        "device": torch.cuda.get_device_name() if on_gpu else _processor(),
        "device_kind": kind,
        "slots": settings.slots_on(kind),
        "threads": settings.threads,
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
    }


def write_data_rows(splits: Sequence[Split], path: Path) -> None:
    """Write a digest of every row of every split, so that verification can name what changed."""
    tables = [pa.table(data_rows(split)) for split in splits]
    with replacing(path) as file:
        pq.write_table(pa.concat_tables(tables), file)


def data_rows(split: Split) -> dict[str, list[str]]:
    """Return columns `split, volumename, targets`, then digests of the features by input."""
    return {
        "split": [split.name] * len(split.volumes),
        "volumename": list(split.volumes),
        "targets": ["".join("-" if y == BLANK else str(y) for y in row) for row in split.targets],
        **{
            name: [digest.hex() for digest in row_digests(matrix)]
            for name, matrix in sorted(split.features.items())
        },
    }


def file_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file under a folder by relative path, without provenance."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != PROVENANCE)
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
    }


def changed_files(folder: Path, recorded: Mapping[str, str]) -> list[str]:
    """Return the recorded files that are missing or have changed."""
    return [
        name
        for name, digest in recorded.items()
        if not (folder / name).is_file()
        or hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest
    ]


def check_contained(folder: Path) -> None:
    """Check that a leaderboard's folder holds only files and folders, links followed.

    A link of a foreign leaderboard could make us read and quote any file that this user can read;
    reading a pipe could hang.

    Raises:
        VerificationError: it holds a link out of it, or something else, such as a pipe.
    """
    root = os.path.realpath(folder)
    for path in folder.rglob("*"):
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(root):
            raise VerificationError(f"{path}: links out of the leaderboard's folder, to {real}")
        if not real.is_file() and not real.is_dir():
            raise VerificationError(f"{path}: neither a file nor a folder")


def read_provenance(folder: Path) -> dict[str, Any]:
    """Read the provenance of a finished study; every file that it names is inside of the folder.

    Returns:
        The provenance as plain data.

    Raises:
        VerificationError: the file is missing, no JSON, or not what a leaderboard is written with.
    """
    path = folder / PROVENANCE
    try:
        provenance: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
        _Provenance.model_validate(provenance)
    except ValidationError as error:
        raise VerificationError(f"{path}: {explain(error, {})}") from None
    except (OSError, ValueError) as error:
        raise VerificationError(f"{path}: cannot read the provenance: {error}") from None
    return provenance


def rules_of(provenance: Mapping[str, Any]) -> Rules:
    """Return the rules by which a board's figures were computed; version 1 where none is named.

    Raises:
        VerificationError: a newer headsweep wrote the board.
    """
    version = provenance.get("figures_version", 1)
    if version not in RULES:
        raise VerificationError(
            f"{PROVENANCE}: figures_version must be one of {', '.join(map(str, RULES))}, "
            f"found {version}; a newer headsweep wrote this board"
        )
    return RULES[version]


def search_of(provenance: Mapping[str, Any]) -> SearchFacts | None:
    """Return how the search before a board ended; None where an old board does not say."""
    recorded = provenance.get("search")
    return None if recorded is None else SearchFacts.model_validate(recorded)


def _processor() -> str:
    """Return the model of the processor, whose vector width decides the order of sums."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())
