"""A slot between two epochs, in memory and as one file that is replaced atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from pydantic import TypeAdapter
from torch import Tensor

from headsweep.atomic_files import write_bytes
from headsweep.engine.slots import EpochReport
from headsweep.errors import ConfigError
from headsweep.json_text import parse_json

FORMAT = "headsweep-state/1"


@dataclass(frozen=True)
class Snapshot:
    """The state of a slot: its clock, its reports so far, and its tensors.

    `step` counts optimizer steps; the tape is `len(history)` epochs past the slot's entry.
    """

    step: int
    history: tuple[EpochReport, ...]
    tensors: Mapping[str, Tensor]


def save_snapshot(snapshot: Snapshot, path: Path, identity: Mapping[str, Any]) -> None:
    """Replace the file at `path` atomically, so that a killed run leaves the old or the new one.

    Args:
        snapshot: the state to save.
        path: a safetensors file; clock and reports are JSON in its metadata.
        identity: plain data that names the run; `load_snapshot` returns it.
    """
    header = {
        "format": FORMAT,
        "identity": identity,
        "step": snapshot.step,
        "history": [asdict(report) for report in snapshot.history],
    }
    tensors = {name: tensor.contiguous() for name, tensor in snapshot.tensors.items()}
    write_bytes(path, safetensors.torch.save(tensors, {"headsweep": json.dumps(header)}))


def _check_format(found: Any) -> None:
    """Check the format of a file.

    Raises:
        ValueError: the format is not `FORMAT`.
    """
    if found != FORMAT:
        raise ValueError(f"format {found}")


def _with_value(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a report with the fields that those of earlier versions lack: AUPRC was the metric."""
    if "value" in report:
        return report
    return {**report, "value": report["auprc_macro"], "best_value": report["best_auprc_macro"]}


def load_snapshot(path: Path) -> tuple[Snapshot, dict[str, Any]]:
    """Return a snapshot and the identity of its run.

    Raises:
        ConfigError: the file is missing, or not a snapshot of this version.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = parse_json((file.metadata() or {})["headsweep"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _check_format(header["format"])
        reports = [_with_value(report) for report in header["history"]]
        history = TypeAdapter(tuple[EpochReport, ...]).validate_python(reports)
        step = TypeAdapter(int).validate_python(header["step"], strict=True)
        return Snapshot(step, history, tensors), header["identity"]
    except (
        *(OSError, LookupError, TypeError, ValueError),
        *(AttributeError, safetensors.SafetensorError),
    ) as error:
        raise ConfigError(
            f"{path}: cannot resume from this file, which is not a {FORMAT} file: {error}"
        ) from None
