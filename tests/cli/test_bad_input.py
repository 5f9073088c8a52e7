"""Bad input to `headsweep run`: exit code 2, one line that says where, and no file written."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from headsweep.data.ct_rate.names import LABELS
from headsweep.search.study_file import load_study_file
from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy

STUDY: dict[str, Any] = {
    "study": {"name": "tiny", "n_trials": 2, "seed": 1},
    "base": ["head=linear", "features=visual", "training.max_epochs=2"],
    "space": {"training.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}},
    "sampler": {"name": "random"},
    "pruner": {"name": "none"},
    "finalists": {"top_k": 1, "seeds": [0]},
}


@dataclass
class Input:
    """Valid input of `headsweep run`, which each case makes invalid in one way."""

    folder: Path
    study: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(STUDY))
    options: list[str] = field(default_factory=list)
    storage: str = ""
    out: str = ""

    def __post_init__(self) -> None:
        self.storage = self.storage or f"sqlite:///{self.folder / 'study.db'}"
        self.out = self.out or str(self.folder / "board")

    @property
    def manifests(self) -> Path:
        return self.folder / "data" / "manifests"

    @property
    def features(self) -> Path:
        return self.folder / "data" / "features"

    def command(self) -> list[str]:
        file = self.folder / "study.yaml"
        file.write_text(yaml.safe_dump(self.study, sort_keys=False))
        overrides = [f"paths.data_root={self.features}", f"paths.manifest_dir={self.manifests}"]
        places = ["--storage", self.storage, "--out", self.out]
        return ["run", str(file), *overrides, "--workers", "1", *places, *self.options]


def unknown_study_key(given: Input) -> str:
    given.study["finalist"] = given.study.pop("finalists")
    return "study.yaml:finalist: unknown key 'finalist'"


def unknown_space_key(given: Input) -> str:
    given.study["space"] = {"training.learning_rat": {"type": "float", "low": 0.1, "high": 1.0}}
    return "Did you mean 'training.learning_rate'?"


def bad_bound(given: Input) -> str:
    given.study["space"]["training.learning_rate"]["low"] = 1.0
    return "study.yaml:space.training.learning_rate"


def wrong_type(given: Input) -> str:
    given.study["study"]["n_trials"] = "many"
    return "study.yaml:study.n_trials"


def missing_study_file(given: Input) -> str:
    given.options = []
    given.command = lambda: ["run", str(given.folder / "absent.yaml")]  # type: ignore[method-assign]
    return "absent.yaml"


def missing_train_manifest(given: Input) -> str:
    (given.manifests / "train.csv").unlink()
    return "manifests/train.csv"


def missing_test_manifest(given: Input) -> str:
    (given.manifests / "test_manual_all.csv").unlink()
    return "manifests/test_manual_all.csv"


def label_absent_from_a_manifest(given: Input) -> str:
    given.options = ["training.target_labels=[Lung nodule,Fracture]"]
    return "'Fracture'"


def label_absent_from_a_test_manifest(given: Input) -> str:
    manifest = given.manifests / "test_manual_all.csv"
    manifest.write_text(manifest.read_text().replace("Lung nodule", "Nodule", 1))
    return "manifests/test_manual_all.csv"


def feature_width_that_differs(given: Input) -> str:
    file = sorted((given.features / "image").iterdir())[0]
    np.savez(file, arr=np.zeros((1, 7), np.float32))
    return file.name


def override_of_an_unknown_key(given: Input) -> str:
    given.options = ["training.learning_rat=0.1"]
    return "Did you mean 'training.learning_rate'?"


def override_that_is_no_assignment(given: Input) -> str:
    given.options = ["learning_rate"]
    return "an override must read key=value, found 'learning_rate'"


def unwritable_output(given: Input) -> str:
    (given.folder / "file").write_text("")
    given.out = str(given.folder / "file" / "board")
    return "file/board"


def unreachable_storage(given: Input) -> str:
    given.storage = "postgresql+psycopg://user:s3cret@127.0.0.1:1/studies"
    return "127.0.0.1"


def unreachable_storage_with_its_password_in_the_query(given: Input) -> str:
    given.storage = "postgresql+psycopg://user@127.0.0.1:1/studies?password=s3cret"
    return "127.0.0.1"


def storage_in_a_folder_that_cannot_be(given: Input) -> str:
    (given.folder / "file").write_text("")
    given.storage = f"sqlite:///{given.folder}/file/study.db"
    return "file"


def storage_of_an_unknown_kind(given: Input) -> str:
    given.storage = "nosql://user:s3cret@host/studies"
    return "nosql"


def study_that_exists_with_another_definition(given: Input) -> str:
    study_file, *overrides = given.command()[1:4]
    storage = open_storage(given.storage, create=True)
    StoredStudy.create(load_study_file(Path(study_file), overrides), storage)
    storage.database.close()
    given.study["space"]["training.learning_rate"]["high"] = 0.2
    return "study 'tiny' exists with another definition"


def unknown_reference(given: Input) -> str:
    given.study["finalists"]["references"] = ["knn", "logistic_regresion"]
    return "unknown reference 'logistic_regresion'. Did you mean 'logistic_regression'?"


def zero_shot_without_prompts(given: Input) -> str:
    given.study["finalists"]["references"] = ["zero_shot"]
    return "study.yaml:finalists.references: zero_shot needs a file of prompt embeddings"


def missing_prompts(given: Input) -> str:
    given.options = ["data.zero_shot=absent.npz"]
    return "file of prompts not found: "


def prompts_without_a_label(given: Input) -> str:
    np.savez(given.manifests / "prompts.npz", Atelectasis=np.ones(96))
    given.options = ["data.zero_shot=prompts.npz"]
    return "prompts.npz: label 'Medical material' has no prompt"


def prompts_of_another_width(given: Input) -> str:
    np.savez(given.manifests / "prompts.npz", **dict.fromkeys(LABELS, np.ones(95)))
    given.options = ["data.zero_shot=prompts.npz"]
    return "must be 96 wide, as the visual features, found shape (95,)"


def prompts_that_are_not_finite(given: Input) -> str:
    np.savez(given.manifests / "prompts.npz", **dict.fromkeys(LABELS, np.full(96, np.nan)))
    given.options = ["data.zero_shot=prompts.npz"]
    return "prompts.npz: prompt 'Medical material' must be finite"


CASES: list[Callable[[Input], str]] = [
    unknown_study_key,
    unknown_space_key,
    bad_bound,
    wrong_type,
    missing_study_file,
    missing_train_manifest,
    missing_test_manifest,
    label_absent_from_a_manifest,
    label_absent_from_a_test_manifest,
    feature_width_that_differs,
    override_of_an_unknown_key,
    override_that_is_no_assignment,
    unwritable_output,
    unreachable_storage,
    unreachable_storage_with_its_password_in_the_query,
    storage_in_a_folder_that_cannot_be,
    storage_of_an_unknown_kind,
    study_that_exists_with_another_definition,
    unknown_reference,
    zero_shot_without_prompts,
    missing_prompts,
    prompts_without_a_label,
    prompts_of_another_width,
    prompts_that_are_not_finite,
]


@pytest.fixture(scope="module")
def pristine_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic data set."""
    from headsweep.data.synthetic.generate import synthesize

    folder = tmp_path_factory.mktemp("pristine") / "data"
    synthesize(
        folder,
        patients_train=60,
        patients_valid=30,
        patients_test=30,
        width=96,
        seed=1,
        progress=False,
    )
    return folder


@pytest.fixture
def given(tmp_path: Path, pristine_data: Path, monkeypatch: pytest.MonkeyPatch) -> Input:
    monkeypatch.setenv("HEADSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pristine_data, tmp_path / "data")
    return Input(tmp_path)


def files_of(folder: Path) -> set[Path]:
    """Return all paths in a folder, without the cache of packed features."""
    return {p for p in folder.rglob("*") if p.relative_to(folder).parts[0] != "cache"}


@pytest.mark.parametrize("spoil", CASES, ids=[case.__name__ for case in CASES])
def test_run_with_bad_input_prints_one_line_and_writes_nothing(headsweep, given, spoil):
    place = spoil(given)
    command = given.command()
    before = files_of(given.folder)
    ended = headsweep(*command)
    assert ended.code == 2, ended.err
    assert ended.err.startswith("Error: ")
    assert ended.err.count("\n") == 1
    assert place in ended.err
    assert "s3cret" not in ended.out + ended.err
    assert files_of(given.folder) == before
