"""Samplers and pruners by Optuna's names and keyword arguments, checked before a study begins."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from headsweep.config.messages import unknown_key
from headsweep.errors import StudyError
from headsweep.search.samplers.cmaes import ReplayedCmaEsSampler
from headsweep.search.samplers.stepped import SteppedSampler
from headsweep.search.samplers.tpe import BATCHED_ARGUMENTS, BatchedTPESampler
from headsweep.search.space import grid
from headsweep.search.spec import Dimension, IntDimension, Policy, StudySpec

SAMPLERS: Mapping[str, type[BaseSampler]] = {
    "tpe": optuna.samplers.TPESampler,
    "random": optuna.samplers.RandomSampler,
    "gp": optuna.samplers.GPSampler,
    "cmaes": ReplayedCmaEsSampler,
    "qmc": optuna.samplers.QMCSampler,
    "grid": optuna.samplers.GridSampler,
}
PRUNERS: Mapping[str, type[BasePruner]] = {
    "successive_halving": optuna.pruners.SuccessiveHalvingPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "median": optuna.pruners.MedianPruner,
    "percentile": optuna.pruners.PercentilePruner,
    "patient": optuna.pruners.PatientPruner,
    "threshold": optuna.pruners.ThresholdPruner,
    "none": optuna.pruners.NopPruner,
}
# Arguments that a study file cannot give: functions, or values that the study itself sets.
_NOT_DATA = {"self", "seed", "search_space", "independent_sampler", "source_trials", "x0"}
_NOT_DATA |= {"gamma", "weights", "constraints_func", "shared", "args", "kwargs"}
MAX_ARGUMENT = 1_000_000
"""Largest integer for a sampler or pruner: some are counts of arrays, others are exponents."""
_EXACT_STEPS = (BatchedTPESampler, ReplayedCmaEsSampler)
"""Samplers whose stepped values are exact decimals without `SteppedSampler`."""
SHARED_KEYS = ("training.batch_size",)
"""Config keys on which suggestions of batched TPE agree: trials of one batch size share a step.

Normalizations share less, and agreeing on them too cost quality (`docs/benchmarks/search.md`).
"""
SHARES_AT_ONCE = 5
"""How many shared values the trials at once have by default, at least.

