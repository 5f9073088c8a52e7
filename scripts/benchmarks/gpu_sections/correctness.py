"""Grouped programs against the CPU, and the program that is used without Triton."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gpu_sections.device import CUDA, DEVICE, now
from gpu_sections.programs import grouped_programs
from gpu_sections.run import Run
from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.data.dataset import Split
from headsweep.engine import groups
from headsweep.engine.train_configs import Trained, train_to_end
from headsweep.settings import EngineSettings

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


def checked_configs(width: int, texts: Sequence[str] = CHECKED) -> list[Config]:
    """Return heads of many kinds, for two epochs."""
    from headsweep.config.overrides import compose_config

    common = ["training.max_epochs=2", "training.early_stopping_patience=null"]
    common += ["training.batch_size=64", "training.learning_rate=0.001"]
    configs = [compose_config([*common, *text.split()], where="gpu") for text in texts]
    if width < 100:
        smaller = {"head.hidden_dims": (24, 16)}
        configs = [
            with_values(c, smaller, where="gpu") if c.head.kind == "mlp" else c for c in configs
        ]
    return configs


def correctness(run: Run, until: float) -> dict[str, Any]:
    """Compare the grouped programs with the CPU's, with repeats, alone, among others, and rounded.

    Returns:
        The measurements.
    """
    splits = run.checked_data()
    configs = checked_configs(run.sizes.width)
    found, fused, cpu = compared(
        run, "heads", configs, lambda some, settings: train_to_end(some, *splits, settings)
    )
    found |= sensitivity(run, configs, splits, cpu)
    settings = EngineSettings(device=str(DEVICE), slots=64)
    for precision in ("tf32", "bf16"):
        if now() > until:
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


def compared(
    run: Run, name: str, configs: Sequence[Config],
    train: Callable[[Sequence[Config], EngineSettings], list[Trained]],
) -> tuple[dict[str, Any], list[Trained], list[Trained]]:  # fmt: skip
    """Compare heads with their repeats, in another order, alone, and with the CPU's.

    Returns:
        The measurements, the heads, and the CPU's.
    """
    settings = EngineSettings(device=str(DEVICE), slots=64)
    begun = now()
    fused = train(configs, settings)
    found: dict[str, Any] = {"first_run_s": now() - begun}
    run.say(f"{name}: first training, compilation included, s", f"{found['first_run_s']:.1f}")
    others = {
        "repeats": train(configs, settings),
        "another order": train(configs[::-1], settings)[::-1],
        "alone": [train([config], settings)[0] for config in configs],
    }
    for way, trained in others.items():
        found[way] = [equal_to_the_bit(a, b) for a, b in zip(fused, trained, strict=True)]
        run.say(f"{name}: {way} equal to the bit", f"{sum(found[way])} of {len(configs)}")
    with grouped_programs(on=False):
        cpu = train(configs, EngineSettings(device="cpu", slots=64))
    found["auprc"] = [abs(a.best_value - b.best_value) for a, b in zip(fused, cpu, strict=True)]
    found["weights"] = [weights_apart(a, b) for a, b in zip(fused, cpu, strict=True)]
    for config, auprc, weights in zip(configs, found["auprc"], found["weights"], strict=True):
        print(f"  {auprc:.1e} {weights:.1e}  {config.head} {config.training.optimizer}")
    run.say(f"{name}: AUPRC against CPU, most", f"{max(found['auprc']):.1e}")
    run.say(f"{name}: last weights against CPU, relative, most", f"{max(found['weights']):.1e}")
    return found, fused, cpu


def sensitivity(
    run: Run, configs: Sequence[Config], splits: tuple[Split, Split], cpu: Sequence[Trained]
) -> dict[str, Any]:
    """Compare the CPU's heads with those of features that are changed by a millionth.

    One unit of a ReLU that is on instead of off moves all later steps, so that heads which agree
    to rounding at first can end further apart than that.

    Returns:
        The measurements.
    """
    train, valid = splits
    rng = np.random.default_rng(5)
    near = {
        name: (x * (1 + 1e-6 * rng.standard_normal(x.shape))).astype(np.float32)
        for name, x in train.features.items()
    }
    settings = EngineSettings(device="cpu", slots=64)
    with grouped_programs(on=False):
        changed = train_to_end(configs, replace(train, features=near), valid, settings)
    auprc = [abs(a.best_value - b.best_value) for a, b in zip(changed, cpu, strict=True)]
    weights = [weights_apart(a, b) for a, b in zip(changed, cpu, strict=True)]
    run.say("CPU, features changed by 1e-6: AUPRC, most", f"{max(auprc):.1e}")
    run.say("CPU, features changed by 1e-6: last weights, most", f"{max(weights):.1e}")
    return {"changed_auprc": auprc, "changed_weights": weights}


def without_triton(run: Run, until: float) -> dict[str, Any]:
    """Train MLPs in the program that is used where Triton is missing.

    Returns:
        The measurements.
    """
    splits = run.checked_data()
    settings = EngineSettings(device=str(DEVICE), slots=64)
    configs = [c for c in checked_configs(run.sizes.width) if c.head.kind == "mlp"]
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
    equal = [equal_to_the_bit(a, b) for a, b in zip(found, again, strict=True)]
    away = [abs(a.best_value - b.best_value) for a, b in zip(found, expected, strict=True)]
    run.say("without Triton: repeats equal to the bit", f"{sum(equal)} of {len(equal)}")
    run.say("without Triton: AUPRC against grouped, most", f"{max(away):.1e}")
    return {"equal": equal, "auprc": away}


def equal_to_the_bit(a: Trained, b: Trained) -> bool:
    """Return whether two trainings have equal weights and equal reports."""
    theirs = b.predictor.state_dict()
    same = all(t.equal(theirs[name]) for name, t in a.predictor.state_dict().items())
    ours = [replace(report, slot=0) for report in a.history]
    return same and ours == [replace(report, slot=0) for report in b.history]


def weights_apart(a: Trained, b: Trained) -> float:
    """Return how far weights are apart, as a share of their norm."""
    ours, theirs = (
        torch.cat([p.detach().double().flatten() for p in t.predictor.head.parameters()])
        for t in (a, b)
    )
    return float((ours - theirs).norm() / theirs.norm())
