"""Subgroups of patients that a manifest's metadata columns name: sex, age band, manufacturer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from headsweep.config.data_sections import ColumnsConfig
from headsweep.data.ct_rate.names import volume_of
from headsweep.data.tables import normalized, read_table

SEX = {"M": "male", "F": "female"}
AGE_BANDS = ((40, "under 40"), (60, "40 to 59"), (80, "60 to 79"), (200, "80 and over"))
"""Upper ends, exclusive, in years."""

UNKNOWN = "unknown"


def read_subgroups(
    path: Path, columns: ColumnsConfig, volumes: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Read the subgroup of every volume by attribute: `sex`, `age`, `manufacturer`.

    Reads CT-RATE's columns `PatientSex`, `PatientAge` ("036Y") and `Manufacturer`; an attribute
    whose column the manifest lacks is left out, a cell that says nothing is `unknown`.

    Args:
        path: a manifest that was read without fault.
        columns: names the volume column.
        volumes: in the order wanted.

    Returns:
        For each attribute that the manifest has the subgroup of every volume.
    """
    table = read_table(path, kind="manifest")
    cells = table.cells.set_index(table.cells[normalized(columns.volume)].map(volume_of))
    cells = cells.loc[list(volumes)]
    return {
        name: tuple(map(read, cells[column]))
        for name, (column, read) in READERS.items()
        if column in table.header
    }


def _sex(cell: str) -> str:
    return SEX.get(cell.upper()[:1], UNKNOWN)


def _age_band(cell: str) -> str:
    years = re.fullmatch(r"0*(\d{1,3})(?:\.0*)?Y?", cell)
    if years is None:
        return UNKNOWN
    return next(name for end, name in AGE_BANDS if int(years[1]) < end)


def _manufacturer(cell: str) -> str:
    return cell or UNKNOWN


READERS: Mapping[str, tuple[str, Callable[[str], str]]] = {
    "sex": ("PatientSex", _sex),
    "age": ("PatientAge", _age_band),
    "manufacturer": ("Manufacturer", _manufacturer),
}
"""Column of every attribute, and how a cell names its subgroup."""