A search of batched TPE thus draws them at least twenty times. With eight draws it lost quality on
functions whose shared param matters, and saved no time on a CPU (`docs/benchmarks/search.md`).
"""
TIMES_LEARNT: Mapping[str, int] = {"tpe": 10, "gp": 10, "cmaes": 10}
"""Batches of results that a sampler gets to learn from, at least (`docs/benchmarks/search.md`)."""
TIMES_LEARNT_LINEAR: Mapping[str, int] = {"tpe": 4}
"""The same for linear heads, which gain most from fused steps and lose nothing by fewer batches."""
FEWEST_AT_ONCE = 4
# All workers share one sequence or grid, so all need the same seed.
_SHARED_SEQUENCE = ("qmc", "grid")


def resolve_sampler(spec: StudySpec, *, where: str) -> Policy:
    """Check the sampler and set the defaults that a search of many slots needs.

    TPE decomposes a conditional space into groups, since it otherwise samples each conditional
    key alone.

    Returns:
        The sampler's name with all of its keyword arguments.

    Raises:
        StudyError: an unknown name or keyword argument, or a value that the sampler refuses.
    """
    kwargs = _checked_kwargs(spec.sampler, SAMPLERS, where=where)
    conditional = any(dimension.when for dimension in spec.space.values())
    if spec.sampler.name == "tpe" and conditional and kwargs.get("multivariate", True):
        kwargs.setdefault("group", True)
    if spec.sampler.name == "grid":
        n_points = math.prod(len(values) for values in grid(spec.space, where=where).values())
        if spec.n_trials > n_points:
            raise StudyError(
                f"{where}: the grid has {n_points} points, fewer than study.n_trials "
                f"({spec.n_trials}). Lower study.n_trials to {n_points}"
            )
    policy = Policy(name=spec.sampler.name, kwargs=kwargs)
    _try(lambda: build_sampler(spec.model_copy(update={"sampler": policy}), 0), where=where)
    return policy


def trials_at_once(spec: StudySpec) -> int:
    """Return how many trials one worker may run at a time.

    More share a step and cost less each; fewer leave the sampler more to learn from.
    """
    linear = TIMES_LEARNT_LINEAR if spec.config.head.kind == "linear" else {}
    share = linear.get(spec.sampler.name, TIMES_LEARNT.get(spec.sampler.name))
    if share is None:
        return spec.n_trials
    return max(FEWEST_AT_ONCE, math.ceil(spec.n_trials / share))


def resolve_pruner(spec: StudySpec, *, where: str) -> Policy:
    """Check the pruner and set integers for its resources: `auto` would differ between processes.

    Returns:
        The pruner's name with all of its keyword arguments.

    Raises:
        StudyError: an unknown name or keyword argument, or a value that the pruner refuses.
    """
    policy = _resolve_pruner(spec.pruner, longest_training(spec), where=where)
    _try(lambda: build_pruner(policy), where=where)
    return policy


def build_sampler(spec: StudySpec, worker: int) -> BaseSampler:
    """Return the study's sampler for one worker.

    Args:
        spec: the study's definition.
        worker: index of the worker, which gives each worker other random numbers.

    Returns:
        A new sampler. `tpe` is the batched variant, unless arguments are given that only Optuna's
        own TPE takes.
    """
    name, kwargs = spec.sampler.name, dict(spec.sampler.kwargs)
    seed = spec.seed if name in _SHARED_SEQUENCE else _mixed_seed(spec.seed, worker)
    if name == "grid":
        kwargs["search_space"] = grid(spec.space, where="space")
    if name in ("gp", "qmc"):
        kwargs.setdefault("warn_independent_sampling", False)
    if name == "qmc":
        kwargs["warn_asynchronous_seeding"] = False
    kind = SAMPLERS[name]
    if name == "tpe" and kwargs.keys() <= BATCHED_ARGUMENTS:
        kind = BatchedTPESampler
        kwargs["shared"] = SHARED_KEYS
        kwargs.setdefault("n_shared", max(1, trials_at_once(spec) // SHARES_AT_ONCE))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = kind(**kwargs, seed=seed)  # type: ignore[call-arg]
    return sampler if kind in _EXACT_STEPS else SteppedSampler(sampler)


def build_pruner(policy: Policy) -> BasePruner:
    """Return the pruner that a resolved policy describes."""
    kwargs = dict(policy.kwargs)
    if policy.name == "patient":
        inner = kwargs.pop("wrapped_pruner")
        kwargs["wrapped_pruner"] = build_pruner(Policy(**inner)) if inner else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return PRUNERS[policy.name](**kwargs)


def rungs(policy: Policy, max_epochs: int) -> frozenset[int]:
    """Return the epochs (1-based) at which the pruner can decide, up to `max_epochs`."""
    kwargs = policy.kwargs
    epochs = range(1, max_epochs + 1)
    match policy.name:
        case "successive_halving" | "hyperband":
            steps = []
            step = kwargs["min_resource"]
            while step <= max_epochs:
                steps.append(step)
                step *= kwargs["reduction_factor"]
            return frozenset(steps[kwargs.get("min_early_stopping_rate", 0) :])
        case "median" | "percentile" | "threshold":
            first, every = kwargs.get("n_warmup_steps", 0), kwargs.get("interval_steps", 1)
            # The first report in an interval is judged; epochs begin at 1, intervals may at 0.
            return frozenset(
                e for e in epochs if e == max(first, 1) or (e > first and (e - first) % every == 0)
            )
        case "patient":
            return frozenset(epochs)
    return frozenset()


def first_decision(policy: Policy, max_epochs: int) -> int | None:
    """Return the first epoch (1-based) at which the pruner can prune; None if it never does."""
    if policy.name != "patient":
        return min(rungs(policy, max_epochs), default=None)
    # Optuna looks for an improvement within `patience` epochs, after at least one epoch.
    first: int = policy.kwargs["patience"] + 2
    inner = policy.kwargs["wrapped_pruner"]
    wrapped = first_decision(Policy(**inner), max_epochs) if inner else 1
    if wrapped is None or max(first, wrapped) > max_epochs:
        return None
    return max(first, wrapped)


def longest_training(spec: StudySpec) -> int:
    """Return the most epochs that any trial of the study can train."""
    dimension: Dimension | None = spec.space.get("training.max_epochs")
    if dimension is None:
        return spec.config.training.max_epochs
    if isinstance(dimension, IntDimension):
        return dimension.high
    return max(int(value) for value in dimension.extremes.values())  # type: ignore[arg-type]


def _resolve_pruner(policy: Policy, max_epochs: int, *, where: str) -> Policy:
    kwargs = _checked_kwargs(policy, PRUNERS, where=where)
    for key in ("min_resource", "max_resource"):
        if key in kwargs and (not isinstance(kwargs[key], int) or kwargs[key] < 1):
            raise StudyError(f"{where}.{key}: must be an integer above 0, found {kwargs[key]!r}")
    match policy.name:
        case "successive_halving":
            kwargs.setdefault("min_resource", 1)
            kwargs.setdefault("reduction_factor", 4)
        case "hyperband":
            kwargs.setdefault("min_resource", 1)
            kwargs.setdefault("max_resource", max_epochs)
            kwargs.setdefault("reduction_factor", 3)
            # Optuna builds its brackets, which check these, when the first trial is judged.
            halving = {key: kwargs[key] for key in ("min_resource", "reduction_factor")}
            _try(lambda: optuna.pruners.SuccessiveHalvingPruner(**halving), where=where)
        case "patient":
            inner = kwargs.setdefault("wrapped_pruner", None)
            if inner is not None:
                nested_where = f"{where}.wrapped_pruner"
                if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
                    raise StudyError(
                        f"{nested_where}.name: must be the name of a pruner, found {inner!r}"
                    )
                nested = inner.get("kwargs", {})
                if not isinstance(nested, dict):
                    raise StudyError(
                        f"{nested_where}.kwargs: must map names to values, found {nested!r}"
                    )
                direct = {k: v for k, v in inner.items() if k not in ("name", "kwargs")}
                given = Policy(name=inner["name"], kwargs={**nested, **direct})
                kwargs["wrapped_pruner"] = _resolve_pruner(
                    given, max_epochs, where=nested_where
                ).model_dump()
    return Policy(name=policy.name, kwargs=kwargs)


def _checked_kwargs(policy: Policy, known: Mapping[str, type], *, where: str) -> dict[str, Any]:
    if policy.name not in known:
        raise StudyError(f"{where}.name: {unknown_key(policy.name, tuple(known))}")
    accepted = _arguments(known[policy.name])
    for key, value in policy.kwargs.items():
        if key not in accepted:
            raise StudyError(f"{where}.{key}: {unknown_key(key, tuple(accepted))}")
        if key != "wrapped_pruner" and not _fits(str(accepted[key].annotation), value):
            raise StudyError(
                f"{where}.{key}: must be of type {accepted[key].annotation}, found {value!r}"
            )
        counts = "float" not in str(accepted[key].annotation) and isinstance(value, int)
        if counts and not 0 <= value <= MAX_ARGUMENT:
            raise StudyError(f"{where}.{key}: must be 0 to {MAX_ARGUMENT}, found {value}")
    for key, parameter in accepted.items():
        required = parameter.default is inspect.Parameter.empty and key != "wrapped_pruner"
        if required and key not in policy.kwargs:
            raise StudyError(f"{where}: {key} is missing; {policy.name} needs it")
    return dict(policy.kwargs)


def _arguments(kind: type) -> dict[str, inspect.Parameter]:
    """Return the keyword arguments that a study file can give for a sampler or pruner."""
    kinds = (kind, BatchedTPESampler) if kind is optuna.samplers.TPESampler else (kind,)
    return {
        name: parameter
        for one in reversed(kinds)  # Optuna's annotations win
        for name, parameter in inspect.signature(one).parameters.items()
        if name not in _NOT_DATA
    }


def _fits(annotation: str, value: Any) -> bool:
    """Return whether a plain value is of the type an annotation such as `int | None` names."""
    names = {part.strip() for part in annotation.removeprefix("<class '").split("|")}
    names = {name.removesuffix("'>") for name in names}
    found = "None" if value is None else type(value).__name__
    return found in names or (found == "int" and "float" in names)


def _mixed_seed(seed: int, worker: int) -> int:
    # Distinct workers must not repeat each other's start-up trials.
    return (seed + worker * 0x9E3779B1) % 2**32


def _try(build: Any, *, where: str) -> None:
    try:
        build()
    except (TypeError, ValueError) as error:
        raise StudyError(f"{where}: {' '.join(str(error).split())}") from None
    except ImportError as error:
        raise StudyError(f"{where}: its package is not installed: {error}") from None
