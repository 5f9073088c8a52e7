"""Measure everything about a GPU in one command of at most eight minutes.

    PYTHONPATH=src python scripts/benchmarks/gpu.py --out gpu.json

Sections run one after another, most important first, each within its own time: the grouped
programs against the CPU, shapes of tiles (later sections use the fastest), whole studies on data
of CT-RATE's size, times of a step, and other ways to train side by side. A section that fails
prints its traceback, and the next one runs. Last come a table and one JSON line. With `--small`
every path runs with tiny sizes; without a GPU, Triton's interpreter then runs the kernels on the
CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

import triton
from ways import _train_stack, _train_summed, train_one
from workload import ROOT, draw_configs, make_split

from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.data.dataset import Split
from headsweep.engine import groups
from headsweep.engine.engine import Engine
from headsweep.engine.inputs import Inputs, Variant
from headsweep.engine.programs.base import GroupKey
from headsweep.engine.programs.grouped.availability import triton_available
from headsweep.engine.programs.grouped.lanes import TrainLane
from headsweep.engine.programs.grouped.program import (
    GROUPED_PROGRAMS,
    TALL,
    GroupedLinearProgram,
    GroupedMLPProgram,
    GroupedProgram,
)
from headsweep.engine.programs.grouped.records import Tiles
from headsweep.engine.programs.linear import LinearProgram
from headsweep.engine.programs.mlp import MLPProgram
from headsweep.engine.slots import Slot
from headsweep.engine.tape import permutation
from headsweep.engine.train_configs import Trained, train_to_end
from headsweep.settings import EngineSettings, WorkerSettings

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
BYTES_A_PARAMETER = 24
"""Weight and two moments, read and written."""


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
    fixed: tuple[str, ...] = ()
    smallest: bool = False


SMALL = Sizes(
    rows=100, valid_rows=40, width=32, labels=4, steps=1, checked_rows=90, slots=(2,),
    linear_slots=(3,), mixed=2, hidden=32, copy_mib=4, study_slots=4,
    studies=(("linear_visual", 2, 5.0, 60.0), ("mlp_visual", 2, 15.0, 90.0)),
    ways=(("linear", 2, 2), ("mlp", 2, 2)),
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

    def first_rows(self, rows: int) -> Inputs:
        """Return the first training rows and the validation split on the device, made once."""
        if rows not in self.inputs:
            train, valid = self.data()
            features = {modality: x[:rows] for modality, x in train.features.items()}
            few = replace(train, targets=train.targets[:rows], features=features)
            self.inputs[rows] = Inputs(few, valid, DEVICE)
        return self.inputs[rows]


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
    run = Run(SMALL if arguments.small else Sizes(), arguments.out, _now() + arguments.seconds)
    with grouped_programs():
        for name in arguments.sections:
            _run_section(name, run)
    width = max(len(name) for name, _ in run.table)
    print("\n" + "\n".join(f"{name:<{width}}  {value}" for name, value in run.table))
    print(json.dumps(run.results), flush=True)


def _run_section(name: str, run: Run) -> None:
    section, most = SECTIONS[name]
    left = run.until - _now()
    print(f"== {name}: at most {min(most, left):.0f} s of {left:.0f} s", flush=True)
    if left < 5:
        run.say(f"{name}: skipped", "no time left")
        return
    begun = _now()
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    try:
        run.results[name] = section(run, begun + min(most, left))
    except Exception as error:  # the other sections must still run
        traceback.print_exc()
        run.results[name] = {"failed": f"{type(error).__name__}: {error}"[:500]}
        run.say(f"{name}: FAILED", f"{type(error).__name__}: {error}"[:160])
    if isinstance(run.results[name], dict):
        run.results[name]["seconds"] = round(_now() - begun, 2)
        if CUDA:
            run.results[name]["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
    if CUDA:
        torch.cuda.empty_cache()
    if run.out is not None:
        run.out.write_text(json.dumps(run.results, indent=1))
    sys.stdout.flush()


@contextmanager
def grouped_programs(*, on: bool = True) -> Iterator[None]:
    """Let a CPU's engine use the grouped programs too: what a GPU gets, under the interpreter."""
    kept = dict(groups.PROGRAMS)
    if not CUDA:
        groups.PROGRAMS["mlp"] = GroupedMLPProgram if on else MLPProgram
        groups.PROGRAMS["linear"] = GroupedLinearProgram if on else LinearProgram
    try:
        yield
    finally:
        groups.PROGRAMS.update(kept)


