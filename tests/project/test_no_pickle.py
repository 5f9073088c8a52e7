"""No pickle is read or written: checked in the source by a linter, and at run time by a hook.

Pickles in feature files are covered by `tests/data/test_features.py`, samplers that keep pickles in
a shared storage by `tests/search/test_samplers_and_pruners.py`.
"""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.version import Version

from headsweep.data.synthetic.generate import synthesize

pytestmark = pytest.mark.hardening

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))

FORBIDDEN = {
    "pickle.load": "import pickle\nx = pickle.load(open('f', 'rb'))\n",
    "pickle.loads by another name": "from pickle import loads as read\nx = read(b'')\n",
    "pickle.dump": "import pickle\npickle.dump(1, open('f', 'wb'))\n",
    "_pickle": "import _pickle\nx = _pickle.loads(b'')\n",
    "Unpickler": "from pickle import Unpickler\n",
    "marshal": "import marshal\nx = marshal.loads(b'')\n",
    "shelve": "import shelve\nx = shelve.open('f')\n",
    "joblib": "import joblib\nx = joblib.load('f')\n",
    "cloudpickle": "import cloudpickle\n",
    "dill": "from dill import loads\n",
    "jsonpickle": "import jsonpickle\n",
    "pandas": "import pandas as pd\nx = pd.read_pickle('f')\n",
    "numpy": "import numpy as np\nx = np.load('f', allow_pickle=True)\n",
    "numpy, by position": "import numpy as np\nx = np.load('f', None, True)\n",
    "numpy's reader": "from numpy.lib import format\nx = format.read_array(open('f'), True)\n",
    "torch.load": "import torch\nx = torch.load('f')\n",
    "torch.load of all": "import torch\nx = torch.load('f', weights_only=False)\n",
    "torch.save": "import torch\ntorch.save(1, 'f')\n",
}


def lint(text: str) -> tuple[int, str]:
    ruff = Path(sys.executable).with_name("ruff")
    # In preview mode ruff prints names of rules, not their codes.
    command = [ruff, "check", "--no-cache", "--no-preview", "--output-format=concise"]
    command.append("--ignore=D,DOC,I,F,PTH,SIM")
    place = ["--stdin-filename", "src/headsweep/data/new.py", "-"]
    ended = subprocess.run([*command, *place], input=text, cwd=ROOT, capture_output=True, text=True)
    return ended.returncode, ended.stdout


def test_linter_with_any_pickle_call_reports_it() -> None:
    """Before rule `TID251`, numpy, joblib, cloudpickle and torch.load were not reported."""
    for name, text in FORBIDDEN.items():
        code, output = lint(text)
        assert code == 1, name
        assert any(rule in output for rule in ("S301", "S302", "TID251")), (name, output)
    code, output = lint("from headsweep.data.features import read_feature\n")
    assert code == 0, output


def test_pickle_rules_are_suppressed_at_known_lines_only() -> None:
    """Fails for any further `noqa` of these rules. The allowed lines parse JSON whose nesting was
    checked, import the error that torch raises, and call `torch.load`.
    """
    rules = ("S301", "S302", "TID251")
    exempt = [
        (path.name, line.partition("#")[0].strip())
        for path in SOURCES
        for line in path.read_text().splitlines()
        if "noqa" in line and any(rule in line for rule in rules)
    ]
    call = 'content: object = torch.load(file, map_location="cpu", weights_only=True)'
    error = "from pickle import UnpicklingError"
    assert exempt == [
        ("torch_files.py", error),
        ("torch_files.py", call),
        ("json_text.py", "return json.loads(text)"),
    ]


def test_torch_load_reads_weights_only_with_a_safe_version() -> None:
    """Fails without `weights_only=True` in `data/torch_files.py`, and for a floor below 2.10."""
    calls = [
        node
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert calls
    for call in calls:
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert options.get("weights_only") == "True"

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (torch_,) = (one for one in map(Requirement, project["dependencies"]) if one.name == "torch")
    for unsafe in ("2.5.1", "2.6.0", "2.9.1"):
        assert not torch_.specifier.contains(unsafe)
    assert Version(torch.__version__) >= Version("2.10")


UNPICKLED: list[str] = []


@pytest.fixture
def watched():
    """Names that were unpickled. The audit hook cannot be removed, so it is disabled at the end."""
    active = True

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if active and event == "pickle.find_class":
            UNPICKLED.append(".".join(map(str, arguments)))

    sys.addaudithook(watch)
    UNPICKLED.clear()
    yield UNPICKLED
    active = False


STUDY = """
study: {name: tiny, n_trials: 3, seed: 0}
base: [head=linear, training.max_epochs=2]
space: {training.learning_rate: {type: float, low: 1.0e-3, high: 1.0e-1}}
"""


def test_commands_read_and_write_no_pickle(
    tmp_path: Path, headsweep, watched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when a training state is written by `torch.save`, or a config by `pickle.dump`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADSWEEP_CACHE", "cache")
    sizes = {"patients_train": 20, "patients_valid": 20, "patients_test": 12}
    synthesize(Path("data"), **sizes, width=96, seed=3, progress=False)
    Path("tiny.yaml").write_text(STUDY)
    places = ("paths.data_root=data/features", "paths.manifest_dir=data/manifests")
    store = ("--storage", "sqlite:///tiny.db")
    for command in (
        ("train", "head=linear", "training.max_epochs=2", *places),
        ("train", "training.max_epochs=3", "training.resume.enabled=true", *places),
        ("create", "tiny.yaml", *places, *store),
        ("worker", "tiny", *store),
        ("export", "tiny", "-o", "best.yaml", *store),
        ("train", "--config", "best.yaml", "paths.checkpoint_dir=again"),
        ("evaluate", "--checkpoint", "again", "--thresholds", "none"),
    ):
        ended = headsweep(*command)
        assert ended.code in (0, 2 if "training.max_epochs=3" in command else 0), ended.err
    assert watched == []

    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert ".safetensors" in suffixes
    allowed = {".safetensors", ".json", ".jsonl", ".yaml", ".csv", ".parquet", ".npy", ".npz"}
    assert suffixes <= allowed | {".db", ".db-wal", ".db-shm", ""}
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.suffix != ".npz":
            assert not path.read_bytes().startswith((b"\x80", b"PK")), path
