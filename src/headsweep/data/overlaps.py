"""What two splits must not share: patients, reports, feature rows.

Different patients may share a stock report ("normal chest"), and features made from it are equal
to the bit; such rows carry the same labels and stay few. The same content under different labels,
or in many rows, means that a file was copied or mixed up.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from headsweep.data.faults import Fault
from headsweep.data.manifest import Manifest

STOCK_SHARE = 0.05
"""Largest share of a split's rows that may repeat another split's content with equal labels."""


def shared_patients(one: Manifest, other: Manifest) -> list[Fault]:
    """A fault for each row of `other` whose patient is also in `one`."""
    return [
        Fault(
            other.path,
            other.rows[j],
            f"a patient must be in one split, found {other.patients[j]!r} also in {one.place(i)}",
        )
        for i, j in _shared(one.patients, other.patients)
    ]


def shared_content(
    kind: str,
    one: Manifest,
    keys_of_one: Sequence[Hashable],
    other: Manifest,
    keys_of_other: Sequence[Hashable],
) -> list[Fault]:
    """A fault for each row of `other` whose content is also in `one`; errors come first.

    Args:
        kind: of content, for the message: "report", "visual features".
        one: a manifest, whose labels are those of `other` in the same order.
        keys_of_one: the content of every row of `one`, or a digest of it; empty ones match nothing.
        other: the manifest whose rows are judged.
        keys_of_other: as `keys_of_one`.
    """
    errors, stock = [], []
    for i, j in _shared(keys_of_one, keys_of_other):
        equal_labels = bool((one.targets[i] == other.targets[j]).all())
        found = f"the same also in {one.place(i)}"
        fault = Fault(other.path, other.rows[j], f"{kind} must be in one split, found {found}")
        if equal_labels:
            stock.append(replace(fault, severity="warning"))
        else:
            errors.append(replace(fault, message=f"{fault.message}, with other labels"))
    if len(stock) > STOCK_SHARE * len(other.rows):
        stock = [replace(fault, severity="error") for fault in stock]
    return [*errors, *stock]


def _shared(one: Sequence[Hashable], other: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Index pairs of equal values: each index of `other` with the first of `one`."""
    first = {value: i for i, value in reversed(list(enumerate(one))) if value}
    return [(first[value], j) for j, value in enumerate(other) if value in first]