def about(run: Run, until: float) -> dict[str, Any]:
    """Name the card, and measure the speed of a copy.

    Returns:
        The measurements.
    """
    found = {
        "card": torch.cuda.get_device_name() if CUDA else "CPU, Triton's interpreter",
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": sys.version.split()[0],
        "triton_available": triton_available(),
    }
    numbers = torch.rand(run.sizes.copy_mib * 2**18, device=DEVICE)
    copy = torch.empty_like(numbers)
    seconds = timed(lambda: copy.copy_(numbers), 10)
    found["copy_gb_s"] = 2 * numbers.nbytes / seconds / 1e9
    run.say("card", str(found["card"]))
    run.say("torch, triton, available", f"{torch.__version__} {triton.__version__} "
            f"{found['triton_available']}")  # fmt: skip
    run.say("copy GB/s", f"{found['copy_gb_s']:.0f}")
    return found


CHECKED = (
    "head=mlp head.hidden_dims=[512,512] head.dropout=0.3",
    "head=mlp head.width=64 head.depth=1 training.loss=focal head.activation=gelu",
    "head=mlp head.width=128 head.depth=3 head.norm=layer head.dropout=0.5 training.batch_size=256",
    "head=mlp head.hidden_dims=[256,64] head.activation=silu training.clip_norm=0.1",
    "head=mlp head.hidden_dims=[100,36] head.activation=tanh training.optimizer=sgd",
    "head=mlp head.width=64 training.loss=asymmetric features=both",
    "head=mlp head.width=64 head.norm=layer training.loss=weighted_bce training.clip_norm=1.0",
    "training.learning_rate=0.003",
    "training.batch_size=256 features.normalization=l2 training.optimizer=sgd",
    "training.batch_size=1024 training.loss=weighted_bce training.clip_norm=0.05",
)


def checked_configs(width: int, **more: object) -> list[Config]:
    """Return heads of many kinds."""
    from headsweep.config.overrides import compose_config

    common = ["training.max_epochs=2", "training.early_stopping_patience=null"]
    common += ["training.batch_size=64", "training.learning_rate=0.001"]
    configs = [compose_config([*common, *text.split()], where="gpu") for text in CHECKED]
    if width < 100:
        smaller = {"head.hidden_dims": (24, 16)}
        configs = [
            with_values(c, smaller, where="gpu") if c.head.kind == "mlp" else c for c in configs
        ]
    return [with_values(c, more, where="gpu") for c in configs] if more else configs


