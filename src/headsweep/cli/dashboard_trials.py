"""The trials of a study as optuna-dashboard's JSON, kept compressed between requests.

All JSON comes from optuna-dashboard: it is asked for studies in memory that hold only the trials in
question. It spends most of its time on params, whose JSON repeats the distribution in every trial.
It is therefore asked once for each distinct param, and for the trials without their params.
"""

# ruff: noqa: D102  (Optuna documents the methods of `BaseStorage`)

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from optuna_dashboard import wsgi

from headsweep.cli.deflated import Piece, compress
from headsweep.json_text import parse_json
from headsweep.storage.optuna_tables import (
    FrozenStudy,
    altered,
    id_of_study,
    trial_id,
    with_system_attrs,
)

CHUNK = 500
"""Number of trials that are compressed together."""
_NUMBER = re.compile(r"\d+")
_Kind = tuple[Any, ...]
_UNKNOWN = "?"
_ENCODER = json.JSONEncoder(separators=(",", ":"))


def encode(value: Any) -> str:
    """Return a value as JSON without spaces."""
    return _ENCODER.encode(value)


class PartOfStudy(InMemoryStorage):
    """A storage with one study that has only the given trials, in the order of their numbers."""

    def __init__(self, study: FrozenStudy, trials: Sequence[FrozenTrial]) -> None:
        super().__init__()
        self._study = study
        self._trials = trials

    def get_all_studies(self) -> list[FrozenStudy]:
        return [self._study]

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return dict(self._study.system_attrs)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return list(self._study.directions)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        return best_trial(self._study, self._trials)


def best_trial(study: FrozenStudy, trials: Iterable[FrozenTrial]) -> FrozenTrial:
    """Return the first complete trial with the best value of a study's only objective."""
    choose = max if study.directions[0] == StudyDirection.MAXIMIZE else min
    complete = (trial for trial in trials if trial.state == TrialState.COMPLETE)
    return choose(complete, key=lambda trial: trial.values[0])


def ask(study: FrozenStudy, trials: Sequence[FrozenTrial], *, after: int = 0) -> dict[str, Any]:
    """Return optuna-dashboard's answer for a study with the given trials only.

    Args:
        study: the study.
        trials: its trials.
        after: how many of them are left out of the list of trials.

    Returns:
        The parsed answer.

    Raises:
        ValueError: optuna-dashboard failed.
    """
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": f"/api/studies/{id_of_study(study)}",
        "QUERY_STRING": f"after={after}",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "HTTP_ACCEPT_ENCODING": "identity",
    }
    begun: list[str] = []
    app: Any = wsgi(PartOfStudy(study, trials))
    body = b"".join(app(environ, lambda status, *_: begun.append(status)))
    if not begun[-1].startswith("200"):
        raise ValueError(f"optuna-dashboard answered {begun[-1]}")
    answer: dict[str, Any] = parse_json(body.decode())
    return answer


class TrialTexts:
    """Writes trials of one study as JSON, and remembers the parts that repeat."""

    def __init__(self) -> None:
        self._whole: dict[tuple[Any, ...], str] = {}
        self._heads: dict[tuple[str, int, type], str | None] = {}
        """What the JSON of numbers begins with; None for values that are asked for one by one."""
        self._remembered: dict[int, BaseDistribution] = {}
        """Distributions by id, so that no other object gets the same id."""

    def write(self, study: FrozenStudy, trials: Sequence[FrozenTrial]) -> str:
        """Write trials as JSON.

        Returns:
            The objects of the trials, separated by commas.
        """
        bare = ask(study, [altered(trial, params={}, distributions={}) for trial in trials])[
            "trials"
        ]
        return ",".join(
            f'{encode(_without_params(answer))[:-1]},"params":[{self._params(study, trial)}]}}'
            for answer, trial in zip(bare, trials, strict=True)
        )

    def _params(self, study: FrozenStudy, trial: FrozenTrial) -> str:
        texts = []
        for name, value in trial.params.items():
            if (distribution := trial.distributions.get(name)) is None:
                continue
            head = self._heads.get((name, id(distribution), type(value)), _UNKNOWN)
            if head is _UNKNOWN:
                head = self._head(study, trial, name, value, distribution)
                self._heads[name, id(distribution), type(value)] = head
            if head is None or not math.isfinite(value):
                texts.append(self._asked_once(study, trial, name, value, distribution))
            else:
                texts.append(_number(head, value, distribution))
        return ",".join(texts)

    def _asked_once(
        self,
        study: FrozenStudy,
        trial: FrozenTrial,
        name: str,
        value: Any,
        distribution: BaseDistribution,
    ) -> str:
        """Return the JSON of a param, for which optuna-dashboard is asked once."""
        key = (name, id(distribution), type(value), repr(value))
        if key not in self._whole:
            self._remembered[id(distribution)] = distribution
            self._whole[key] = encode(_asked(study, trial, name, value, distribution))
        return self._whole[key]

    def _head(
        self,
        study: FrozenStudy,
        trial: FrozenTrial,
        name: str,
        value: Any,
        distribution: BaseDistribution,
    ) -> str | None:
        """Return what the JSON of a number begins with; None where optuna-dashboard differs."""
        self._remembered[id(distribution)] = distribution
        numeric = isinstance(distribution, FloatDistribution | IntDistribution)
        if not numeric or type(value) not in (int, float) or not math.isfinite(value):
            return None
        answer = _asked(study, trial, name, value, distribution)
        parts = {key: text for key, text in answer.items() if key not in _OF_VALUE}
        head = encode(parts)[:-1]
        return head if parse_json(_number(head, value, distribution)) == answer else None


