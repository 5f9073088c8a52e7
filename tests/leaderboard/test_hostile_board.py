"""An untrusted leaderboard is refused in one line, and no file outside of its folder is read."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headsweep.errors import VerificationError
from headsweep.leaderboard.provenance import changed_files, read_provenance
from headsweep.leaderboard.table import ADDED, INPUTS

OUTSIDE = ("/etc/passwd", "../secret", "finalists/../../secret", "..", "a\0b")
WRONG = (None, -1, "x", [], {}, [[]], {"_target_": "os.system"}, float("nan"))
READ = ("study", "study_fingerprint", "n_trials_searched", "seeds", "finalists", "data", "machine",
        "files")  # fmt: skip


def provenances(sound: dict[str, Any]) -> Iterator[str]:
    """Yield malformed contents of `provenance.json`."""
    for name in OUTSIDE:
        yield json.dumps(sound | {"files": {**sound["files"], name: "0" * 64}})
    for key in READ:
        yield json.dumps({name: value for name, value in sound.items() if name != key})
        for value in WRONG:
            if not ((key in ("study", "study_fingerprint") and value == "x")
                    or (key == "n_trials_searched" and value == -1)
                    or (key in ("data", "files") and isinstance(value, dict))):  # fmt: skip
                yield json.dumps(sound | {key: value})
    for key in sound["machine"].keys() & {"device", "device_kind", "slots", "threads", "torch"}:
        yield json.dumps(sound | {"machine": sound["machine"] | {key: [1]}})
    for key in ("trial", "value", "config"):
        (first, *others) = sound["finalists"]
        yield json.dumps(sound | {"finalists": [first | {key: "x"}, *others]})
    yield from ("", "null", "[]", "{}", "{", "[" * 100_000, "9" * 10_000, "\ufeff{}")


def assert_refused(ended: Any, what: object) -> None:
    assert ended.code in (1, 2), (what, ended)
    assert ended.err.startswith("Error: "), (what, ended.err)
    assert ended.err.count("\n") == 1, (what, ended.err)
    assert "--debug shows where" not in ended.err, (what, ended.err)
    assert ended.out == "", what


def test_verify_with_malformed_provenance_is_refused_in_one_line(board, headsweep):
    """Missing keys once ended in a traceback, and any path listed in the file was read."""
    path = board / "provenance.json"
    sound = json.loads(path.read_text())
    for text in provenances(sound):
        path.write_text(text)
        assert_refused(headsweep("leaderboard", "verify", board), text[:200])
        with pytest.raises(VerificationError, match="provenance"):
            read_provenance(board)


def test_read_provenance_with_a_path_outside_the_folder_reads_no_file(board, monkeypatch):
    """The digest of a file outside of the folder would reveal its content to the board's author."""
    (board.parent / "secret").write_text("secret")
    sound = json.loads((board / "provenance.json").read_text())
    assert changed_files(board, sound["files"]) == []
    read = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or b"")
    for name in OUTSIDE:
        text = json.dumps(sound | {"files": {name: "0" * 64}})
        (board / "provenance.json").write_text(text)
        with pytest.raises(
            VerificationError, match="not a file name inside of the leaderboard's folder"
        ):
            read_provenance(board)
    assert read == []


@pytest.mark.parametrize("what", ["file", "folder", "chain", "nothing", "itself", "pipe"])
def test_show_and_verify_with_a_link_or_pipe_leaving_the_folder_are_refused(
    board, finished, headsweep, what
):
    """`show` once accepted such boards and read the target of any link.

    Links within the folder are allowed.
    """
    outside = board.parent / "outside"
    (outside / "seed_0").mkdir(parents=True)
    (outside / "secret").write_text("3.14159")
    (board / "finalists" / "1" / "best").symlink_to("seed_0")
    assert headsweep("leaderboard", "show", board).code == 0
    victim = board / "finalists" / "1" / "metrics.json"
    victim.unlink()
    if what == "pipe":
        os.mkfifo(victim)
    elif what == "chain":
        (board / "between").symlink_to(outside)
        victim.symlink_to(board / "between" / "secret")
    else:
        places = {"file": outside / "secret", "folder": outside, "nothing": board.parent / "none"}
        victim.symlink_to(places.get(what, victim))
    for way in (("show", board), ("show", finished, board), ("verify", board),
                ("verify", board, "--recompute")):  # fmt: skip
        ended = headsweep("leaderboard", *way)
        assert_refused(ended, (what, way))
        assert ("links out of the leaderboard's folder" in ended.err) == (
            what not in ("itself", "pipe")
        )
        assert "3.14" not in ended.err