def correctness(run: Run, until: float) -> dict[str, Any]:
    """Compare the grouped programs with the CPU's, with repeats, alone, and among others.

    Returns:
        The measurements.
    """
    s = run.sizes
    splits = (
        make_split("train", s.checked_rows, s.width, s.labels, seed=3),
        make_split("valid", 1000 if CUDA else 60, s.width, s.labels, seed=4),
    )
    settings = EngineSettings(device=str(DEVICE), slots=64)
    configs = checked_configs(s.width)
    found: dict[str, Any] = {}
    begun = _now()
    fused = train_to_end(configs, *splits, settings)
    found["first_run_s"] = _now() - begun
    run.say("first training, compilation included, s", f"{found['first_run_s']:.1f}")
    again = train_to_end(configs, *splits, settings)
    found["repeats_equal"] = [_equal(a, b) for a, b in zip(fused, again, strict=True)]
    backwards = train_to_end(configs[::-1], *splits, settings)[::-1]
    found["order_equal"] = [_equal(a, b) for a, b in zip(fused, backwards, strict=True)]
    alone = [train_to_end([c], *splits, settings)[0] for c in configs]
    found["alone_equal"] = [_equal(a, b) for a, b in zip(fused, alone, strict=True)]
    for name in ("repeats_equal", "order_equal", "alone_equal"):
        run.say(f"{name} to the bit", f"{sum(found[name])} of {len(configs)}")
    with grouped_programs(on=False):
        cpu = train_to_end(configs, *splits, EngineSettings(device="cpu", slots=64))
    found["cpu_auprc"] = [abs(a.best_value - b.best_value) for a, b in zip(fused, cpu, strict=True)]
    found["cpu_weights"] = [_distance(a, b) for a, b in zip(fused, cpu, strict=True)]
    for text, auprc, weights in zip(CHECKED, found["cpu_auprc"], found["cpu_weights"], strict=True):
        print(f"  {auprc:.1e} {weights:.1e}  {text}")
    run.say("AUPRC against CPU, most", f"{max(found['cpu_auprc']):.1e}")
    run.say(
        "weights against CPU (last epoch's, relative), most", f"{max(found['cpu_weights']):.1e}"
    )
    for precision in ("tf32", "bf16"):
        if _now() > until:
            run.say(f"AUPRC of {precision}", "skipped: no time left")
            continue
        rounded = [with_values(c, {"training.precision": precision}, where="gpu") for c in configs]
        trained = train_to_end(rounded, *splits, settings)
        found[f"{precision}_auprc"] = [
            abs(a.best_value - b.best_value) for a, b in zip(trained, fused, strict=True)
        ]
        run.say(
            f"AUPRC of {precision} against float32, most", f"{max(found[precision + '_auprc']):.1e}"
        )
    return found


def _equal(a: Trained, b: Trained) -> bool:
    theirs = b.predictor.state_dict()
    same = all(t.equal(theirs[name]) for name, t in a.predictor.state_dict().items())
    ours = [replace(report, slot=0) for report in a.history]
    return same and ours == [replace(report, slot=0) for report in b.history]


def _distance(a: Trained, b: Trained) -> float:
    """Return how far weights are apart, as a share of their norm."""
    ours, theirs = (
        torch.cat([p.detach().double().flatten() for p in t.predictor.head.parameters()])
        for t in (a, b)
    )
    return float((ours - theirs).norm() / theirs.norm())


def mlp(widths: Sequence[int], batch: int, **more: object) -> Config:
    """Return an MLP for timing."""
    base = Config.model_validate({"head": {"kind": "mlp"}})
    values = {"head.hidden_dims": tuple(widths), "training.batch_size": batch}
    return with_values(base, {**values, "head.dropout": 0.3, **more}, where="gpu")


def drawn_configs(run: Run, study: str, count: int) -> list[Config]:
    """Return configs as a study draws them, for one epoch."""
    narrow = ["head.width=16"] if run.sizes.smallest and study.startswith("mlp") else []
    return draw_configs(study, count, 1, narrow, seed=0)


def workloads(run: Run) -> dict[str, tuple[str, list[Config]]]:
    """Return what steps are timed on, by name: the program, and the configs."""
    s, found = run.sizes, {}
    for count in s.slots:
        heads = [mlp([s.hidden, s.hidden], 64)] * count
        found[f"{count} x [{s.hidden},{s.hidden}] b64"] = ("grouped_mlp", heads)
    found[f"{s.slots[0]} x [64] b64"] = ("grouped_mlp", [mlp([64], 64)] * s.slots[0])
    drawn = drawn_configs(run, "mlp_visual", s.mixed)
    for batch in (64, 256):
        same = [with_values(c, {"training.batch_size": batch}, where="gpu") for c in drawn]
        found[f"{s.mixed} as the MLP study draws, b{batch}"] = ("grouped_mlp", same)
    found[f"{s.mixed} as the MLP study draws, both batch sizes"] = ("grouped_mlp", drawn)
    linear = Config.model_validate({})
    for count in s.linear_slots:
        for batch in (64, 256):
            heads = [with_values(linear, {"training.batch_size": batch}, where="gpu")] * count
            found[f"{count} linear b{batch}"] = ("grouped_linear", heads)
    return found


