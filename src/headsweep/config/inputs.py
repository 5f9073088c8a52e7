"""Names of a head's inputs: the features of one encoder each, and several of them side by side.

`features.input` is one text in a config, in Optuna's tables and in every exported file: the names
of the inputs, joined by `+`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from headsweep.config.messages import nearest

Modality = Literal["visual", "text"]

MODALITIES: tuple[Modality, ...] = ("visual", "text")

BUILT_IN: Mapping[str, Modality] = {"visual": "visual", "text": "text"}
"""Inputs that need no entry in `data.inputs`, with their modality."""

INPUT = "features.input"
"""Config key whose value may be given as a list of names."""

BOTH = "both"
"""Another name of the inputs `visual` and `text`, side by side."""

JOINER = "+"
"""Stands between the names of inputs that are joined."""

RESERVED = (*BUILT_IN, BOTH, "split", "volumename", "targets")
"""Names that no input may have; the last three are columns of `data_rows.parquet`."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


def input_names(feature_input: str) -> tuple[str, ...]:
    """Return the names of the inputs that `features.input` joins, in their order."""
    return tuple(BUILT_IN) if feature_input == BOTH else tuple(feature_input.split(JOINER))


def joined_input(value: Any) -> Any:
    """Return the text that a list of names stands for; anything else as it is."""
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        return value
    return BOTH if tuple(value) == tuple(BUILT_IN) else JOINER.join(value)


def check_input(feature_input: str) -> str:
    """Check that a text names distinct inputs.

    Returns:
        The text.

    Raises:
        ValueError: a name is empty, or there twice.
    """
    names = input_names(feature_input)
    if not all(names):
        raise ValueError(
            f"must be the name of an input, or several joined by {JOINER!r}, "
            f"found {feature_input!r}"
        )
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"must name every input once, found {name!r} twice")
    return feature_input


def check_names(columns: Mapping[str, str]) -> None:
    """Check the names of `data.inputs`.

    Args:
        columns: of the manifests, by the name of the input.

    Raises:
        ValueError: a name is reserved or has other characters, or two inputs have one column.
    """
    if not columns:
        raise ValueError("must name at least one input, or be null")
    first: dict[str, str] = {}
    for name, column in columns.items():
        check_name(name)
        if column in first:
            raise ValueError(f"{first[column]!r} and {name!r} must differ in their column")
        first[column] = name


def check_name(name: str) -> None:
    """Check the name of one input.

    Raises:
        ValueError: it is reserved or has other characters.
    """
    if name in RESERVED:
        raise ValueError(
            f"{name!r} is reserved: give the input another name than {', '.join(RESERVED)}"
        )
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            "an input's name must begin with a letter and go on with at most 63 letters, digits, "
            f"'_' and '-', found {name!r}"
        )


def check_known(names: Sequence[str], known: Sequence[str], key: str) -> None:
    """Check that inputs are known.

    Args:
        names: of the inputs.
        known: names of all inputs.
        key: config key that names the inputs.

    Raises:
        ValueError: one is unknown.
    """
    for name in names:
        if name == BOTH:
            raise ValueError(
                f"{key}: 'both' stands alone; to join further inputs, write "
                f"{JOINER.join((*BUILT_IN, *(n for n in names if n != BOTH)))}"
            )
        if name not in known:
            hint = nearest(name, known) or f" Known: {', '.join(known)}."
            raise ValueError(
                f"{key}: unknown input {name!r}.{hint} data.inputs names inputs of your own"
            )


def paired_inputs(
    feature_input: str, partner: str | None, modalities: Mapping[str, Modality]
) -> dict[Modality, tuple[str, ...]]:
    """Return the inputs of both sides of a retrieval head, visual ones first.

    A side that `feature_input` lacks is `partner`; else the only input of that modality in
    `data.inputs`; else, and for the inputs `visual` and `text`, the built-in one.

    Args:
        feature_input: value of `features.input`.
        partner: value of `features.partner`.
        modalities: of all inputs, by name; the built-in ones first.

    Raises:
        ValueError: `partner` has the wrong modality, or is null where there are several inputs.
    """
    names = input_names(feature_input)
    sides: dict[Modality, tuple[str, ...]] = {
        modality: tuple(name for name in names if modalities[name] == modality)
        for modality in MODALITIES
    }
    for modality in MODALITIES:
        if sides[modality]:
            continue
        if partner is not None:
            if modalities[partner] != modality:
                raise ValueError(
                    f"features.partner must be a {modality} input with features.input="
                    f"{feature_input}, found the {modalities[partner]} input {partner!r}"
                )
            sides[modality] = (partner,)
            continue
        own = [n for n, m in modalities.items() if m == modality and n not in BUILT_IN]
        if len(own) > 1 and not set(names) <= BUILT_IN.keys():
            raise ValueError(
                f"features.partner must name the {modality} input that a retrieval head pairs "
                f"with features.input={feature_input}: there are {', '.join(own)}"
            )
        sides[modality] = (own[0],) if own and names[0] not in BUILT_IN else (modality,)
    return sides
