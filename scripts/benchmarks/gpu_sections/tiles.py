"""Shapes of tiles: each is timed, and later sections use the fastest."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gpu_sections.device import CUDA, now
from gpu_sections.programs import build, part_seconds, prepared_lane, workloads
from gpu_sections.run import Run
from headsweep.config.schema import Config
from headsweep.engine.programs.grouped.program import GROUPED_PROGRAMS, TALL

ENTRY = Path(__file__).parents[1] / "gpu.py"


def _update(
    rows: int, columns: int, *, depth: int, warps: int, stages: int, registers: int | None
) -> dict[str, Any]:
    return {
        "weight_rows": rows, "weight_columns": columns, "update_depth": depth,
        "update_warps": warps, "update_stages": stages, "update_registers": registers,
    }  # fmt: skip


SHAPES: dict[str, tuple[dict[str, Any], ...]] = {
    "update": (
        {},
        _update(32, 64, depth=16, warps=4, stages=4, registers=96),
        _update(32, 64, depth=16, warps=4, stages=5, registers=96),
        _update(32, 64, depth=16, warps=4, stages=3, registers=96),
        _update(32, 64, depth=32, warps=4, stages=3, registers=128),
        _update(32, 64, depth=32, warps=2, stages=3, registers=None),
        _update(32, 64, depth=16, warps=2, stages=4, registers=None),
        _update(64, 32, depth=32, warps=2, stages=3, registers=None),
        _update(64, 32, depth=16, warps=2, stages=4, registers=None),
        _update(32, 32, depth=32, warps=1, stages=3, registers=None),
        _update(32, 32, depth=16, warps=2, stages=4, registers=128),
        _update(128, 32, depth=32, warps=4, stages=3, registers=168),
        _update(128, 32, depth=32, warps=4, stages=4, registers=168),
        _update(32, 128, depth=16, warps=4, stages=4, registers=168),
    ),
    "product": (
        {},
        {"depth": 64},
        {"warps": 2, "stages": 3},
        {"warps": 2},
        {"depth": 16, "warps": 2},
        {"rows": 32, "outputs": 64, "warps": 2, "stages": 3},
        {"rows": 32, "warps": 2},
        {"rows": 32, "warps": 1},
        {"rows": 32, "outputs": 16, "warps": 1},
        {"rows": 128, "stages": 3},
        {"rows": 128},
        {"rows": 128, "stages": 3, "registers": 168},
        {"rows": 128, "outputs": 64, "stages": 3},
        {"outputs": 64},
    ),
    "norm": (
        {}, {"norm_rows": 2}, {"norm_rows": 8}, {"norm_columns": 512},
        {"norm_rows": 1, "norm_columns": 1024}, {"norm_rows": 8, "norm_columns": 128},
        {"norm_rows": 2, "norm_columns": 512},
    ),
}  # fmt: skip
"""What `tiles` tries for each part of a step; the first of each is what a program has."""


def shapes_of(kind: str) -> dict[str, tuple[dict[str, Any], ...]]:
    """Return what is tried for a program; a linear head has no norm."""
    parts = ("update", "product") if kind == "grouped_linear" else tuple(SHAPES)
    return {part: SHAPES[part] for part in parts}


def tiles(run: Run, until: float) -> dict[str, Any]:
    """Time shapes of tiles, and let the programs of later sections use the fastest.

    Returns:
        The measurements.
    """
    found: dict[str, Any] = {}
    names = {
        n: w for n, w in workloads(run).items() if "MLP study draws, b" in n and "both" not in n
    }
    linear = [n for n in workloads(run) if n.startswith(f"{run.sizes.linear_slots[-1]} linear")]
    names |= {n: workloads(run)[n] for n in linear}
    if CUDA:
        _compile_everything()
        print(f"  compiled; {until - now():.0f} s left", flush=True)
    for name, (kind, configs) in names.items():
        tall = configs[0].training.batch_size > TALL
        attribute = "tall_tiles" if tall else "tiles"
        program_type = GROUPED_PROGRAMS[kind]
        for part, shapes in shapes_of(kind).items():
            best = _fastest(run, name, (kind, configs), part, shapes, until)
            found[f"{name} {part}"] = best
            if best["tried"] > 1:
                base = getattr(program_type, attribute)
                setattr(program_type, attribute, replace(base, **best["changes"]))
                run.say(f"tiles of {part}, {name}: {best['changes']}",
                        f"{best['ms'][0]:.3f} to {min(best['ms']):.3f} ms")  # fmt: skip
    return found


def _fastest(run: Run, name: str, workload: tuple[str, list[Config]], part: str,
             shapes: Sequence[dict[str, Any]], until: float) -> dict[str, Any]:  # fmt: skip
    kind, configs = workload
    tall = configs[0].training.batch_size > TALL
    base = getattr(GROUPED_PROGRAMS[kind], "tall_tiles" if tall else "tiles")
    times: dict[int, float] = {}
    for number, changes in enumerate(shapes if CUDA else shapes[:2]):
        if now() > until:
            break
        try:
            program, _ = build(run, kind, configs, replace(base, **changes))
            parts = part_seconds(prepared_lane(program))
        except Exception as error:  # too much shared memory, for example
            print(f"  {name} {changes}: {type(error).__name__} {str(error)[:100]}", flush=True)
            continue
        update = parts["update"]
        times[number] = update if part == "update" else parts["forward"] + parts["backward"]
        text = " ".join(f"{p} {value * 1e3:.3f}" for p, value in parts.items())
        print(f"  {name} {changes}: {text} ms", flush=True)
    best = min(times, key=lambda number: times[number], default=0)
    return {"changes": shapes[best], "tried": len(times),
            "ms": [round(t * 1e3, 4) for t in times.values()]}  # fmt: skip


def _compile_everything() -> None:
    """Compile all shapes in processes of their own, into Triton's cache on the disk."""
    count = min(12, os.cpu_count() or 1)
    workers = [
        subprocess.Popen([sys.executable, str(ENTRY), "--compile", str(i), str(count)])
        for i in range(count)
    ]
    end = now() + 60
    for worker in workers:
        try:
            worker.wait(timeout=max(0.1, end - now()))
        except subprocess.TimeoutExpired:
            worker.kill()


