"""A board under other labels of the same rows, against scikit-learn."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from headsweep.errors import ManifestError
from headsweep.leaderboard.label_noise import LabelNoise, SplitNoise
from headsweep.leaderboard.leaderboard import Leaderboard
from tests.helpers import leaderboard_oracle as oracle
from tests.leaderboard.conftest import LABELS

SPLIT = "test_manual_all"


@pytest.fixture(scope="module")
def own(data: Path) -> list[dict[str, str]]:
    """Rows of the largest test manifest."""
    with (data / f"manifests/{SPLIT}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[dict[str, str]], volume: str = "VolumeName") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([volume, *LABELS, "unused"])
        for row in rows:
            name = f"{row['volumename']}.nii.gz"
            writer.writerow([name, *(row[label] for label in LABELS), "x"])
    return path


def flipped(rows: list[dict[str, str]], label: str, count: int) -> list[dict[str, str]]:
    """Change a label of the first rows, and of one row also another label."""
    changed = [dict(row) for row in rows]
    for row in changed[:count]:
        row[label] = str(1 - int(row[label]))
    changed[0][LABELS[2]] = str(1 - int(changed[0][LABELS[2]]))
    return changed


@pytest.fixture(scope="module")
def noise(finished: Path, own, tmp_path_factory):
    rows = flipped(own, LABELS[0], 9)
    # Rows of other data are passed over; the order is the file's own.
    rows = [*reversed(rows), {**rows[0], "volumename": "elsewhere_1_a_1"}]
    file = write(tmp_path_factory.mktemp("labels") / "labels.csv", rows)
    before = digests(finished)
    found = Leaderboard(finished).label_noise(file)
    assert digests(finished) == before
    return found


def split_of(noise: LabelNoise) -> SplitNoise:
    """The largest split; the other test manifests hold some of its rows."""
    assert noise.splits[0].split == SPLIT
    return noise.splits[0]


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_label_noise_counts_rows_and_entries_that_differ(noise, own):
    one = split_of(noise)
    assert (one.split, one.n_rows, one.n_rows_differing) == (SPLIT, len(own), 9)
    positives = sum(row[LABELS[0]] == "1" for row in own[:9])
    changes = {x.label: (x.n_known, x.n_removed, x.n_added) for x in one.labels}
    assert changes[LABELS[0]] == (len(own), positives, 9 - positives)
    assert changes[LABELS[1]] == (len(own), 0, 0)
    assert sum(changes[LABELS[2]][1:]) == 1
    assert f"9 of {len(own)} rows" in one.summary
    assert f"10 of {4 * len(own)} entries" in one.summary
    frame = noise.labels_dataframe()
    assert frame["share"].tolist()[: len(LABELS)] == [x.share for x in one.labels]


def test_label_noise_metrics_under_both_labels_equal_scikit_learn(noise, finished: Path, own):
    one = split_of(noise)
    other = {row["volumename"]: row for row in flipped(own, LABELS[0], 9)}
    for rank, row in enumerate(one.rows[:2], start=1):
        folder = finished / f"finalists/{rank}"
        found = {"own": [], "other": [], "f1": []}
        for seed in (0, 1, 2):
            scored = oracle.read(folder / f"seed_{seed}/predictions/{SPLIT}.parquet")
            valid = oracle.read(folder / f"seed_{seed}/predictions/valid.parquet")
            cuts = oracle.thresholds(valid)["f1"]
            volumes = [r["volumename"] for r in own]
            changed = np.array([[int(other[v][label]) for label in LABELS] for v in volumes])
            for name, targets in (("own", scored.targets), ("other", changed)):
                values = [
                    average_precision_score(targets[:, j], scored.scores[:, j]) for j in range(4)
                ]
                found[name].append(np.mean(values))
            calls = scored.scores >= cuts
            found["f1"].append(
                np.mean([f1_score(changed[:, j], calls[:, j]) for j in range(len(LABELS))])
            )
        assert row.own["auprc_macro"]["mean"] == pytest.approx(np.mean(found["own"]), abs=1e-9)
        assert row.other["auprc_macro"]["mean"] == pytest.approx(np.mean(found["other"]), abs=1e-9)
        assert row.other["f1_macro"]["mean"] == pytest.approx(np.mean(found["f1"]), abs=1e-9)


def test_label_noise_own_metrics_are_those_of_the_board(noise, finished: Path):
    one = split_of(noise)
    board = Leaderboard(finished)
    for rank in (1, 2):
        recorded = board.metrics(rank)[SPLIT]["auprc_macro"]
        assert one.rows[rank - 1].own["auprc_macro"] == recorded
    for side in ("own", "other"):
        values = {row.name: getattr(row, side)["auprc_macro"]["mean"] for row in one.rows}
        for row in one.rows:
            better = sum(value > values[row.name] for value in values.values())
            assert getattr(row, f"{side}_rank") == 1 + better


def test_label_noise_of_blank_cells_leaves_these_entries_out(finished: Path, own, tmp_path: Path):
    rows = flipped(own, LABELS[0], 5)
    for row in rows[:20]:
        row[LABELS[1]] = ""
    one = split_of(Leaderboard(finished).label_noise(write(tmp_path / "labels.csv", rows)))
    changes = {x.label: x for x in one.labels}
    assert (changes[LABELS[1]].n_known, changes[LABELS[1]].share) == (len(own) - 20, 0)
    assert one.rows[0].other["per_label"][LABELS[1]]["n_rows"] == len(own) - 20


def test_label_noise_of_wrong_files_is_refused_in_one_line(finished: Path, own, tmp_path: Path):
    board, path = Leaderboard(finished), tmp_path / "labels.csv"
    changed = flipped(own, LABELS[0], 9)

    def refused(match: str) -> None:
        with pytest.raises(ManifestError, match=match) as error:
            board.label_noise(path)
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)

    refused("label file not found")
    write(path, own)
    refused(f"labels are the same as the leaderboard's in all rows of {SPLIT}")
    write(path, changed[3:])
    refused(f"3 of the {len(own)} rows of {SPLIT} are missing, such as {own[0]['volumename']}")
    write(path, [{**row, "volumename": f"x{i}_1_a_1"} for i, row in enumerate(changed)])
    refused("no row of the leaderboard's splits is in the file; .* named like 'x0_1_a_1'")
    write(path, [*changed, changed[0]])
    refused(rf"labels.csv:{len(own) + 2}: volume .* occurs twice")
    write(path, [*changed[1:], {**changed[0], LABELS[3]: "2"}])
    refused(rf"labels.csv:{len(own) + 1}: a label must be 0, 1 or empty, found '2' in column")
    write(path, changed, volume="Volume")
    refused("column 'volumename' is missing. Did you mean 'Volume'")
    write(path, changed)
    path.write_text(path.read_text().replace(LABELS[1], "Emphysemia", 1))
    refused("column 'Emphysema' is missing. Did you mean 'Emphysemia'")


def test_show_with_other_labels_prints_both(headsweep, finished: Path, own, tmp_path: Path):
    file = write(tmp_path / "labels.csv", flipped(own, LABELS[0], 9))
    shown = headsweep("leaderboard", "show", finished, "--also-labels", file)
    assert shown.code == 0, shown.err
    assert f"{SPLIT}: 9 of {len(own)} rows" in shown.out
    assert "AUPRC, other labels" in shown.out
    table = headsweep("leaderboard", "show", finished, "--also-labels", file, "--csv")
    assert [row["row"] for row in csv.DictReader(table.out.splitlines())][:1] == [
        f"1: trial {Leaderboard(finished).to_dataframe()['trial'][0]}"
    ]
    text = headsweep("leaderboard", "show", finished, "--also-labels", file, "--markdown").out
    assert "| label | rows | 1 to 0 | 0 to 1 | differ |" in text
    for wrong in ([finished, finished], [finished, "--html"]):
        refused = headsweep("leaderboard", "show", *wrong, "--also-labels", file)
        assert refused.code == 2
        assert "takes one DIR" in refused.err