@torch.no_grad()
def build(run: Run, name: str, configs: Sequence[Config], tiles: Tiles | None = None,
          precision: str = "float32") -> tuple[GroupedProgram, list[Slot]]:  # fmt: skip
    """Return a program with one slot for each config, on as many rows as the timed steps read."""
    largest = max(c.training.batch_size for c in configs)
    inputs = run.first_rows(min(run.sizes.steps * largest, run.sizes.rows))
    kind = GROUPED_PROGRAMS[name]
    if tiles is not None:
        shapes = {"tiles": tiles, "tall_tiles": tiles}
        kind = type(kind.__name__, (kind,), shapes)
    program = kind(GroupKey(name, 0, precision), inputs)  # type: ignore[arg-type]
    assert isinstance(program, GroupedProgram)
    slots = [groups.new_slot(i, c, name, inputs.n_train) for i, c in enumerate(configs)]
    for slot in slots:
        program.admit(slot)
    return program, slots


@torch.no_grad()
def epoch_seconds(program: GroupedProgram, slots: Sequence[Slot], rounds: int = 2) -> float:
    """Return the seconds of an epoch's steps, the best of some, after one that compiles."""
    order = permutation(0, 0, program.inputs.n_train)
    taken = []
    for _ in range(rounds + 1):
        wait()
        begun = _now()
        program.train_epoch(order, 0)
        wait()
        taken.append(_now() - begun)
        for slot in slots:
            slot.epoch += 1
    return min(taken[1:])


def steps(run: Run, until: float) -> dict[str, Any]:
    """Time steps: microseconds a slot-step, and the update kernel's share of the bandwidth.

    Returns:
        The measurements.
    """
    found: dict[str, Any] = {}
    copy = run.results.get("about", {}).get("copy_gb_s") or float("nan")
    for precision in ("float32", "tf32", "bf16"):
        for name, (kind, configs) in workloads(run).items():
            if _now() > until or (precision != "float32" and "MLP study draws, b" not in name):
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


def launches(lane: TrainLane) -> int:
    """Return the launches of one step."""
    before = lane.launch.launches
    lane.clock[:1].zero_()
    lane.launch_step()
    return lane.launch.launches - before


def part_seconds(lane: TrainLane) -> dict[str, float]:
    """Return the seconds of the parts of a step, each recorded and replayed by itself."""
    lane.clock[:1].zero_()
    parts = {"forward": lane._forward, "backward": lane._backward, "update": lane._update}

    def update() -> None:
        lane._update()
        lane.clock[:1].zero_()

    parts["update"] = update
    return {name: timed(recorded(part), 20 if CUDA else 1) for name, part in parts.items()}


@torch.no_grad()
def validate_seconds(program: GroupedProgram) -> float:
    """Return the seconds of scoring all slots once."""
    program.validate()
    program.validate()
    wait()
    begun = _now()
    program.validate()
    wait()
    return _now() - begun


def studies(run: Run, until: float) -> dict[str, Any]:
    """Run shipped studies: the worker's loop, its session, SQLite and the study's own sampler.

    Returns:
        The measurements.
    """
    found: dict[str, Any] = {}
    for name, trials, aim, most in run.sizes.studies:
        left = min(most, until - _now())
        if left < 5:
            run.say(f"{name}, {trials} trials", "skipped: no time left")
            continue
        result = study(run, name, trials, left)
        found[f"{name} {trials}"] = result | {"aim_s": aim}
        ended = result["ended"]
        run.say(
            f"{name}, {trials} trials: {result['wall_s']:.1f} s, aim {aim:.0f} s",
            f"{ended} ended, {result['trials_a_minute']:.0f} a minute, "
            f"{result['slots_a_step']:.1f} slots a step, "
            f"{result['us_a_slot_step']:.1f} us a slot-step, best {result['best']:.4f}, training "
            f"{result['training_s']:.1f} s, metrics {result['metrics_s']:.1f} s",
        )
        for line in result["where"]:
            print("   ", line)
    return found


