"""Untrusted names and paths cannot leave their folder or run shell commands.

Tests that failed before a fix say so. It was checked by hand that the others fail without
`config.escapes` or the constraint of `definition.StudyName`.
"""

from __future__ import annotations

import csv
import json
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from headsweep.config.data_sections import ColumnsConfig
from headsweep.config.overrides import compose_config
from headsweep.config.schema import escapes, to_dict
from headsweep.config.yaml_files import read_document, to_yaml
from headsweep.data.manifest import read_manifest
from headsweep.data.packing import pack
from headsweep.data.validation import check
from headsweep.errors import FeatureError, InputError, ManifestError, StudyError
from headsweep.launching.slurm import Resources, array_paths, render
from headsweep.search.spec import spec_from_json, spec_to_json
from headsweep.search.study_file import load_study_file
from headsweep.settings import EngineSettings
from tests.helpers.data_sets import config_of, write_dataset, write_feature, write_table
from tests.helpers.study_specs import DOCUMENT, make_spec

pytestmark = pytest.mark.hardening

HEADER = ["volumename", "visual_feature_path", "Emphysema", "Lung nodule"]
GOOD_NAMES = [
    "mlp-visual", "a", "7", "v1.2_b", "mit Leerzeichen", "Ärzte", "肺結節 研究", "исследование 2",
    "دراسة", "अध्ययन", "e\u0301tude", "x" * 200, "字" * 66,
]  # fmt: skip
BAD_NAMES = [
    "", " ", ".", "..", "../x", "/etc", "a/b", "a\\b", "~", "-rf", "$HOME", "$(touch x)", "`x`",
    "a;b", "a|b", "a&b", "a\nb", "a\0b", "a'b", 'a"b', "*", "a ", " a", "<b>", "\u202ea", "a\u200b",
    "x" * 201, "字" * 67, "#a", "%(x)s", "a\x1b[31m", "\udcff",
]  # fmt: skip


def test_study_name_in_any_script_or_with_spaces_is_accepted(tmp_path: Path) -> None:
    """Before the fix, only ASCII names without spaces were accepted."""
    for name in GOOD_NAMES:
        spec = make_spec(tmp_path, study={"name": name, "n_trials": 2})
        assert spec.name == name
        assert spec_from_json(spec_to_json(spec)).name == name
        (tmp_path / "outputs" / name / "logs").mkdir(parents=True)
        out = tmp_path / "outputs" / name
        script = render(name, EngineSettings(), Resources(workers=1), array_paths(out))
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        command = shlex.split(script.splitlines()[-1])
        assert command[command.index("worker") + 1] == name


def test_study_name_unsafe_in_path_or_shell_is_refused(tmp_path: Path, headsweep) -> None:
    """Before the fix, a name in the storage or of a scaling study could be any path."""
    sound = json.loads(spec_to_json(make_spec(tmp_path)))
    scaling = tmp_path / "scaling.yaml"
    for name in BAD_NAMES:
        with pytest.raises(StudyError, match="name must"):
            spec_from_json(json.dumps({**sound, "name": name}))
        if "\udcff" in name:
            continue  # not possible in a YAML file
        with pytest.raises(InputError):
            make_spec(tmp_path, study={"name": name, "n_trials": 2})
        file = {"name": name, "sources": {"a": "b.csv"}, "budgets": [1], "seeds": [0], "folds": 2}
        scaling.write_text(yaml.safe_dump(file))
        ended = headsweep("scaling", scaling)
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert "name must" in ended.err


def test_load_study_file_with_path_outside_its_folders_raises(tmp_path: Path) -> None:
    """Before the fix, all of these paths were accepted."""
    file = tmp_path / "study.yaml"
    for key in (
        "paths.output_dir",
        "paths.checkpoint_dir",
        "data.train_manifest",
        "data.val_manifest",
    ):
        for path in ("/etc/x", "../x", "a/../../x", ".."):
            file.write_text(yaml.safe_dump({**DOCUMENT, "base": ["head=linear", f"{key}={path}"]}))
            with pytest.raises(InputError, match="must be a relative path"):
                load_study_file(file, [])
    for base in (["data.test_manifests=[a.csv,/etc/b.csv]"], ["data.test_manifests=[../a.csv]"]):
        file.write_text(yaml.safe_dump({**DOCUMENT, "base": base}))
        with pytest.raises(InputError, match="must be a relative path"):
            load_study_file(file, [])
    file.write_text(yaml.safe_dump({**DOCUMENT, "base": ["paths.output_dir='mes études/lungs'"]}))
    assert load_study_file(file, []).config.paths.output_dir == "mes études/lungs"
    elsewhere = load_study_file(
        file, ["paths.output_dir=/scratch/x", "data.train_manifest=../y.csv"]
    )
    assert elsewhere.config.paths.output_dir == "/scratch/x"  # allowed on the command line