def compile_share(share: int, of: int) -> None:
    """Compile every `of`-th shape of the kernels that `tiles` times."""
    from headsweep.engine.programs.grouped import product_kernels as products
    from headsweep.engine.programs.grouped.activation_kernels import (
        activation_error_kernel,
        activation_kernel,
    )

    bases = dict.fromkeys(
        (getattr(program, name), kind)
        for kind, program in GROUPED_PROGRAMS.items()
        for name in ("tiles", "tall_tiles")
    )
    work: dict[tuple[Any, ...], tuple[Any, dict[str, Any]]] = {}

    def add(kernel: Any, options: dict[str, Any]) -> None:
        work[kernel.__name__, *options.items()] = kernel, options

    precise = {"PRECISION": "tf32x3", "EMULATED": False}
    for base, kind in bases:
        for part, shapes in shapes_of(kind).items():
            for changes in shapes:
                t = replace(base, **changes)
                limit = {} if t.registers is None else {"maxnreg": t.registers}
                if part == "product":
                    for kernel in (products.product_kernel, products.input_error_kernel):
                        add(kernel, precise | limit | {
                            "ROWS": t.rows, "OUTPUTS": t.outputs, "DEPTH": t.depth,
                            "num_warps": t.warps, "num_stages": t.stages})  # fmt: skip
                limit = {} if t.update_registers is None else {"maxnreg": t.update_registers}
                if part == "update":
                    add(products.update_kernel, precise | limit | {
                        "UNITS": t.weight_rows, "COLUMNS": t.weight_columns,
                        "DEPTH": t.update_depth, "num_warps": t.update_warps,
                        "num_stages": t.update_stages})  # fmt: skip
                if part == "norm":
                    shape = {"ROWS": t.norm_rows, "COLUMNS": t.norm_columns}
                    add(activation_kernel, {"TRAIN": True, **shape})
                    add(activation_error_kernel, shape)
    for kernel, options in list(work.values())[share::of]:
        arguments = [
            ARGUMENTS.get(name, torch.float32) for name in kernel.arg_names if name not in options
        ]
        try:
            kernel.warmup(*arguments, grid=(1,), **options)
        except Exception as error:  # a shape that does not fit is reported when it is timed
            print(f"  {kernel.__name__} {options}: {str(error)[:80]}", flush=True)


ARGUMENTS: dict[str, Any] = {
    "tiles": torch.int32, "kinds": torch.int32, "maps": torch.int64, "clock": torch.int64,
    "rows": 64, "row_tiles": 1, "slots": 64,
}  # fmt: skip
"""Types of the kernels' arguments, where they are not float32 tensors."""