def study(run: Run, name: str, trials: int, seconds: float) -> dict[str, Any]:
    """Run one shipped study with its budget changed, for some seconds at most.

    Returns:
        The measurements.
    """
    from headsweep.search.study_file import load_study_file
    from headsweep.studies.study import StoredStudy
    from headsweep.studies.worker_session import WorkerSession
    from headsweep.workers.loop import Loop

    train, valid = run.data()
    overrides = [f"study.n_trials={trials}", *run.sizes.fixed]
    with tempfile.TemporaryDirectory() as folder:
        file = ROOT / "search_spaces" / f"{name}.yaml"
        if run.sizes.smallest:
            text = file.read_text().replace("[64, 128, 256, 512, 1024]", "[16]")
            file = Path(folder) / "small.yaml"
            file.write_text(text.replace("high: 3}", "high: 2}"))
        spec = load_study_file(file, overrides)
        url = f"sqlite:///{folder}/study.db"
        with (
            StoredStudy.create(spec, url) as stored,
            WorkerSession(stored, WorkerSettings(), worker="gpu") as session,
        ):
            settings = EngineSettings(device=str(DEVICE), slots=run.sizes.study_slots)
            begun = _now()
            engine = Engine(train, valid, settings)
            with Sampled() as sampled:
                Loop(session, engine, WorkerSettings(), _until(begun + seconds)).run()
            wait()
            wall = _now() - begun
        import optuna

        frozen = optuna.load_study(study_name=spec.name, storage=url).trials
    states = Counter(trial.state.name for trial in frozen)
    ended = states["COMPLETE"] + states["PRUNED"]
    values = [v for t in frozen if t.state.name in ("COMPLETE", "PRUNED")
              for v in t.intermediate_values.values()]  # fmt: skip
    usage = engine.usage
    return {
        "wall_s": wall, "ended": ended, "states": dict(states),
        "trials_a_minute": ended / wall * 60, "best": max(values, default=float("nan")),
        "slots_a_step": usage.slot_steps / max(1, usage.fused_steps),
        "us_a_slot_step": wall / max(1, usage.slot_steps) * 1e6, "slot_steps": usage.slot_steps,
        "training_s": usage.training_s, "metrics_s": usage.metrics_s, "where": sampled.lines(),
    }  # fmt: skip


def _until(end: float) -> Any:
    """Return what tells a worker to stop at a time."""
    from headsweep.workers.signals import Stop

    class Until(Stop):
        @property
        def asked(self) -> bool:
            return _now() > end

    return Until()


class Sampled:
    """Where the main thread's time goes: its stack, read some hundred times a second."""

    def __init__(self, every_s: float = 0.004) -> None:
        self.every_s = every_s
        self.counts: Counter[str] = Counter()
        self._over = threading.Event()
        self._main = threading.get_ident()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Sampled:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def lines(self, most: int = 22) -> list[str]:
        """Return shares of time by innermost functions of headsweep."""
        total = max(1, sum(self.counts.values()))
        return [f"{count / total:5.1%} {name}" for name, count in self.counts.most_common(most)]

    def _sample(self) -> None:
        while not self._over.wait(self.every_s):
            frame = sys._current_frames().get(self._main)
            names: list[str] = []
            while frame is not None and len(names) < 3:
                code = frame.f_code
                if "headsweep" in code.co_filename:
                    names.append(f"{Path(code.co_filename).stem}.{code.co_name}:{frame.f_lineno}")
                frame = frame.f_back
            if names:
                self.counts[" < ".join(names)] += 1


@torch.no_grad()
def by_engine(configs: Sequence[Config], engine: Engine) -> None:
    """Train all configs for one epoch with headsweep, as a search drives it."""
    waiting = list(configs)
    while waiting:
        for config in [waiting.pop() for _ in range(min(len(waiting), engine.free))]:
            engine.replay(config)
        for report in engine.run_epoch():
            engine.evict(report.slot)


def in_chunks(train: Callable[[Sequence[Config], Inputs], object], key: Callable[[Config], object],
              configs: Sequence[Config], inputs: Inputs) -> None:  # fmt: skip
    """Train heads together that agree on what a way cannot mix."""
    alike: dict[object, list[Config]] = {}
    for config in configs:
        alike.setdefault(key(config), []).append(config)
    for members in alike.values():
        train(members, inputs)


def ways(run: Run, until: float) -> dict[str, Any]:
    """Train with headsweep, and in the ways it is compared with, for one epoch.

    Returns:
        Microseconds a slot-step by head and way.
    """
    return {head: ways_of(run, until, head, ours, theirs) for head, ours, theirs in run.sizes.ways}