_OF_VALUE = ("param_internal_value", "param_external_value")
"""The fields of a param that depend on its value."""


def _number(head: str, value: Any, distribution: BaseDistribution) -> str:
    internal = float(distribution.to_internal_repr(value))
    return f'{head},"param_internal_value":{internal!r},"param_external_value":"{value}"}}'


def _asked(
    study: FrozenStudy, trial: FrozenTrial, name: str, value: Any, distribution: BaseDistribution
) -> dict[str, Any]:
    """Return optuna-dashboard's JSON of one param."""
    alone = altered(trial, params={name: value}, distributions={name: distribution})
    (param,) = ask(study, [alone])["trials"][0]["params"]
    answer: dict[str, Any] = param
    return answer


def _without_params(answer: dict[str, Any]) -> dict[str, Any]:
    del answer["params"]
    return answer


@dataclass(frozen=True)
class Chunk:
    """Trials that follow each other, and their JSON.

    `attrs` are the study's system attributes about these trials: their notes and artifacts.
    `samples` are those of the trials that say everything about all of them except the list of
    trials: one of each kind, and the best.
    """

    trials: list[FrozenTrial]
    attrs: dict[str, Any]
    samples: list[FrozenTrial]
    piece: Piece


class StudyTrials:
    """The trials of one study in chunks that are written again when a trial has changed."""

    def __init__(self) -> None:
        self._texts = TrialTexts()
        self._chunks: list[Chunk] = []

    def update(self, study: FrozenStudy, trials: Sequence[FrozenTrial]) -> None:
        """Write the chunks with trials that changed.

        Args:
            study: the study.
            trials: all its trials.
        """
        attrs = _attrs_by_number(study.system_attrs)
        chunks = []
        for i, begin in enumerate(range(0, len(trials), CHUNK)):
            part = list(trials[begin : begin + CHUNK])
            mine = _attrs_of(attrs, part)
            old = self._chunks[i] if i < len(self._chunks) else None
            # Trials that did not change are the same objects, for which `==` is fast.
            if old is not None and old.trials == part and old.attrs == mine:
                chunks.append(old)
            else:
                piece = self._written(study, part, mine)
                chunks.append(Chunk(part, mine, sample(study, part), piece))
        self._chunks = chunks

    def pieces(self, study: FrozenStudy, after: int) -> list[Piece]:
        """Return the JSON of all trials but the first `after`, with the commas between them."""
        first, skipped = divmod(after, CHUNK)
        chunks = self._chunks[first:]
        pieces = [chunk.piece for chunk in chunks]
        if chunks and skipped:
            rest = chunks[0].trials[skipped:]
            pieces[:1] = [self._written(study, rest, chunks[0].attrs)] if rest else []
        return [part for piece in pieces for part in (_COMMA, piece)][1:]

    def samples(self, study: FrozenStudy) -> list[FrozenTrial]:
        """Return trials that say everything about all trials but their list."""
        return sample(study, [trial for chunk in self._chunks for trial in chunk.samples])

    def _written(
        self, study: FrozenStudy, trials: Sequence[FrozenTrial], attrs: dict[str, Any]
    ) -> Piece:
        return compress(self._texts.write(with_system_attrs(study, attrs), trials).encode())


_COMMA = compress(b",")


def sample(study: FrozenStudy, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Choose the last trial of each kind and the first best one.

    optuna-dashboard unites the distributions and user attributes of all trials at every request.
    Trials of one kind have the same distributions and types of attributes.

    Returns:
        The chosen trials, in their order.
    """
    chosen = {_kind(trial): i for i, trial in enumerate(trials)}
    positions = set(chosen.values())
    if any(trial.state == TrialState.COMPLETE for trial in trials):
        best = best_trial(study, trials)
        positions.add(next(i for i, trial in enumerate(trials) if trial is best))
    return [trials[i] for i in sorted(positions)]


def _kind(trial: FrozenTrial) -> _Kind:
    """Return what optuna-dashboard reads of a trial for all but the list of trials."""
    return (
        trial.state,
        bool(trial.intermediate_values),
        tuple((name, id(d)) for name, d in trial.distributions.items()),
        tuple((name, type(value)) for name, value in trial.user_attrs.items()),
    )


def _attrs_by_number(attrs: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Return system attributes by each number in their names, which may be the id of a trial."""
    numbered: dict[int, dict[str, Any]] = {}
    for name, value in attrs.items():
        for number in _NUMBER.findall(name):
            numbered.setdefault(int(number), {})[name] = value
    return numbered


def _attrs_of(
    numbered: Mapping[int, dict[str, Any]], trials: Sequence[FrozenTrial]
) -> dict[str, Any]:
    if not numbered:
        return {}
    mine: dict[str, Any] = {}
    for trial in trials:
        mine |= numbered.get(trial_id(trial), {})
    return mine
