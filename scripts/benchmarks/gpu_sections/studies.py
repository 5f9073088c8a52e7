"""Whole studies: the worker's loop, its session, SQLite and the study's own sampler."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from workload import ROOT

from gpu_sections.device import DEVICE, now, wait
from gpu_sections.run import Run
from headsweep.engine.engine import Engine
from headsweep.settings import EngineSettings, WorkerSettings


def studies(run: Run, until: float) -> dict[str, Any]:
    """Run shipped studies: the worker's loop, its session, SQLite and the study's own sampler.

    Returns:
        The measurements.
    """
    found: dict[str, Any] = {}
    for name, trials, aim, most in run.sizes.studies:
        left = min(most, until - now())
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
            begun = now()
            engine = Engine(train, valid, settings)
            with Sampled() as sampled:
                Loop(session, engine, WorkerSettings(), _until(begun + seconds)).run()
            wait()
            wall = now() - begun
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
            return now() > end

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
