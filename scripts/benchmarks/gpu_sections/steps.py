"""Times of a step and of its parts, and its kernels."""

from __future__ import annotations

from collections import Counter
from typing import Any

from gpu_sections.device import CUDA, now, wait
from gpu_sections.programs import (
    build,
    epoch_seconds,
    launches,
    part_seconds,
    validate_seconds,
    workloads,
)
from gpu_sections.run import Run

BYTES_A_PARAMETER = 24
"""Weight and two moments, read and written."""


def steps(run: Run, until: float) -> dict[str, Any]:
    """Time steps: microseconds a slot-step, and the update kernel's share of the bandwidth.

    Returns:
        The measurements.
    """
    found: dict[str, Any] = {}
    copy = run.results.get("about", {}).get("copy_gb_s") or float("nan")
    for precision in ("float32", "tf32", "bf16"):
        for name, (kind, configs) in workloads(run).items():
            if now() > until or (precision != "float32" and "MLP study draws, b" not in name):
                continue
            program, slots = build(run, kind, configs, precision=precision)
            seconds = epoch_seconds(program, slots)
            slot_steps = sum(slot.steps_per_epoch for slot in slots)
            result = {"us_a_slot_step": seconds / slot_steps * 1e6}
            result["ms_a_step"] = seconds / max(s.steps_per_epoch for s in slots) * 1e3
            lane = next(iter(program.lanes.values()))
            result["launches"] = launches(lane)
            result["validate_ms"] = validate_seconds(program) * 1e3
            parts = part_seconds(lane)
            result |= {f"{part}_ms": value * 1e3 for part, value in parts.items()}
            parameters = sum(m.size for m in lane.members) * 16
            gb_s = parameters * BYTES_A_PARAMETER / parts["update"] / 1e9
            result |= {"update_gb_s": gb_s, "update_share_of_copy": gb_s / copy}
            found[f"{name} {precision}"] = result
            run.say(
                f"{name}, {precision}",
                f"{result['us_a_slot_step']:.2f} us a slot-step, {result['ms_a_step']:.3f} ms; "
                f"fwd {parts['forward'] * 1e3:.3f} back {parts['backward'] * 1e3:.3f} update "
                f"{parts['update'] * 1e3:.3f} ms, {gb_s:.0f} GB/s = {gb_s / copy:.0%} of copy; "
                f"{result['launches']} launches; validate {result['validate_ms']:.1f} ms",
            )
            del program, slots, lane
    return found


def profile(run: Run, until: float) -> dict[str, Any]:
    """Count and time the kernels of replayed steps with PyTorch's profiler.

    Returns:
        The measurements.
    """
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    found: dict[str, Any] = {}
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if CUDA else [])]
    chosen = {n: w for n, w in workloads(run).items() if "MLP study draws, b64" in n
              or n.endswith("linear b256")}  # fmt: skip
    for name, (kind, configs) in chosen.items():
        program, slots = build(run, kind, configs)
        epoch_seconds(program, slots, rounds=1)
        lane = next(iter(program.lanes.values()))
        lane.clock[:1].zero_()
        wait()
        count = 4 if CUDA else 1
        with profiler(activities=activities) as recorded_events:
            for _ in range(count):
                lane.launch_step()
            wait()
        kernels = [e for e in recorded_events.events() if "kernel" in e.name.lower()
                   and str(e.device_type).endswith("CUDA")]  # fmt: skip
        times: Counter[str] = Counter()
        for event in kernels:
            times[event.name] += event.device_time_total / count
        found[name] = {"kernels_a_step": len(kernels) / count, "us": dict(times)}
        run.say(f"profiler: {name}", f"{len(kernels) / count:.1f} kernels a step, "
                f"{sum(times.values()):.0f} us on the device")  # fmt: skip
        for kernel, us in times.most_common():
            print(f"    {us:9.1f} us  {kernel}")
    return found
