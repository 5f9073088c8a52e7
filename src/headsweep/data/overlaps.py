"""What two splits share: patients, reports, feature rows, and what is done about it.

Different patients may share a stock report ("normal chest"), and features made from it are equal
to the bit; such rows carry the same labels and stay few. The same content under different labels,
or in many rows, may mean that a file was copied or mixed up.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from headsweep.config.data_sections import SharedContent
from headsweep.config.inputs import Modality
from headsweep.data.faults import Fault
from headsweep.data.manifest import Manifest
from headsweep.metrics.masking import BLANK

STOCK_SHARE = 0.05
"""Largest share of a split's rows that may repeat another split's content with equal labels."""

REPORT = "a report"

HOW_TO_GO_ON = (
    "data.shared_content=warn accepts such rows, data.shared_content=drop leaves them out of "
    "valid and test"
)


@dataclass(frozen=True, eq=False)
class Overlap:
    """Rows of `other` whose content of one kind is also in `one`.

    `pairs` holds an index of `one` and an index of `other` for each such row; the labels of both
    manifests are the same, in the same order.
    """

    kind: str
    one: Manifest
    other: Manifest
    pairs: Sequence[tuple[int, int]]
    modality: Modality | None = None
    """Of the features; None for reports."""

    def faults(self, policy: SharedContent | None) -> list[Fault]:
        """Judge the rows by a policy.

        Args:
            policy: None is `refuse` for visual features and `warn` for the rest.

        Returns:
            With `refuse` a fault for each row, errors first. Otherwise one warning of them all,
            or one for each row where a few rows with equal labels share stock content.
        """
        faults = self._row_faults()
        if policy_of(self.modality, policy) == "refuse":
            return faults
        if any(fault.severity == "error" for fault in faults):
            return [Fault(self.other.path, None, self._summary(), severity="warning")]
        return faults

    def _row_faults(self) -> list[Fault]:
        errors, stock = [], []
        for i, j in self.pairs:
            found = f"the same also in {self.one.location(i)}"
            message = f"{self.kind} must be in one split, found {found}"
            fault = Fault(self.other.path, self.other.rows[j], message)
            if self._equal_labels(i, j):
                stock.append(replace(fault, severity="warning"))
            else:
                errors.append(replace(fault, message=f"{message}, with other labels"))
        if len(stock) > STOCK_SHARE * len(self.other.rows):
            stock = [replace(fault, severity="error") for fault in stock]
        return [*errors, *stock]

    def _equal_labels(self, i: int, j: int) -> bool:
        """Return whether two rows agree in all labels that both have."""
        a, b = self.one.targets[i], self.other.targets[j]
        return bool(((a == b) | (a == BLANK) | (b == BLANK)).all())

    def _summary(self) -> str:
        i, j = self.pairs[0]
        differing = sum(not self._equal_labels(*pair) for pair in self.pairs)
        return (
            f"{len(self.pairs)} of {len(self.other.rows)} rows share {self.kind} with "
            f"{self.one.path}, {differing} of them with other labels (first: "
            f"{self.other.location(j)} and {self.one.location(i)}): metrics on them say little "
            "about new content; data.shared_content=drop leaves them out, "
            "data.shared_content=refuse stops"
        )


def policy_of(modality: Modality | None, policy: SharedContent | None) -> SharedContent:
    """Return what is done about shared content.

    Args:
        modality: of the features; None for reports.
        policy: None is the default, which depends on the modality.
    """
    return policy or ("refuse" if modality == "visual" else "warn")


def shared_patients(one: Manifest, other: Manifest) -> list[Fault]:
    """Return a fault for each row of `other` whose patient is also in `one`."""
    return [
        Fault(
            other.path,
            other.rows[j],
            f"a patient must be in one split, found {other.patients[j]!r} also in "
            f"{one.location(i)}",
        )
        for i, j in _shared(one.patients, other.patients)
    ]


def overlap(
    kind: str,
    one: Manifest,
    keys_of_one: Sequence[Hashable],
    other: Manifest,
    keys_of_other: Sequence[Hashable],
    *,
    modality: Modality | None = None,
) -> Overlap:
    """Find the rows of `other` whose content is also in `one`.

    Args:
        kind: of content, for messages: "a report", "visual features".
        one: a manifest, whose labels are those of `other` in the same order.
        keys_of_one: the content of every row of `one`, or a digest of it; empty ones match nothing.
        other: the manifest whose rows are judged.
        keys_of_other: as `keys_of_one`.
        modality: of the features; None for reports.

    Returns:
        The rows, which may be none.
    """
    return Overlap(kind, one, other, _shared(keys_of_one, keys_of_other), modality)


def _shared(one: Sequence[Hashable], other: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Return index pairs of equal values: each index of `other` with the first of `one`."""
    first = {value: i for i, value in reversed(list(enumerate(one))) if value}
    return [(first[value], j) for j, value in enumerate(other) if value in first]