def ways_of(run: Run, until: float, head: str, ours: int, theirs: int) -> dict[str, float]:
    """Return microseconds a slot-step by way; inputs are made before."""
    train, valid = run.data()
    configs = drawn_configs(run, f"{head}_visual", ours)
    engine = Engine(train, valid, EngineSettings(device=str(DEVICE), slots=ours))
    inputs = engine.inputs
    for config in configs:
        for split in (False, True):
            inputs.matrix(Variant.of(config), valid=split)
    by_engine(configs[:4], engine)

    def alike(config: Config) -> tuple[object, ...]:
        return config.training.batch_size, config.features, config.training.optimizer

    def same_shape(config: Config) -> object:
        return alike(config), str(config.head).split(" dropout")[0]

    def one_at_a_time(some: Sequence[Config]) -> None:
        for config in some:
            train_one(config, inputs)

    calls: dict[str, Callable[[Sequence[Config]], None]] = {
        "headsweep": lambda some: by_engine(some, engine),
        "one at a time": one_at_a_time,
        "summed losses (dinov2)": lambda some: in_chunks(_train_summed, alike, some, inputs),
        "static stack (HFTA)": lambda some: in_chunks(_train_stack, same_shape, some, inputs),
    }
    timings: dict[str, float] = {}
    for way, call in calls.items():
        if _now() > until:
            run.say(f"{head}: {way}", "skipped: no time left")
            continue
        some = configs if way == "headsweep" else configs[:theirs]
        wait()
        begun = _now()
        call(some)
        wait()
        slot_steps = sum(len(train.targets) / c.training.batch_size for c in some)
        timings[way] = (_now() - begun) / slot_steps * 1e6
        ratio = timings[way] / timings["headsweep"]
        run.say(
            f"{head}: {way}, {len(some)} configs x 1 epoch, validation included",
            f"{timings[way]:.1f} us a slot-step, {ratio:.1f} times headsweep's",
        )
    return timings


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


SHAPES: dict[str, tuple[dict[str, Any], ...]] = {
    "update": (
        {}, {"update_stages": 2}, {"weight_rows": 32, "weight_columns": 64, "update_warps": 4},
        {"weight_rows": 32, "weight_columns": 128, "update_warps": 8},
        {"weight_rows": 16, "weight_columns": 128, "update_warps": 4},
        {"weight_rows": 16, "weight_columns": 256, "update_warps": 8},
        {"weight_rows": 64, "weight_columns": 128, "update_warps": 8},
        {"weight_rows": 64, "weight_columns": 64, "update_warps": 8},
        {"weight_rows": 32, "weight_columns": 256, "update_warps": 8},
        {"weight_rows": 64, "weight_columns": 128, "update_warps": 16, "update_registers": None},
    ),
    "product": (
        {}, {"stages": 3}, {"depth": 32}, {"outputs": 64, "depth": 32},
        {"outputs": 64, "stages": 3}, {"depth": 64},
        {"rows": 32, "outputs": 64}, {"outputs": 64, "depth": 32, "registers": 128},
        {"depth": 32, "registers": 128}, {"rows": 32, "outputs": 64, "depth": 32},
        {"rows": 32, "outputs": 32, "stages": 3}, {"outputs": 128, "depth": 32, "warps": 8},
        {"rows": 128, "outputs": 64, "depth": 32, "warps": 8, "stages": 3},
    ),
    "norm": (
        {}, {"norm_rows": 2}, {"norm_rows": 8}, {"norm_columns": 512},
        {"norm_rows": 1, "norm_columns": 1024}, {"norm_rows": 8, "norm_columns": 128},
        {"norm_rows": 2, "norm_columns": 512},
    ),
}  # fmt: skip
"""What `tiles` tries for each part of a step; the first of each is what a program has."""


def shapes_of(kind: str) -> dict[str, tuple[dict[str, Any], ...]]:
    """Return what is tried for a program; of a linear head only some updates."""
    return {"update": SHAPES["update"][:8]} if kind == "grouped_linear" else SHAPES


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
        print(f"  compiled; {until - _now():.0f} s left", flush=True)
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
        if _now() > until:
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


