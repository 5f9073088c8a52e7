"""A study's frozen definition, and its conversion to text and back."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from headsweep.config.fingerprints import without_irrelevant
from headsweep.config.messages import nearest
from headsweep.config.schema import Config, to_dict
from headsweep.config.section import PositiveFloat, PositiveInt, Section, Seed
from headsweep.config.values import differences
from headsweep.errors import ConfigError, StudyError
from headsweep.json_text import parse_json
from headsweep.search.objective import Objective, objective_from_plain, objective_to_plain
from headsweep.search.steps import MAX_STEPS, last_point, n_points

MAX_NAME_BYTES = 200
"""Most bytes of a study's name: file systems allow 255, and some names are longer by a suffix."""


def _check_name(name: str) -> str:
    # Letters of any script with their combining marks; no separator, quote or control character.
    known = all(c.isalnum() or unicodedata.category(c) in ("Mn", "Mc") or c in " ._-" for c in name)
    if not (known and name[:1].isalnum() and not name.endswith(" ")):
        raise ValueError(
            "a name must begin with a letter or digit and go on with letters, digits, inner "
            f"spaces, '.', '_' and '-', found {name!r}"
        )
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"a name must have at most {MAX_NAME_BYTES} bytes, found {name!r}")
    return name


StudyName = Annotated[str, AfterValidator(_check_name)]
"""A study's name is used as a folder name, and in scripts and pages."""

REFERENCES = ("prevalence", "logistic_regression", "knn", "zero_shot")
"""Names in `finalists.references`."""

Scalar = bool | int | float | str | None
Choice = Scalar | tuple[PositiveInt, ...] | tuple[float, ...]
Choices = Annotated[tuple[Choice, ...], Field(max_length=1000)]


class Dimension(Section, ABC):
    """One searched config key; it is suggested only when every condition of `when` holds."""

    type: str
    when: Mapping[str, Choices] = {}

    @property
    @abstractmethod
    def extremes(self) -> Mapping[str, Choice]:
        """The extreme values, by their key in the file; if they are legal, so are all others."""


class FloatDimension(Dimension):
    """A real interval, `low` and `high` included."""

    type: Literal["float"] = "float"
    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = False
    """Whether values are suggested on a logarithmic scale."""
    step: PositiveFloat | None = None
    """Distance of the values that are suggested, from `low` on; null is any value."""

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        _check_bounds(self.low, self.high, log=self.log, stepped=self.step is not None)
        if self.step is not None:
            _check_step(self.low, self.high, self.step)
        return self

    @property
    def extremes(self) -> Mapping[str, Choice]:  # noqa: D102
        return {"low": self.low, "high": self.high}

    @property
    def last(self) -> float:
        """The largest value that is suggested: `high`, or the last step before it."""
        return self.high if self.step is None else last_point(self.low, self.high, self.step)


class IntDimension(Dimension):
    """A range of integers, `low` and `high` included."""

    type: Literal["int"] = "int"
    low: int
    """Smallest value."""
    high: int
    """Largest value."""
    log: bool = False
    """Whether values are suggested on a logarithmic scale."""
    step: PositiveInt = 1
    """Distance of the values that are suggested, from `low` on."""

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        _check_bounds(self.low, self.high, log=self.log, stepped=self.step != 1)
        return self

    @property
    def extremes(self) -> Mapping[str, Choice]:  # noqa: D102
        return {"low": self.low, "high": self.high}

    @property
    def last(self) -> int:
        """The largest value that is suggested: `high`, or the last step before it."""
        return self.high - (self.high - self.low) % self.step


class CategoricalDimension(Dimension):
    """A set of choices; a list, such as hidden widths, is one choice."""

    type: Literal["categorical"] = "categorical"
    choices: Annotated[Choices, Field(min_length=1)]
    """The values, all different."""

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

    name: StudyName
    """Letters of any script, digits, spaces, `.`, `_` and `-`."""
    n_trials: PositiveInt
    """Finished trials (complete or pruned) to reach; may grow later."""
    seed: Seed = 42
    """Seed of the sampler and of the trials."""
    patience: PositiveInt | None = None
    """Stop after so many finished trials without a better one; null never does."""
    enqueue: tuple[Mapping[str, Choice], ...] = ()
    """Params of trials that run first; keys that are left out get the base's value."""


def _check_reference(name: str) -> str:
    if name not in REFERENCES:
        raise ValueError(
            f"unknown reference {name!r}.{nearest(name, REFERENCES)} "
            f"Known are {', '.join(REFERENCES)}"
        )
    return name


