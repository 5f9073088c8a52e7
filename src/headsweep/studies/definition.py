"""What a study is: its frozen definition, and that definition as text."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from headsweep.config import Config, NonNegativeInt, PositiveFloat, PositiveInt, Section, to_dict

Scalar = bool | int | float | str | None
Choice = Scalar | tuple[PositiveInt, ...]


class Dimension(Section, ABC):
    """One searched config key; it is suggested only when every condition of `when` holds."""

    type: str
    when: Mapping[str, tuple[Choice, ...]] = {}

    @property
    @abstractmethod
    def extremes(self) -> Mapping[str, Choice]:
        """Values that must be legal for all others to be: keyed by their place in the file."""


class FloatDimension(Dimension):
    """A real interval, `low` and `high` included."""

    type: Literal["float"] = "float"
    low: float
    high: float
    log: bool = False
    step: PositiveFloat | None = None

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        _check_bounds(self.low, self.high, log=self.log, stepped=self.step is not None)
        return self

    @property
    def extremes(self) -> Mapping[str, Choice]:  # noqa: D102
        return {"low": self.low, "high": self.high}


class IntDimension(Dimension):
    """A range of integers, `low` and `high` included."""

    type: Literal["int"] = "int"
    low: int
    high: int
    log: bool = False
    step: PositiveInt = 1

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        _check_bounds(self.low, self.high, log=self.log, stepped=self.step != 1)
        return self

    @property
    def extremes(self) -> Mapping[str, Choice]:  # noqa: D102
        return {"low": self.low, "high": self.high}


class CategoricalDimension(Dimension):
    """A set of choices; a list, such as hidden widths, is one choice."""

    type: Literal["categorical"] = "categorical"
    choices: Annotated[tuple[Choice, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({json.dumps(choice) for choice in self.choices}) < len(self.choices):
            raise ValueError(f"choices must differ, found {list(self.choices)}")
        return self

    @property
    def extremes(self) -> Mapping[str, Choice]:  # noqa: D102
        return {f"choices[{i}]": choice for i, choice in enumerate(self.choices)}


DIMENSIONS: Mapping[str, type[Dimension]] = {
    "float": FloatDimension,
    "int": IntDimension,
    "categorical": CategoricalDimension,
}


class Identity(Section):
    """Name, budget and seed of a study."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    n_trials: PositiveInt
    seed: NonNegativeInt = 42


class Finalists(Section):
    """How many of the best trials are trained again, and with which seeds."""

    top_k: PositiveInt = 5
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0, 1, 2, 3, 4)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, found {list(self.seeds)}")
        return self


class Policy(Section):
    """A sampler or a pruner: Optuna's name and keyword arguments."""

    name: str
    kwargs: Mapping[str, Any] = {}


class StudySpec(Section):
    """All that defines a study."""

    name: str
    n_trials: int
    seed: int
    config: Config
    space: Mapping[str, Dimension]
    sampler: Policy
    pruner: Policy
    finalists: Finalists

    def fingerprint(self) -> str:
        """SHA-256 of the definition without `n_trials`, paths and logging."""
        return hashlib.sha256(json.dumps(_comparable(self), sort_keys=True).encode()).hexdigest()


def spec_to_json(spec: StudySpec) -> str:
    """The definition as text, as it is kept with the study."""
    return json.dumps(_plain(spec))


def spec_from_json(text: str) -> StudySpec:
    """The inverse of `spec_to_json`."""
    plain = json.loads(text)
    space = {
        key: DIMENSIONS[value["type"]].model_validate_json(json.dumps(value))
        for key, value in plain["space"].items()
    }
    return StudySpec(
        name=plain["name"],
        n_trials=plain["n_trials"],
        seed=plain["seed"],
        config=Config.model_validate_json(json.dumps(plain["config"])),
        space=space,
        sampler=Policy(**plain["sampler"]),
        pruner=Policy(**plain["pruner"]),
        finalists=Finalists.model_validate_json(json.dumps(plain["finalists"])),
    )


def difference(old: StudySpec, new: StudySpec) -> str | None:
    """The first key in which two definitions differ, with both values; None when they agree."""
    before, after = _leaves(_comparable(old)), _leaves(_comparable(new))
    for key in sorted({*before, *after}):
        if before.get(key, "absent") != after.get(key, "absent"):
            return f"{key} was {before.get(key, 'absent')} and is {after.get(key, 'absent')}"
    return None


def _check_bounds(low: float, high: float, *, log: bool, stepped: bool) -> None:
    if low > high:
        raise ValueError(f"low must be at most high, found {low:g} and {high:g}")
    if log and low <= 0:
        raise ValueError(f"log needs low above 0, found {low:g}")
    if log and stepped:
        raise ValueError("log and step exclude each other, found both")


def _plain(spec: StudySpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "n_trials": spec.n_trials,
        "seed": spec.seed,
        "config": to_dict(spec.config),
        "space": {key: json.loads(d.model_dump_json()) for key, d in spec.space.items()},
        "sampler": json.loads(spec.sampler.model_dump_json()),
        "pruner": json.loads(spec.pruner.model_dump_json()),
        "finalists": json.loads(spec.finalists.model_dump_json()),
    }


def _comparable(spec: StudySpec) -> dict[str, Any]:
    plain = _plain(spec)
    del plain["n_trials"]
    for section in Config.IRRELEVANT:
        del plain["config"][section]
    del plain["config"]["training"]["resume"]
    return plain


def _leaves(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict) and value:
            leaves |= _leaves(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
