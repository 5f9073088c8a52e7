"""Sizes of the measurements, and the state that the sections share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workload import make_split

from gpu_sections.device import CUDA, DEVICE
from headsweep.data.dataset import Split
from headsweep.engine.inputs import Inputs


@dataclass
class Sizes:
    """Sizes of all measurements; `SMALL` is for a machine without a GPU."""

    rows: int = 46_438
    valid_rows: int = 3_039
    width: int = 512
    labels: int = 18
    steps: int = 150
    checked_rows: int = 4_000
    slots: tuple[int, ...] = (32, 96)
    linear_slots: tuple[int, ...] = (32, 256)
    mixed: int = 50
    hidden: int = 512
    copy_mib: int = 1024
    study_slots: int = 128
    studies: tuple[tuple[str, int, float, float], ...] = (
        ("linear_visual", 100, 5.0, 60.0),
        ("mlp_visual", 100, 15.0, 60.0),
        ("mlp_visual", 1000, 60.0, 120.0),
    )
    """Study file, trials, seconds aimed at, and the most it may take."""
    ways: tuple[tuple[str, int, int], ...] = (("linear", 256, 6), ("mlp", 96, 3))
    """Head, configs of headsweep, configs of the other ways; one epoch each."""
    retrieval: int = 16
    """Retrieval heads whose epoch is timed."""
    fixed: tuple[str, ...] = ()
    smallest: bool = False


SMALL = Sizes(
    rows=100, valid_rows=40, width=32, labels=4, steps=1, checked_rows=90, slots=(2,),
    linear_slots=(3,), mixed=2, hidden=32, copy_mib=4, study_slots=4,
    studies=(("linear_visual", 2, 5.0, 60.0), ("mlp_visual", 2, 15.0, 90.0)),
    ways=(("linear", 2, 2), ("mlp", 2, 2)), retrieval=2,
    fixed=("training.max_epochs=1",), smallest=True,
)  # fmt: skip


@dataclass
class Run:
    """State that the sections share."""

    sizes: Sizes
    out: Path | None
    until: float
    results: dict[str, Any] = field(default_factory=dict)
    table: list[tuple[str, str]] = field(default_factory=list)
    splits: tuple[Split, Split] | None = None
    inputs: dict[int, Inputs] = field(default_factory=dict)

    def say(self, name: str, value: str) -> None:
        """Print one line now, and again in the table."""
        self.table.append((name, value))
        print(f"{name:<58} {value}", flush=True)

    def data(self) -> tuple[Split, Split]:
        """Return splits of CT-RATE's size, made once."""
        if self.splits is None:
            s = self.sizes
            self.splits = (
                make_split("train", s.rows, s.width, s.labels, seed=1),
                make_split("valid", s.valid_rows, s.width, s.labels, seed=2),
            )
        return self.splits

    def checked_data(self) -> tuple[Split, Split]:
        """Return the smaller splits on which results are compared."""
        s = self.sizes
        return (
            make_split("train", s.checked_rows, s.width, s.labels, seed=3),
            make_split("valid", 1000 if CUDA else 60, s.width, s.labels, seed=4),
        )

    def first_rows(self, rows: int) -> Inputs:
        """Return the first training rows and the validation split on the device, made once."""
        if rows not in self.inputs:
            train, valid = self.data()
            features = {modality: x[:rows] for modality, x in train.features.items()}
            few = replace(train, targets=train.targets[:rows], features=features)
            self.inputs[rows] = Inputs(few, valid, DEVICE)
        return self.inputs[rows]