class Finalists(Section):
    """How many of the best trials are trained again, with which seeds, and beside what."""

    top_k: Annotated[int, Field(gt=0, le=1000)] = 5
    """Number of finalists: the trials with the best values."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1000)] = (0, 1, 2, 3, 4)
    """Seeds with which each finalist is trained."""
    references: tuple[Annotated[str, AfterValidator(_check_reference)], ...] | None = None
    """Rows that are not searched, beside the finalists: `prevalence`, `logistic_regression`, `knn`,
    `zero_shot`. null is the first three, and `zero_shot` where `data.zero_shot` names a file."""
    ensemble: bool = True
    """Rows that average heads, beside the finalists: the mean of a finalist's seeds, and an
    ensemble of all heads that is selected on valid."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, found {list(self.seeds)}")
        if self.references is not None and len(set(self.references)) < len(self.references):
            raise ValueError(f"references must differ, found {list(self.references)}")
        return self


class Policy(Section):
    """A sampler or a pruner: Optuna's name and keyword arguments."""

    name: str
    kwargs: Mapping[str, Any] = {}


class StudySpec(Section):
    """All that defines a study."""

    name: StudyName
    n_trials: int
    seed: int
    config: Config
    space: Mapping[str, Dimension]
    sampler: Policy
    pruner: Policy
    finalists: Finalists
    patience: int | None = None
    enqueue: tuple[Mapping[str, Any], ...] = ()
    """Params of the trials that run first, as Optuna stores them."""
    objective: Objective = Objective()

    @property
    def references(self) -> tuple[str, ...]:
        """Names of the references on the leaderboard, in the order of `REFERENCES`."""
        chosen = self.finalists.references
        if chosen is None:
            zero_shot = self.config.data.zero_shot is not None
            return REFERENCES if zero_shot else REFERENCES[:-1]
        return tuple(name for name in REFERENCES if name in chosen)

    def fingerprint(self) -> str:
        """Return SHA-256 of the definition without budget, enqueued params, paths and logging."""
        return hashlib.sha256(json.dumps(_comparable(self), sort_keys=True).encode()).hexdigest()


def spec_to_json(spec: StudySpec) -> str:
    """Return the definition as text, in the form that is stored with the study."""
    return json.dumps(_plain(spec))


def spec_from_json(text: str) -> StudySpec:
    """Parse the text that `spec_to_json` wrote.

    Returns:
        The spec.

    Raises:
        StudyError: the text is not what `spec_to_json` wrote.
    """
    try:
        plain = parse_json(text)
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
            patience=plain.get("patience"),
            enqueue=tuple(plain.get("enqueue", ())),
            objective=objective_from_plain(plain.get("objective", {})),
        )
    except ConfigError as error:
        raise StudyError(f"the stored study definition cannot be read: {error}") from None
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise StudyError(f"the stored study definition cannot be read: {reason}") from None


def difference(old: StudySpec, new: StudySpec) -> str | None:
    """Name the first key in which two specs differ.

    Returns:
        The key with both values; None when the specs agree.
    """
    for key, was, now in differences(_comparable(old), _comparable(new)):
        return f"{key} was {was} and is {now}"
    return None


def _check_bounds(low: float, high: float, *, log: bool, stepped: bool) -> None:
    if low > high:
        raise ValueError(f"low must be at most high, found {low:g} and {high:g}")
    if log and low <= 0:
        raise ValueError(f"log needs low above 0, found {low:g}")
    if log and stepped:
        raise ValueError("log and step exclude each other, found both")


def _check_step(low: float, high: float, step: float) -> None:
    n_steps = n_points(low, high, step) - 1
    if n_steps > MAX_STEPS:
        raise ValueError(
            f"step must divide the range into at most {MAX_STEPS:.0e} steps, found {step:g}"
        )
    # So near to each other, two points would be one float.
    if n_steps and (low + step == low or high - step == high):
        raise ValueError(f"step is too small to tell values near {max(-low, high):g} apart")


def _plain(spec: StudySpec) -> dict[str, Any]:
    objective = objective_to_plain(spec.objective)
    return {
        "name": spec.name,
        "n_trials": spec.n_trials,
        "seed": spec.seed,
        "config": to_dict(spec.config),
        "space": {key: parse_json(d.model_dump_json()) for key, d in spec.space.items()},
        "sampler": parse_json(spec.sampler.model_dump_json()),
        "pruner": parse_json(spec.pruner.model_dump_json()),
        "finalists": _plain_finalists(spec.finalists),
        "patience": spec.patience,
        "enqueue": [dict(params) for params in spec.enqueue],
        **({"objective": objective} if objective else {}),
    }


def _plain_finalists(finalists: Finalists) -> dict[str, Any]:
    """Return the section as plain data; keys that were added later only where they are set."""
    plain: dict[str, Any] = parse_json(finalists.model_dump_json(exclude_none=True))
    if plain["ensemble"]:
        del plain["ensemble"]
    return plain


def _comparable(spec: StudySpec) -> dict[str, Any]:
    plain = _plain(spec)
    del plain["n_trials"], plain["patience"], plain["enqueue"]
    return plain | {"config": without_irrelevant(plain["config"])}
