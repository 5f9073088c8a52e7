"""A closed, full or differently encoded standard output or error does not break a command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from headsweep.cli import streams
from tests.helpers.study_specs import DOCUMENT

FULL = Path("/dev/full")


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command line in a shell; `headsweep` is the one under test."""
    program = command.replace("headsweep", f"'{sys.executable}' -m headsweep", 1)
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {program}"],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a storage of one study, whose name is not ASCII."""
    folder = tmp_path_factory.mktemp("streams")
    document = DOCUMENT | {"study": {"name": "größe-Ω", "n_trials": 3}}
    (folder / "study.yaml").write_text(yaml.safe_dump(document, allow_unicode=True), "utf-8")
    ended = shell("headsweep create study.yaml --storage sqlite:///study.db", folder)
    assert ended.returncode == 0, ended.stderr
    return folder


STATUS = "headsweep status --storage sqlite:///study.db"
CREATE = "headsweep create study.yaml --storage sqlite:///study.db"


def test_status_in_other_encoding_replaces_unencodable_characters(folder: Path) -> None:
    ended = shell(STATUS, folder, PYTHONIOENCODING="iso-8859-1")
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert "größe-?".encode("iso-8859-1") in ended.stdout


@pytest.mark.parametrize("encoding", ["iso-8859-1", "ascii", "cp1251", "utf-8"])
def test_output_stream_in_other_encoding_replaces_unencodable_characters(
    tmp_path: Path, encoding: str
) -> None:
    streams.protect()  # registers how characters are replaced; pytest's own streams stay
    with (tmp_path / "out").open("wb") as file:
        stream = streams.OutputStream(file.fileno(), encoding)
        print("größe-Ω", file=stream)
        assert stream.fault is None
    assert (tmp_path / "out").read_bytes() == "größe-Ω\n".encode(encoding, "replace")


@pytest.mark.parametrize("command", [STATUS, "headsweep --help"])
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_command_with_a_closed_stream_ends_as_usual(
    folder: Path, command: str, closed: str
) -> None:
    assert shell(f"{command} {closed}", folder).returncode == 0


def test_error_with_closed_streams_keeps_its_exit_code(folder: Path) -> None:
    assert (
        shell("headsweep status nothing --storage sqlite:///study.db 2>&-", folder).returncode == 2
    )


@pytest.mark.slow
def test_closed_streams_do_not_mix_output_into_the_storage(folder: Path) -> None:
    """A database file opened as descriptor 1 would receive the printed text."""
    for closed in (">&- 2>&-", "<&- >&- 2>&-"):
        assert shell(f"{CREATE} {closed}", folder).returncode == 0
    assert shell(STATUS, folder).returncode == 0


def test_command_whose_output_pipe_is_closed_ends_as_usual(folder: Path) -> None:
    ended = shell(f"{STATUS} | true", folder)
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.slow
def test_command_on_a_full_disk_fails_only_if_it_prints_its_result(folder: Path) -> None:
    if not FULL.exists():
        pytest.skip("/dev/full is a device of Linux")
    assert shell(f"{CREATE} > {FULL}", folder).returncode == 0
    assert shell(f"{CREATE} > {FULL} 2> {FULL}", folder).returncode == 0
    ended = shell(f"{STATUS} > {FULL}", folder)
    assert ended.returncode == 1
    assert b"cannot write the output: No space left on device" in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "study.yaml", "--out", ""],
        ["finalize", "probe", "--out", " "],
        ["launch", "local", "probe", "--out", ""],
        ["export", "probe", "-o", ""],
        ["evaluate", "--checkpoint", ""],
        ["evaluate", "--out", ""],
        ["align", "--out", ""],
        ["scaling", "study.yaml", "--out", ""],
        ["data", "synth", ""],
        ["data", "subsets", "a.csv", "--budgets", "3", "--out", ""],
        ["leaderboard", "verify", ""],
    ],
    ids=" ".join,
)
def test_empty_path_is_refused_in_one_line(headsweep, arguments: list[str]) -> None:
    ended = headsweep(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert "must not be empty; '.' is the current folder" in ended.err
    assert ended.err.count("\n") == 1