def tables(sound: Path) -> Iterator[bytes]:
    """Yield malformed contents of `leaderboard.csv`."""
    with sound.open(newline="") as file:
        header, first, *others = csv.reader(file)
    text = sound.read_bytes()
    yield from (
        b"",
        b"\n",
        b"a,b\n1,2\n",
        b"\xff" + text,
        text + b"x\n",
        text + b"\0",
        b"," * 200_000,
    )
    yield text.splitlines(keepends=True)[0]
    yield text + text.splitlines(keepends=True)[1]  # the same rank twice

    def table(names: list[str], row: list[str]) -> bytes:
        return "\n".join(",".join(cells) for cells in (names, row, *others)).encode()

    for place, name in enumerate(header):
        if "/" in name:
            for value in ("x", "nan", "-inf", "[]"):
                yield table(header, [*first[:place], value, *first[place + 1 :]])
        lacking = name in ("n_trials_searched", INPUTS, *ADDED) or name.startswith("test")
        if not lacking:  # a board may lack these
            yield table([*header[:place], "other", *header[place + 1 :]], first)
    config = header.index("config")
    for path in (*OUTSIDE[:-1], "finalists/1/../../../x/config.yaml"):
        yield table(header, [*first[:config], path, *first[config + 1 :]])
    for stem in ("../../x", "/etc", "*", "a/b"):
        yield table([name.replace("test_manual_all", stem) for name in header], first)


def test_show_and_verify_with_a_malformed_table_are_refused_in_one_line(board, finished, headsweep):
    """A missing column or a cell that is no number once ended in a traceback.

    The column `config` could name any folder.
    """
    path = board / "leaderboard.csv"
    ways = [("show", board), ("show", board, "--html"), ("show", finished, board),
            ("verify", board, "--recompute"), ("show", board, "--markdown")]  # fmt: skip
    for turn, content in enumerate([*tables(path)]):
        path.write_bytes(content)
        way = ways[turn % len(ways)]
        assert_refused(headsweep("leaderboard", *way), (way, content[:300]))


def test_show_and_verify_with_malformed_predictions_or_metrics_are_refused(
    board, finished, headsweep
):
    """Seeds with different rows, and scores that are no numbers, were once accepted."""
    finalist = board / "finalists" / "1"
    predictions = finalist / "seed_0" / "predictions" / "test_manual_all.parquet"
    table = pq.read_table(predictions)
    (score, *_) = (name for name in table.column_names if name.startswith("y_score:"))
    (true, *_) = (name for name in table.column_names if name.startswith("y_true:"))
    n = len(table)
    changes = {
        "no rows": table.slice(0, 0),
        "other rows": table.slice(1),
        "no labels": table.select(["volumename", "patient"]),
        "text": table.set_column(table.column_names.index(score), score, pa.array(["x"] * n)),
        "nothing": table.set_column(table.column_names.index(score), score, pa.nulls(n)),
        "a class 7": table.set_column(
            table.column_names.index(true), true, pa.array([7] * n, pa.uint8())
        ),
    }
    sound = predictions.read_bytes()
    ways = (("show", finished, board), ("verify", board, "--recompute"))
    for name, changed in changes.items():
        pq.write_table(changed, predictions)
        for way in ways:
            assert_refused(headsweep("leaderboard", *way), (name, way))
    for content in (b"", sound[: len(sound) // 2], b"PAR1" * 100):
        predictions.write_bytes(content)
        for way in ways:
            assert_refused(headsweep("leaderboard", *way), (content[:10], way))
    predictions.write_bytes(sound)
    metrics = finalist / "metrics.json"
    for text in ("", "[]", "{}", '{"../../x": 1}', '{"absent": {}}', "[" * 100_000):
        metrics.write_text(text)
        assert_refused(headsweep("leaderboard", "verify", board, "--recompute"), text[:50])
