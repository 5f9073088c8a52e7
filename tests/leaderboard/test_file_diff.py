"""`largest_difference` finds where two files differ most."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from headsweep.leaderboard.verification.file_diff import Difference, largest_difference

NAN = float("nan")
OTHER, SAME = repr("other length"), repr("the same length")
ROWS = {"volumename": ["valid_1_a_1", "valid_2_a_1"], "patient": ["valid_1", "valid_2"]}


def as_text(path: Path, content: Any) -> None:
    path.write_text(content)


def as_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def as_parquet(path: Path, content: Any) -> None:
    pq.write_table(pa.table(content), path)


def as_tensors(path: Path, content: Any) -> None:
    save_file({name: np.asarray(values) for name, values in content.items()}, path)


Write = Callable[[Path, Any], None]
PAIRS: list[tuple[str, Write, Any, Any, tuple[str, Any, Any, float] | None]] = [
    ("a.json", as_json, {"a": [1, {"b": 2.0}]}, {"a": [1, {"b": 2.0}]}, None),
    ("a.json", as_json, {"a": [1, {"b": 2.5}]}, {"a": [2, {"b": 2.0}]}, ("a.0", 1, 2, 1)),
    ("a.json", as_json, {"a": 1}, {"a": 1, "b": 2}, ("b", "absent", 2, math.inf)),
    ("a.json", as_json, {"a": [1]}, {"a": [1, 2]}, ("a", [1], [1, 2], math.inf)),
    ("a.csv", as_text, "a,b\nx,1\n", "a,b\nx,1.0\n", None),
    ("a.json", as_json, {"a": NAN}, {"a": NAN}, None),
    ("a.json", as_json, {"a": NAN, "b": 1}, {"a": 0.5, "b": 2}, ("a", NAN, 0.5, math.inf)),
    ("a.csv", as_text, "a,b\nx,nan\n", "a,b\nx,nan\n", None),
    ("a.csv", as_text, "a,b\nx,nan\n", "a,b\nx,1\n", ("row 1.b", NAN, 1.0, math.inf)),
    ("a.csv", as_text, "a,b\nx,1\n", "a,b\nx,3\n", ("row 1.b", 1.0, 3.0, 2)),
    ("a.md", as_text, "one\ntwo\n", "one\ntoo\n", ("line 2", "'two'", "'too'", math.inf)),
    ("a.md", as_text, "one", "one\ntwo", ("line 0", OTHER, SAME, math.inf)),
    ("a.parquet", as_parquet, ROWS | {"s": [0.5, NAN]}, ROWS | {"s": [0.5, NAN]}, None),
    (
        "a.parquet",
        as_parquet,
        ROWS | {"s": [0.5, 0.25]},
        ROWS | {"s": [0.75, 0.75]},
        ("s of valid_2_a_1", 0.25, 0.75, 0.5),
    ),
    (
        "a.parquet",
        as_parquet,
        ROWS | {"s": [0.5, 0.25]},
        ROWS | {"s": [0.75, NAN]},
        ("s of valid_2_a_1", 0.25, NAN, math.inf),
    ),
    (
        "a.parquet",
        as_parquet,
        ROWS,
        ROWS | {"patient": ["valid_1", "valid_3"]},
        ("patient of valid_2_a_1", "valid_2", "valid_3", math.inf),
    ),
    (
        "a.parquet",
        as_parquet,
        ROWS,
        {"volumename": ["valid_1_a_1"]},
        (
            "shape",
            "2 rows of ['volumename', 'patient']",
            "1 rows of ['volumename']",
            math.inf,
        ),
    ),
    ("a.safetensors", as_tensors, {"w": [[1.0, 2.0]]}, {"w": [[1.0, 2.0]]}, None),
    (
        "a.safetensors",
        as_tensors,
        {"w": [[1.0, 2.0]], "b": [0.0]},
        {"w": [[1.5, 4.0]], "b": [1.0]},
        ("w[0, 1]", 2.0, 4.0, 2),
    ),
    (
        "a.safetensors",
        as_tensors,
        {"w": [[1.0, 2.0]]},
        {"w": [[1.0], [2.0]]},
        ("shape of w", (1, 2), (2, 1), math.inf),
    ),
    ("a.safetensors", as_tensors, {"w": [NAN]}, {"w": [1.0]}, ("w[0]", NAN, 1.0, math.inf)),
    (
        "a.safetensors",
        as_tensors,
        {"w": [1.0]},
        {"v": [1.0]},
        ("tensors.0", "w", "v", math.inf),
    ),
]


@pytest.mark.parametrize(("name", "write", "found", "expected", "due"), PAIRS)
def test_largest_difference_of_two_files_returns_location_values_and_size(
    tmp_path: Path,
    name: str,
    write: Write,
    found: Any,
    expected: Any,
    due: tuple[str, Any, Any, float] | None,
) -> None:
    for folder, content in (("found", found), ("expected", expected)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / name, content)
    told = largest_difference(tmp_path / "found" / name, tmp_path / "expected" / name)
    assert str(told) == str(due and Difference(*due))
    assert (told and told.size) == (due and due[3])


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.md", "a.parquet", "a.safetensors"])
def test_largest_difference_when_a_file_is_unreadable_names_the_whole_file(
    tmp_path: Path, name: str
) -> None:
    torn, absent = tmp_path / name, tmp_path / "absent" / name
    torn.write_bytes(b"\xff{")
    for found in (torn, absent):
        told = largest_difference(found, absent)
        assert told is not None
        assert (told.position, told.expected, told.size) == ("file", "a readable file", math.inf)
