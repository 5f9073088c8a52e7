"""Measure everything about a GPU in one command of at most eight minutes.

    PYTHONPATH=src python scripts/benchmarks/gpu.py --out gpu.json

Sections run one after another, most important first, each within its own time: the grouped
programs against the CPU, shapes of tiles (later sections use the fastest), whole studies on data
of CT-RATE's size, times of a step, other ways to train side by side, and retrieval heads. A
section that fails prints its traceback, and the next one runs. Last come a table and one JSON line.
With `--small` every path runs with tiny sizes; without a GPU, Triton's interpreter then runs the
kernels on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

from gpu_sections.about import about
from gpu_sections.correctness import correctness, without_triton
from gpu_sections.device import CUDA, now
from gpu_sections.options import options
from gpu_sections.programs import grouped_programs
from gpu_sections.retrieval import retrieval
from gpu_sections.run import SMALL, Run, Sizes
from gpu_sections.side_by_side import ways
from gpu_sections.steps import profile, steps
from gpu_sections.studies import studies
from gpu_sections.tiles import compile_share, tiles


def main() -> None:
    """Run the sections that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="file for the results, rewritten as they come")
    parser.add_argument("--small", action="store_true", help="tiny sizes, on a CPU as well")
    parser.add_argument("--seconds", type=float, default=465.0, help="for everything")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--compile", nargs=2, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.compile:
        compile_share(*arguments.compile)
        return
    torch.set_num_threads(1)
    run = Run(SMALL if arguments.small else Sizes(), arguments.out, now() + arguments.seconds)
    with grouped_programs():
        for name in arguments.sections:
            _run_section(name, run)
    width = max(len(name) for name, _ in run.table)
    print("\n" + "\n".join(f"{name:<{width}}  {value}" for name, value in run.table))
    print(json.dumps(run.results), flush=True)


def _run_section(name: str, run: Run) -> None:
    section, most = SECTIONS[name]
    left = run.until - now()
    print(f"== {name}: at most {min(most, left):.0f} s of {left:.0f} s", flush=True)
    if left < 5:
        run.say(f"{name}: skipped", "no time left")
        return
    begun = now()
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    try:
        run.results[name] = section(run, begun + min(most, left))
    except Exception as error:  # the other sections must still run
        traceback.print_exc()
        run.results[name] = {"failed": f"{type(error).__name__}: {error}"[:500]}
        run.say(f"{name}: FAILED", f"{type(error).__name__}: {error}"[:160])
    if isinstance(run.results[name], dict):
        run.results[name]["seconds"] = round(now() - begun, 2)
        if CUDA:
            run.results[name]["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
    if CUDA:
        torch.cuda.empty_cache()
    if run.out is not None:
        run.out.write_text(json.dumps(run.results, indent=1))
    sys.stdout.flush()


SECTIONS: dict[str, tuple[Callable[[Run, float], dict[str, Any]], float]] = {
    "about": (about, 30),
    "correctness": (correctness, 90),
    "options": (options, 40),
    "tiles": (tiles, 100),
    "studies": (studies, 220),
    "steps": (steps, 60),
    "ways": (ways, 60),
    "without_triton": (without_triton, 20),
    "retrieval": (retrieval, 40),
    "profile": (profile, 30),
}
"""What runs, and the seconds that it may take."""


if __name__ == "__main__":
    main()