@torch.no_grad()
def prepared_lane(program: GroupedProgram) -> TrainLane:
    """Return the only lane of a program, its tables written and one step taken."""
    program._upload(permutation(0, 0, program.inputs.n_train))
    members = list(program.members.values())
    for member in members:
        program.x.add(member.variant)
    lane = program._lane(members[0].batch_size)
    lane.enter(members)
    lane.begin_epoch(1, 0, program.inputs.n_train)
    lane.launch_step()
    wait()
    return lane


def _compile_everything() -> None:
    """Compile all shapes in processes of their own, into Triton's cache on the disk."""
    import subprocess

    count = min(12, os.cpu_count() or 1)
    workers = [
        subprocess.Popen([sys.executable, __file__, "--compile", str(i), str(count)])
        for i in range(count)
    ]
    end = _now() + 60
    for worker in workers:
        try:
            worker.wait(timeout=max(0.1, end - _now()))
        except subprocess.TimeoutExpired:
            worker.kill()


def compile_share(share: int, of: int) -> None:
    """Compile every `of`-th shape of the kernels that `tiles` times."""
    from headsweep.engine.programs.grouped import elementwise_kernels as elementwise
    from headsweep.engine.programs.grouped import product_kernels as products

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
                    add(elementwise.activation_kernel, {"TRAIN": True, **shape})
                    add(elementwise.activation_error_kernel, shape)
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


def without_triton(run: Run, until: float) -> dict[str, Any]:
    """Train MLPs in the program that is used where Triton is missing.

    Returns:
        The measurements.
    """
    s = run.sizes
    splits = (
        make_split("train", s.checked_rows, s.width, s.labels, seed=3),
        make_split("valid", 1000 if CUDA else 60, s.width, s.labels, seed=4),
    )
    settings = EngineSettings(device=str(DEVICE), slots=64)
    configs = [c for c in checked_configs(s.width) if c.head.kind == "mlp"]
    expected = train_to_end(configs, *splits, settings)
    available = groups.triton_available
    groups.triton_available = lambda: False  # type: ignore[assignment]
    if not CUDA:
        groups.PROGRAMS["mlp"] = groups.PROGRAMS["stacked_mlp"]
    try:
        found = train_to_end(configs, *splits, settings)
        again = train_to_end(configs, *splits, settings)
    finally:
        groups.triton_available = available
    equal = [_equal(a, b) for a, b in zip(found, again, strict=True)]
    away = [abs(a.best_value - b.best_value) for a, b in zip(found, expected, strict=True)]
    run.say("without Triton: repeats equal to the bit", f"{sum(equal)} of {len(equal)}")
    run.say("without Triton: AUPRC against grouped, most", f"{max(away):.1e}")
    return {"equal": equal, "auprc": away}


def recorded(part: Callable[[], None]) -> Callable[[], None]:
    """Return the replay of a part of a step."""
    part()
    if not CUDA:
        return part
    wait()
    stream = torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        part()
        wait()
        graph.capture_begin()
        part()
        graph.capture_end()
    wait()
    return graph.replay


def timed(call: Callable[[], object], rounds: int) -> float:
    """Return the median seconds of a call, by the device's clock."""
    taken = []
    if not CUDA:
        begun = _now()
        call()
        return _now() - begun
    for _ in range(3):
        call()
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        taken.append(start.elapsed_time(end) / 1e3)
    return statistics.median(taken)


def wait() -> None:
    """Wait for the device."""
    if CUDA:
        torch.cuda.synchronize()


def _now() -> float:
    return time.perf_counter()


SECTIONS: dict[str, tuple[Callable[[Run, float], dict[str, Any]], float]] = {
    "about": (about, 30),
    "correctness": (correctness, 90),
    "tiles": (tiles, 100),
    "studies": (studies, 220),
    "steps": (steps, 60),
    "ways": (ways, 60),
    "without_triton": (without_triton, 20),
    "profile": (profile, 30),
}
"""What runs, and the seconds that it may take."""


if __name__ == "__main__":
    main()
