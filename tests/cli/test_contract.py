"""The command line's contract: commands, options, help, and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

COMMANDS = {
    "run": {"--storage", "--workers", "--device", "--slots", "--n-trials", "--out"},
    "create": {"--storage", "--n-trials"},
    "worker": {"--storage", "--device", "--slots"},
    "launch local": {"--storage", "--workers", "--device", "--slots", "--out"},
    "launch slurm": {"--storage", "--workers", "--partition", "--gres", "--time", "--dry-run"},
    "finalize": {"--storage", "--out", "--reopen"},
    "status": {"--storage", "--json"},
    "export": {"--storage", "--trial", "-o"},
    "enqueue": {"--storage", "--from-study", "--top"},
    "studies": set(),
    "leaderboard show": {"--markdown", "--csv", "--html"},
    "leaderboard verify": {"--recompute"},
    "dashboard": {"--storage", "--port"},
    "data synth": set(),
    "data prepare": {"--labels-csv", "--labels_csv", "--output-file", "--row-policy"},
    "data subsets": {"--budgets", "--seeds", "--out"},
    "data folds": {"--folds", "--seed", "--out"},
    "data pack": set(),
    "data check": set(),
    "train": {"--config", "--multirun"},
    "evaluate": {"--checkpoint", "--thresholds", "--ctclip"},
    "align": {"--checkpoint", "--protocol", "--ctclip"},
    "scaling": {"--device", "--out"},
}


@pytest.mark.parametrize(("command", "options"), COMMANDS.items(), ids=COMMANDS)
def test_help_of_every_command_names_its_options(headsweep, command, options):
    ended = headsweep(*command.split(), "--help")
    assert ended.code == 0
    assert ended.err == ""
    assert not [part for part in ("Args:", "Returns:", "Raises:") if part in ended.out]
    missing = {option for option in options if option not in ended.out}
    assert not missing
    assert "--debug" in ended.out


def test_headsweep_without_command_shows_help_and_exits_with_2(headsweep):
    ended = headsweep()
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("Usage: headsweep ")


def test_help_lists_every_command(headsweep):
    ended = headsweep("--help")
    assert ended.code == 0
    assert not {c for c in COMMANDS if f"\n  {c.split()[0]} " not in ended.out}


def test_version_names_the_commit_of_the_code(headsweep):
    from importlib.metadata import version

    ended = headsweep("--version")
    asked = ("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    commit = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert ended.code == 0
    assert ended.out == f"headsweep {version('headsweep')} ({commit.strip()})\n"


def test_studies_lists_the_shipped_files_or_prints_one(headsweep):
    listed = headsweep("studies")
    assert listed.code == 0
    names = [line.split()[0] for line in listed.out.splitlines()]
    files = sorted((ROOT / "search_spaces").rglob("*.yaml"))
    assert names == [
        f.relative_to(ROOT / "search_spaces").with_suffix("").as_posix() for f in files
    ]
    text = (ROOT / "search_spaces" / "quickstart.yaml").read_text(encoding="utf-8")
    assert headsweep("studies", "quickstart").out == text
    ended = headsweep("studies", "quickstop")
    assert ended.code == 2
    assert "must be one of linear_grid, linear_grid_unpruned, linear_text" in ended.err


def test_help_loads_no_heavy_library():
    """Shell completion and typing errors must be fast; importing any of these takes long."""
    heavy = ["torch", "optuna", "sqlalchemy", "hydra", "pydantic", "numpy", "matplotlib", "pyarrow"]
    code = (
        "import sys, runpy, json\n"
        f"sys.argv = ['headsweep', '--help']\n"
        "try:\n"
        f"    runpy.run_module('headsweep', run_name='__main__')\n"
        "except SystemExit as end:\n"
        f"    print(json.dumps([end.code, [m for m in {heavy!r} if m in sys.modules]]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run"], "Missing argument 'STUDY.yaml'"),
        (["lunch"], "No such command 'lunch'"),
        (["run", "study.yaml", "--worker", "2"], "No such option"),
        (["run", "study.yaml", "--workers", "0"], "0 is not in the range 1<=x<=10000"),
        (["run", "study.yaml", "--slots", "many"], "'many' is not a valid integer"),
        (["run", "study.yaml", "--device", "gpu"], "must be auto, cpu, cuda or cuda:i"),
        (["export", "study", "--trial", "last", "-o", "x.yaml"], "must be best or the number"),
        (["export", "study"], "Missing option '-o'"),
        (["leaderboard", "show", "no/such/folder"], "does not exist"),
        (["dashboard", "--port", "99999"], "99999 is not in the range"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_error_is_one_line_with_exit_code_2(headsweep, args, message):
    ended = headsweep(*args)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err
    assert ended.err.count("\n") == 1


def test_debug_anywhere_on_the_line_shows_the_traceback(headsweep):
    quiet = headsweep("train", "training.batch_size=none")
    assert quiet.code == 2
    assert "Traceback" not in quiet.err
    for args in (
        ["--debug", "train", "training.batch_size=none"],
        ["train", "--debug", "training.batch_size=none"],
        ["train", "training.batch_size=none", "--debug"],
    ):
        ended = headsweep(*args)
        assert ended.code == 2
        assert ended.err.startswith("Traceback")
        assert ended.err.splitlines()[-1] == quiet.err.strip()


def test_output_to_a_closed_pipe_prints_no_error():
    """As in `headsweep --help | head -1`: the pipe is closed during writing."""
    command = f"'{sys.executable}' -m headsweep run --help | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