@pytest.mark.parametrize("path", ["/etc/x", "..", "../x", "a/../x", "a/..", "x\0"])
def test_escapes_with_absolute_or_parent_path_is_true(path: str) -> None:
    assert escapes(path)


@pytest.mark.parametrize(
    "path", ["x", "a/b", "..a", "a..", "a/..b/c", "...", "ü ö/肺.npz", "~/x", "$HOME"]
)
def test_escapes_with_path_below_folder_is_false(path: str) -> None:
    assert not escapes(path)


def test_read_manifest_with_path_as_volume_name_raises(tmp_path: Path) -> None:
    """Before the fix, `data prepare` with scan means wrote to a path given as a volume name."""
    for volume in ("../../train_1_a_1", "/etc/train_1_a_1", "a/train_1_a_1"):
        path = write_table(tmp_path / "m.csv", HEADER, [[volume, "a.npz", "1", "0"]])
        with pytest.raises(ManifestError, match="volumename must be a name"):
            read_manifest(path, ColumnsConfig(), None)


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A data set next to a folder outside its data root."""
    write_dataset(tmp_path)
    write_feature(tmp_path / "elsewhere", "secret.npz", np.ones((1, 4), np.float32))
    return tmp_path


def packed(root: Path, name: str) -> np.ndarray:
    rows = [["train_1_a_1", name, "1", "0"]]
    path = write_table(root / "manifests" / "train.csv", HEADER, rows)
    manifest = read_manifest(path, ColumnsConfig(), None)
    return pack(manifest, "visual", root / "features", root / "cache", progress=False).matrix


def test_pack_follows_links_within_data_root_and_refuses_others(linked: Path) -> None:
    """Before the fix, every link was followed."""
    image, secret = linked / "features" / "image", linked / "elsewhere" / "features"
    (image / "file.npz").symlink_to(secret / "secret.npz")
    (image / "relative.npz").symlink_to("../../elsewhere/features/secret.npz")
    (image / "twice.npz").symlink_to("relative.npz")
    (linked / "features" / "folder").symlink_to(secret)
    (linked / "features" / "up").symlink_to("..")
    (linked / "features-too").symlink_to(linked / "features")
    (linked / "features" / "sibling").symlink_to(linked / "elsewhere")
    for name in ("image/file.npz", "image/relative.npz", "image/twice.npz", "folder/secret.npz",
                 "up/elsewhere/features/secret.npz", "sibling/features/secret.npz"):  # fmt: skip
        with pytest.raises(
            FeatureError, match=r"a link leads out of paths\.data_root.*\(.*train\.csv:2\)"
        ):
            packed(linked, name)
        faults = check(config_of(linked, {"data.test_manifests": []}))
        assert [fault.row for fault in faults if "a link leads out" in fault.message] == [2]
    (image / "within.npz").symlink_to("train_2_a_1.npz")
    (linked / "features" / "same").symlink_to("image")
    for name in ("image/within.npz", "same/train_2_a_1.npz"):
        assert packed(linked, name).shape == (1, 4)
    (linked / "features").rename(linked / "moved")
    (linked / "features").symlink_to("moved")  # the root itself may be a link
    assert packed(linked, "image/train_1_a_1.npz").shape == (1, 4)


def test_train_with_paths_in_any_script_or_with_spaces_writes_results(
    tmp_path: Path, headsweep
) -> None:
    """Before the fix, non-ASCII letters in an override had to be quoted for Hydra."""
    root = tmp_path / "Müller & Söhne" / "肺 結節"
    write_dataset(root)
    image = root / "features" / "image"
    with (root / "manifests" / "train.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    for row, name in zip(rows, ("été 1.npz", "肺.npz", "a;b $(x) 'c'.npz"), strict=True):
        (root / "features" / row[1]).rename(image / name)
        row[1] = f"image/{name}"
    write_table(root / "manifests" / "Übung eins.csv", header, rows)
    runs = root / "Läufe mit Leerzeichen"
    ended = headsweep(
        "train", f"paths.data_root={root}/features", f"paths.manifest_dir={root}/manifests",
        f"paths.checkpoint_dir={runs}", "data.train_manifest=Übung eins.csv",
        "training.max_epochs=1",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert (runs / "model.safetensors").is_file()
    assert read_document(runs / "config.yaml")["data"]["train_manifest"] == "Übung eins.csv"


def test_to_yaml_of_text_that_looks_like_other_values_reads_back_equal(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    for name in (
        "1e-3",
        "010",
        "yes",
        "null",
        "~",
        "0x1",
        ".inf",
        "1.0",
        "[a",
        "{b",
        "a: b",
        "# c",
        "",
        "é\n",
    ):
        plain = to_dict(compose_config([], where="test"))
        plain["logging"]["run_name"] = name
        file.write_text(to_yaml(plain), encoding="utf-8")
        assert read_document(file) == plain
