"""Arguments of a wrong type or range end in one line, before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import headsweep as hs
from headsweep.errors import InputError
from headsweep.studies.study import StoredStudy
from tests.helpers.study_specs import DOCUMENT, make_spec

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 4))
Y = (X[:, :2] + RNG.standard_normal((60, 2)) > 0).astype(int)
FRAME = pd.DataFrame({"v": list(X), "a": Y[:, 0], "b": Y[:, 1]}, index=range(500, 560))
LABELS = ["a", "b"]


def arrays(features: Any, targets: Any = Y, labels: Any = LABELS) -> hs.Dataset:
    return hs.Dataset.from_arrays(features, targets, labels=labels)


def frame(frame: Any = FRAME, features: Any = None, labels: Any = LABELS) -> hs.Dataset:
    return hs.Dataset.from_dataframe(frame, features=features or {"visual": "v"}, labels=labels)


@pytest.mark.parametrize(
    ("features", "targets"),
    [
        (torch.tensor(X, requires_grad=True), torch.tensor(Y * 1.0, requires_grad=True)),
        (torch.tensor(X).bfloat16(), Y),
        (X.astype(np.float16), Y.astype(bool)),
        (pd.DataFrame(X, index=range(500, 560)), pd.DataFrame(Y, index=range(500, 560))),
        (X.tolist(), Y.tolist()),
    ],
    ids=["requires grad", "bfloat16", "float16 and bool", "DataFrame", "lists"],
)
def test_dataset_from_arrays_takes_every_kind_of_array(features: Any, targets: Any) -> None:
    expected, _ = arrays({"visual": X}).search_splits()
    train, _ = arrays({"visual": features}, targets).search_splits()
    assert np.array_equal(train.targets, expected.targets)
    assert np.allclose(train.features["visual"], expected.features["visual"], atol=0.02)


DATA: list[tuple[Callable[[], object], str]] = [
    (lambda: arrays(X), r"features must be a dict such as .*, found ndarray"),
    (lambda: arrays({"visual": X + 1j}), r"features\['visual'\] must be real numbers, found comp"),
    (lambda: arrays({"visual": X}, Y, "ab"), "labels must be a list of the names .* found 'ab'"),
    (lambda: arrays({"visual": X}, Y, None), "labels must be a list of the names .* found None"),
    (lambda: arrays({"visual": X}, [["a"], []] * 30), "targets must be an array of numbers"),
    (lambda: arrays({"visual": X}, Y, {"a", "b"}), "labels must be a list of the names .* found {"),
    (lambda: arrays({"visual": X}, Y[:, :0], []), "labels must name at least one column"),
    (lambda: arrays({"visual": X}, Y, ["a", None]), "labels must be names .* found None"),
    (lambda: arrays({"visual": X}, Y, ["a", " "]), "labels must be names .* found ' '"),
    (lambda: arrays({"visual": X}, Y, ["a", "b\n"]), r"labels must be names .* found 'b\\n'"),
    (lambda: arrays({3: X}), "features: an input's name must begin with a letter .* found 3"),
    (lambda: arrays({"visual": X.astype(str)}), r"features\['visual'\] must be numbers, found <U"),
    (lambda: arrays({"visual": X.astype("M8[s]")}), r"features\['visual'\] must be real numbers"),
    (lambda: arrays({"visual": np.ma.array(X, mask=X > 0)}), "must not have masked entries"),
    (lambda: arrays({"visual": X}, np.ma.array(Y, mask=Y > 0)), "targets must not have masked"),
    (lambda: hs.Dataset.from_manifests(None, "m"), "data_root must be a path, found NoneType"),
    (lambda: hs.Dataset.from_manifests("a", 4), "manifest_dir must be a path, found int"),
    (
        lambda: hs.Dataset.from_manifests("a", "b", overrides="seed=1"),
        "overrides must be a list of key=value texts, found 'seed=1'",
    ),
    (
        lambda: hs.Dataset.from_manifests("a", "b", overrides=[1]),
        r"overrides must be a list of key=value texts, found \[1\]",
    ),
    (lambda: hs.Leaderboard(None), "folder must be a path, found NoneType"),
    (lambda: hs.load_predictor(None), "path must be a path, found NoneType"),
    (lambda: frame({"v": X}), "frame must be a pandas DataFrame, found dict"),
    (lambda: frame(features="v"), "features must be a dict such as .*, found str"),
    (lambda: frame(labels="a"), "labels must be a list of the names .* found 'a'"),
]


@pytest.mark.parametrize(("make", "message"), DATA, ids=[message[:40] for _, message in DATA])
def test_dataset_of_other_types_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


STUDY: list[tuple[dict[str, Any], str]] = [
    *(
        ({"n_trials": n}, f"n_trials must be a whole number from 1 .* found {n!r}")
        for n in (0, -3, 2.5, True, "3")
    ),
    ({"data": X}, "data must be a headsweep.Dataset, found ndarray"),
    ({"storage": Path("x.db")}, "storage must be the URL of a storage, .* found PosixPath"),
    ({"out": 3}, "out must be a folder, found int"),
    ({"overrides": "study.n_trials=3"}, "overrides must be a list of key=value texts, found str"),
    ({"study": None}, "study must be a study file, .* found NoneType"),
    ({"study": {**DOCUMENT, 3: 1}}, "unknown key 3"),
    ({"study": [1]}, "study must be a study file, .* found list"),
]


@pytest.mark.parametrize(("given", "message"), STUDY, ids=[str(given) for given, _ in STUDY])
def test_create_with_an_argument_of_other_type_writes_nothing(
    given: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = {"study": DOCUMENT, "data": arrays({"visual": X}), "out": "out"} | given
    with pytest.raises(InputError, match=message):
        hs.Study.create(asked.pop("study"), **asked)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hs.Study]:
    folder = tmp_path_factory.mktemp("arguments")
    stored = StoredStudy.create(make_spec(folder), f"sqlite:///{folder}/study.db")
    with hs.Study(stored, folder / "out", arrays({"visual": X})) as study:
        yield study


CALLS: list[tuple[Callable[[hs.Study], object], str]] = [
    *(
        (lambda study, s=s: study.run(timeout_s=s), "timeout_s must be seconds, greater than 0")
        for s in (0, -1, float("nan"), float("inf"), "2h", True)
    ),
    (lambda study: study.run(device=None), "--device must be auto, cpu or .* found None"),
    (lambda study: study.run(slots=0), "slots must be a whole number from 1"),
    (lambda study: study.run(slots=-1), "slots must be a whole number from 1"),
    (lambda study: study.run(0), "workers must be a whole number from 1"),
    (lambda study: study.finalize(slots=0), "slots must be a whole number from 1"),
    (lambda study: study.enqueue_from("other", top=-1), "top must be a whole number from 1"),
    (lambda study: study.export("best.yaml", "best"), "trial must be a whole number from 0"),
    (lambda study: study.export(""), "file must not be empty"),
    (lambda study: study.enqueue("a=1"), "enqueue 'a=1' must be a dict such as .* found str"),
    (lambda study: study.enqueue([{}]), "must be a dict such as .* found list"),
]


@pytest.mark.parametrize(("call", "message"), CALLS)
def test_study_method_with_an_argument_of_other_type_is_refused(
    study: hs.Study, call: Callable[[hs.Study], object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        call(study)


def test_enqueue_takes_numbers_of_numpy(study: hs.Study) -> None:
    name, dimension = next((n, d) for n, d in study.spec.space.items() if d.type == "float")
    assert study.enqueue({name: np.float32((dimension.low + dimension.high) / 2)}) == [0]
