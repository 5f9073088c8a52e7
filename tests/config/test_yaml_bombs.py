"""Files that expand enormously are refused within a second and 200 MiB, before they are built.

All files are read in one child process, which measures its own processor time and peak memory, so
the test does not fail on a busy machine. It fails when a limit of `headsweep.config.yaml_files`,
its ban on anchors, or `MAX_CHARACTERS` or `MAX_MARKS` of `headsweep.config.overrides` is removed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.hardening

SECONDS, MIB = 1.0, 200

STUDY = """
study: {name: probe, n_trials: 2}
base: [head=mlp]
space:
  training.learning_rate: {type: float, low: 0.01, high: 0.1}
"""
DIMENSION = "  training.batch_size: {{type: categorical, choices: [{}]}}\n"


def laughs(levels: int, width: int) -> str:
    """Return a few hundred bytes whose aliases expand to `width ** levels` values."""
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines)


BOMBS: dict[str, tuple[str, str]] = {
    "aliases": (laughs(10, 10), "found an anchor or alias"),
    "an alias of itself": ("study: &a [*a]", "found an anchor or alias"),
    "merge keys": ("a: &a {b: 1}\nc: {<<: [*a, *a]}", "found an anchor or alias"),
    "more than 1 MB": (STUDY + "#" * 1_000_000, "at most 200000 bytes"),
    "20 MB": (STUDY + "#" * 20_000_000, "at most 200000 bytes"),
    "lists in lists": ("a: " + "[" * 90_000, "at most 20 levels"),
    "mappings in mappings": ("{a: " * 49_000, "at most 20 levels"),
    "block lists": ("- " * 90_000, "at most 20 levels"),
    "indented mappings": ("\n".join(" " * i + "a:" for i in range(600)), "at most 20 levels"),
    "complex keys": ("? " * 90_000, "at most 20 levels"),
    "keys": ("".join(f"k{i}: 1\n" for i in range(20_000)), "at most 2000 keys and values"),
    "equal keys": ("k: 1\n" * 38_000, "at most 2000 keys and values"),
    "choices": (STUDY + DIMENSION.format("1," * 90_000), "at most 2000 keys and values"),
    "tags": ("a: " + "!!x " * 48_000, "line"),
    "digits": ("a: " + "9" * 190_000, "at most 100 digits"),
    "hexadecimal digits": ("a: 0x" + "f" * 190_000, "at most 100 digits"),
    "one long override": (STUDY.replace("head=mlp", "x" * 190_000), "at most 4000 characters"),
    "a list in an override": (
        STUDY.replace("head=mlp", f'"head.hidden_dims=[{"1," * 90_000}1]"'),
        "at most 4000 characters",
    ),
    "many overrides": (
        STUDY.replace("head=mlp", ", ".join([f'"training.seed=[{"1," * 900}1]"'] * 80)),
        "overrides in a file must have at most 4000 characters",
    ),
    "a slow override": (
        STUDY.replace("head=mlp", f'head=mlp, "head.hidden_dims=[{"1," * 490}1]"'),
        "at most 100 items",
    ),
    "depth in an override": (
        STUDY.replace("head=mlp", f'"head.hidden_dims={"[" * 3900}"'), "500 are brackets"
    ),
    "a grid": (
        STUDY.replace("0.1}", "0.1, step: 1.0e-12}") + "sampler: {name: grid}\n",
        "at most 100000 points",
    ),
    "an exponent": (
        STUDY + "pruner: {name: successive_halving, min_early_stopping_rate: 1000000000}\n",
        "must be 0 to 1000000",
    ),
    "a layer": (STUDY.replace("head=mlp", "head=mlp, head.width=10000000000"), "less than"),
    "layers": (STUDY.replace("head=mlp", "head=mlp, head.depth=1000000000"), "less than or equal"),
    "epochs": (STUDY + "  training.max_epochs: {type: int, low: 1, high: 10000000000}\n",
               "less than or equal"),
}  # fmt: skip
"""Texts of study files, and words of the error that each must raise."""

CHILD = """
import json, resource, sys, time
from pathlib import Path
from headsweep.errors import InputError
from headsweep.config.files import read_config
from headsweep.search.study_file import load_study_file

resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
Path("sound.yaml").write_text(sys.argv[1])
load_study_file(Path("sound.yaml"), [])  # imports are not counted as cost of a bomb
for file in sorted(Path().glob("bomb*")):
    before, start = peak_mib(), time.process_time()
    try:
        (read_config if "config" in file.name else lambda path: load_study_file(path, []))(file)
        found = "accepted"
    except InputError as error:
        found = str(error)
    seconds = time.process_time() - start
    print(json.dumps([file.name, found[:300], seconds, peak_mib() - before]))
"""


def test_load_study_file_of_yaml_bomb_raises_within_a_second_and_200_mib(tmp_path: Path) -> None:
    names = {}
    for i, (name, (text, message)) in enumerate(BOMBS.items()):
        for kind in ("study", "config") if i % 8 == 0 else ("study",):
            file = f"bomb_{i:02}_{kind}.yaml"
            names[file] = (name, message)
            (tmp_path / file).write_text(text)
    code = [sys.executable, "-c", CHILD, STUDY]
    ended = subprocess.run(code, cwd=tmp_path, capture_output=True, text=True, check=True)
    results = [json.loads(line) for line in ended.stdout.splitlines()]
    assert {file for file, *_ in results} == names.keys()
    for file, found, seconds, mib in results:
        name, message = names[file]
        if file.endswith("study.yaml"):
            assert message in found or message == "line", (name, found)
        assert found != "accepted", name
        assert "\n" not in found, name
        assert (seconds < SECONDS, mib < MIB) == (True, True), (name, seconds, mib)


SWEEPS = [
    "range(0,1000000000000)", "range(0,1,0)", "range(0.0,1.0,1e-30)", "range(0,inf)",
    "range(0,nan)",
    "shuffle(range(0,1000000000000))", ",".join(["1"] * 490),
]  # fmt: skip


@pytest.mark.parametrize("sweep", SWEEPS)
def test_train_with_too_large_sweep_fails_in_one_line(headsweep, sweep: str) -> None:
    ended = headsweep("train", "-m", f"training.seed={sweep}", f"training.tape_position={sweep}")
    assert (ended.code, ended.err.count("\n")) == (2, 1)


def test_shipped_study_files_are_far_below_every_limit(tmp_path: Path) -> None:
    from headsweep.config.yaml_files import MAX_BYTES, MAX_DEPTH, MAX_NODES

    spaces = Path(__file__).parents[2] / "search_spaces"
    for file in spaces.rglob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        events = list(yaml.parse(text, Loader=yaml.SafeLoader))
        starts = [e for e in events if isinstance(e, yaml.NodeEvent)]
        assert len(text) * 100 < MAX_BYTES
        assert len(starts) * 10 < MAX_NODES
        assert sum(isinstance(e, yaml.CollectionStartEvent) for e in events) < 10 * MAX_DEPTH
