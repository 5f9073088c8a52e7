"""A scaling study on real data: its curves, intervals and paired tests."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from headsweep.config.overrides import compose_config
from headsweep.data.dataset import Dataset
from headsweep.label_efficiency import _budgets, read_scaling_study
from headsweep.metrics.resampled_t import corrected_mean
from tests.single.conftest import Run

SHIPPED = Path(__file__).parents[2] / "search_spaces" / "scaling" / "label_sources.yaml"
STUDY: dict[str, Any] = {
    "name": "sources",
    "sources": {"manual": "train.csv", "noisy": "train_noisy.csv"},
    "budgets": [100, 300],
    "folds": 3,
    "seeds": [0, 1],
    "base": ["head=linear", "features=both", "training.learning_rate=0.01"],
}


@pytest.fixture(scope="module")
def data(real_reports: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The real manifests, and one in which 30 % of the labels are wrong.

    Rows that are also in valid keep their labels, because equal features with different labels are
    refused.
    """
    folder = tmp_path_factory.mktemp("manifests")
    for name in ("train.csv", "valid.csv"):
        (folder / name).write_bytes((real_reports / "manifests" / name).read_bytes())
    rng = np.random.default_rng(0)
    with (folder / "valid.csv").open(newline="") as file:
        held = {content for row in csv.reader(file) for content in contents(real_reports, row)}
    with (folder / "train.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    for row in rows:
        chance = 0 if held & set(contents(real_reports, row)) else 0.3
        wrong = rng.random(len(row)) < chance
        row[3:] = [str(1 - int(x)) if wrong[j] else x for j, x in enumerate(row[3:])]
    with (folder / "train_noisy.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    root = real_reports.resolve() / "features"
    return (f"paths.data_root={root}", f"paths.manifest_dir={folder}")


def contents(root: Path, row: list[str]) -> list[bytes]:
    """Return the features of a row of a manifest as bytes."""
    files = [root / "features" / path for path in row[1:3]]
    return [np.load(file)["arr"].tobytes() for file in files if file.is_file()]


@pytest.fixture(scope="module")
def finished(data: tuple[str, ...], run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scaling")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    out = folder / "results"
    said = run("scaling", folder / "study.yaml", *data, "training.max_epochs=6", "--out", out)
    assert "noisy" in said
    return out


def cells_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "cells.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_scaling_writes_every_cell_with_its_sizes(finished: Path):
    cells = cells_of(finished)
    keys = {(c["source"], int(c["budget"]), int(c["fold"]), int(c["seed"])) for c in cells}
    assert len(keys) == len(cells) == 2 * 2 * 3 * 2
    for cell in cells:
        assert int(cell["rows"]) == pytest.approx(int(cell["budget"]), abs=5)
        assert 0 < int(cell["patients"]) <= int(cell["rows"])
    assert sum({c["fold"]: int(c["test_rows"]) for c in cells}.values()) == 638


def test_curves_average_seeds_within_folds_first(finished: Path):
    summary = json.loads((finished / "scaling.json").read_text())
    by_fold: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    for cell in cells_of(finished):
        key = (cell["source"], int(cell["budget"]), int(cell["fold"]))
        by_fold[key].append(float(cell["auprc_macro"]))
    for source, points in summary["curves"]["auprc_macro"].items():
        for point in points:
            values = [np.mean(by_fold[source, point["budget"], fold]) for fold in range(3)]
            assert point["mean"] == pytest.approx(np.mean(values))
            assert point["ci_low"] < point["mean"] < point["ci_high"]
        assert points[-1]["mean"] > points[0]["mean"], "more rows must help"


def test_paired_tests_find_the_noisy_label_source(finished: Path):
    summary = json.loads((finished / "scaling.json").read_text())
    tests = summary["tests"]["auprc_macro"]
    assert len(tests) == 2 + 2
    cells = cells_of(finished)
    noisy = next(t for t in tests if t["a"] == {"source": "manual", "budget": 300})
    assert noisy["b"] == {"source": "noisy", "budget": 300}
    by_fold = np.zeros((2, 3))
    for cell in cells:
        if cell["budget"] == "300":
            sign = 0 if cell["source"] == "manual" else 1
            by_fold[sign, int(cell["fold"])] += float(cell["auprc_macro"]) / 2
    share = np.mean([int(c["test_rows"]) / int(c["rows"]) for c in cells if c["budget"] == "300"])
    due = corrected_mean(by_fold[0] - by_fold[1], float(share))
    assert (noisy["difference"], noisy["p"]) == pytest.approx((due.mean, due.p))
    assert noisy["difference"] > 0.03
    assert all(test["p"] <= test["p_bh"] <= test["p_holm"] for test in tests)


def test_scaling_draws_the_curves(finished: Path):
    assert b"training rows" in (finished / "scaling.svg").read_bytes()
    assert (finished / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_scaling_run_again_gives_the_same_numbers(
    finished: Path, data: tuple[str, ...], run: Run, tmp_path: Path
):
    study = finished.parent / "study.yaml"
    run("scaling", study, *data, "training.max_epochs=6", "--out", tmp_path)
    assert (tmp_path / "cells.csv").read_bytes() == (finished / "cells.csv").read_bytes()


def test_budgets_are_nested_and_keep_patients_together(data: tuple[str, ...]):
    config = compose_config(list(data), where="test")
    pool, _ = Dataset.from_config(config).search_splits(inputs=("visual",))
    parts = dict(_budgets(pool, [50, 200, 400], 0))
    held = {budget: set(part.volumes) for budget, part in parts.items()}
    assert held[50] < held[200] < held[400] < set(pool.volumes)
    for part in parts.values():
        outside = {p for v, p in zip(pool.volumes, pool.patients, strict=True)
                   if v not in set(part.volumes)}  # fmt: skip
        assert not outside & set(part.patients)


@pytest.mark.parametrize(
    ("change", "law"),
    [
        ({"budget": [1]}, "budget: unknown key"),
        ({"folds": 1}, "folds: input should be greater than or equal to 2"),
        ({"budgets": [600]}, "outside of fold 0, found 600"),
        ({"sources": {"manual": "absent.csv"}}, "absent.csv"),
    ],
)
def test_scaling_with_a_bad_file_is_refused_in_one_line(
    change: dict[str, Any], law: str, data: tuple[str, ...], headsweep, tmp_path: Path
):
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(STUDY | change))
    ended = headsweep("scaling", file, *data, "--out", tmp_path / "out")
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    assert law in ended.err
    assert not (tmp_path / "out").exists()


def test_read_scaling_study_reads_the_shipped_file():
    study, config = read_scaling_study(SHIPPED, ["training.max_epochs=5"])
    assert list(study.sources) == ["manual", "radbert"]
    assert config.training.max_epochs == 5
