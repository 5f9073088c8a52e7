"""Fuzzing for a fixed time: any bytes are read, or refused with an error that names the file.

Seeds are fixed, so a failure repeats. Inputs that longer runs find are added to the corpus by hand
(see `tests/helpers/fuzz_targets.py`). A crash gets a test of its own.
"""

import csv
import io
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement

from headsweep.cli import exits
from headsweep.config.data_sections import ColumnsConfig
from headsweep.config.overrides import compose_config
from headsweep.data.manifest import read_manifest
from headsweep.errors import ConfigError, InputError, ManifestError
from headsweep.search.study_file import load_study_file
from tests.helpers.fuzz_targets import TARGETS, refused
from tests.helpers.study_specs import DOCUMENT

pytestmark = pytest.mark.hardening

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).parent / "fuzz_corpus"
SEED = 20261122
SECONDS = 1

settings.register_profile(
    "fuzz",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
fuzzed = settings(settings.get_profile("fuzz"), max_examples=100)

TEXTS = st.text(max_size=12) | st.sampled_from(
    ["", "null", "1e999", "-0", ".nan", "${a}", "???", "_target_", "../x", "\0", "a\nb", "\ud800"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
)


def is_required(name: str) -> bool:
    """Return whether the extra `test` installs a package on this platform and Python."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (found,) = (r for r in map(Requirement, project["optional-dependencies"]["test"])
                if r.name == name)  # fmt: skip
    return found.marker is None or found.marker.evaluate()


# If the marker of atheris excludes this platform, this test is left out; the hypothesis tests below
# cover the same targets everywhere. If the marker includes it, a missing atheris is a failure.
if is_required("atheris"):

    @pytest.mark.parametrize("target", TARGETS)
    def test_fuzz_targets_under_atheris_do_not_crash(target: str, tmp_path: Path) -> None:
        """Fails when `read_feature` lets an error of a parser through, or a reader of documents an
        error of PyYAML.
        """
        if find_spec("atheris") is None:
            pytest.fail("this test needs atheris, which the extra `test` installs", pytrace=False)
        (tmp_path / "new").mkdir()
        limits = [f"-max_total_time={SECONDS}", f"-seed={SEED}", "-rss_limit_mb=2048"]
        places = [tmp_path / "new", CORPUS / target, f"-artifact_prefix={tmp_path}/"]
        command = [sys.executable, "-m", "tests.helpers.fuzz_targets", target, *places, *limits]
        ended = subprocess.run([*command, "-timeout=60"], cwd=ROOT, capture_output=True, text=True)
        assert ended.returncode == 0, f"seed {SEED}\n{ended.stderr[-2000:]}"
        assert "DONE" in ended.stderr


@pytest.mark.parametrize("target", TARGETS)
@fuzzed
@given(data=st.data())
def test_fuzz_targets_with_changed_corpus_files_do_not_crash(
    target: str, data: st.DataObject
) -> None:
    """The same targets under hypothesis: some bytes are replaced, removed or repeated."""
    files = sorted((CORPUS / target).iterdir())
    content = bytearray(data.draw(st.sampled_from(files)).read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(len(content), start + 8)))
        content[start:end] = data.draw(st.binary(max_size=8))
    TARGETS[target](bytes(content))


def paths_in(node: object, path: tuple = ()) -> list[tuple]:
    if not isinstance(node, dict):
        return [path]
    return [path, *(place for key in node for place in paths_in(node[key], (*path, key)))]


def with_value(node: dict, path: tuple, value: object) -> object:
    if not path:
        return value
    return node | {path[0]: with_value(node[path[0]], path[1:], value)}


@fuzzed
@given(data=st.data())
def test_load_study_file_with_random_values_loads_or_raises_one_line(
    tmp_path: Path, data: st.DataObject
) -> None:
    document: object = DOCUMENT
    for _ in range(data.draw(st.integers(1, 3))):
        if isinstance(document, dict):
            place = data.draw(st.sampled_from(paths_in(document)))
            document = with_value(document, place, data.draw(VALUES))
    path = tmp_path / "study.yaml"
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        spec = load_study_file(path, ())
    except InputError as error:
        refused(error, path)
    else:
        assert spec.n_trials >= 1


SOUND_ROW = ["train_1_a_1", "image/train_1_a_1.npz", "1"]
HEADER = ["volumename", "visual_feature_path", "Emphysema"]
CELLS = TEXTS | st.sampled_from(
    ["1", "0", "1.0", "2", "train_1_a_1", "a/b.npz", "/etc/x", "Emphysema"]
)


@fuzzed
@given(data=st.data())
def test_read_manifest_with_random_cells_reads_or_raises_one_line(
    tmp_path: Path, data: st.DataObject
) -> None:
    """Fails when a row with more or fewer cells than the header is accepted."""
    table = [list(HEADER), list(SOUND_ROW), ["train_2_a_1", "image/x.npz", "0"]]
    for _ in range(data.draw(st.integers(0, 3))):
        row = data.draw(st.sampled_from(table))
        place = data.draw(st.integers(0, len(row)))
        row[place : data.draw(st.integers(place, len(row)))] = data.draw(
            st.lists(CELLS, max_size=2)
        )
    text = io.StringIO()
    csv.writer(
        text, quoting=data.draw(st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
    ).writerows(table)
    path = tmp_path / "train.csv"
    content = bytearray(text.getvalue().encode("utf-8", "surrogatepass"))
    if data.draw(st.booleans()) and content:
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        manifest = read_manifest(path, ColumnsConfig(), None)
    except ManifestError as error:
        refused(error, path)
    else:
        assert len(manifest.volumes) == len(set(manifest.volumes)) == len(manifest.targets)
        for paths in manifest.feature_paths.values():
            assert not [p for p in paths if p.startswith("/") or ".." in p.split("/")]


KEYS = st.sampled_from(
    [
        "training.seed",
        "head",
        "features",
        "head.width",
        "data.test_manifests",
        "hydra.run.dir",
        "+x",
    ]
)
SYNTAX = st.sampled_from(
    ["=", "", "~", "+", "++", "@", ":", "=[", "={", "=${", "=choice(", "\\", "'"]
)


@fuzzed
@given(key=KEYS | TEXTS, sign=SYNTAX, value=TEXTS | SCALARS.map(str))
def test_compose_config_with_random_override_composes_or_raises_one_line(
    key: str, sign: str, value: str
) -> None:
    """Fails when `compose` lets an error of Hydra or OmegaConf through."""
    override = f"{key}{sign}{value}"
    message = ""
    try:
        compose_config([override], where="the command line")
    except ConfigError as error:
        message = exits.line(error)
    assert message.isprintable(), override
