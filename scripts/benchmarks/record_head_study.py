"""Train random configs of a recorded study to the end and store their validation AUPRC.

    python scripts/benchmarks/record_head_study.py [--study head_study|linear_study] [--fit-only]
        paths.data_root=FEATURES paths.manifest_dir=MANIFESTS

Writes `tests/search/recorded/STUDY.parquet`: a row a trial, its params (null where a key is not
active), its best value and, for `linear_study`, the value of every epoch. Training is by the
engine, one thread, every trial from tape position 0. Then it fits the surrogate that samplers
search in place of the table, and writes it to `surrogates.json` beside it: the length scales of a
Gaussian process, and the bandwidth of the means of nearby trials.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.spatial.distance import cdist
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.metrics import r2_score

from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.data.dataset import Dataset
from headsweep.engine.engine import Engine
from headsweep.search.space import suggest
from headsweep.search.study_file import load_study_file
from headsweep.settings import EngineSettings

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.helpers.objectives import (
    RECORDED,
    SURROGATES,
    nearby_means,
    recorded_spec,
    recorded_trials,
    table_path,
)

STUDIES = ("head_study", "linear_study")
WITH_CURVES = ("linear_study",)
N_FITTED = 600
"""Random trials from which the length scales are fitted."""
BANDWIDTHS = (0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1)


def train(configs: list[Config], engine: Engine) -> list[list[float] | None]:
    """Return the values of every config's epochs; None where training failed."""
    # Configs that share a program are adjacent, so that groups are full.
    waiting = sorted(enumerate(configs), key=lambda item: _group(item[1]), reverse=True)
    index_of: dict[int, int] = {}
    curves: list[list[float] | None] = [None] * len(configs)
    begun, n_done = time.monotonic(), 0
    while waiting or index_of:
        while waiting and engine.free:
            index, config = waiting.pop()
            index_of[engine.replay(config).slot] = index
        for report in engine.run_epoch():
            if report.failure is None and not report.finished:
                continue
            index = index_of.pop(report.slot)
            history = engine.history(report.slot)
            curves[index] = None if report.failure else [r.auprc_macro for r in history]
            engine.evict(report.slot)
            n_done += 1
            if n_done % 100 == 0:
                print(f"{n_done} of {len(configs)}, {time.monotonic() - begun:.0f} s", flush=True)
    return curves


def _group(config: Config) -> tuple[str, int]:
    return config.features.normalization, config.training.batch_size


def record(study: str, overrides: list[str]) -> dict[str, float]:
    """Train the study's trials and write the table.

    Returns:
        How many trials it has, how many failed, and the best value.
    """
    spec = load_study_file(RECORDED / f"{study}.yaml", overrides)
    sampler = optuna.samplers.RandomSampler(seed=spec.seed)
    asked = optuna.create_study(sampler=sampler)
    params = [suggest(asked.ask(), spec.space, spec.config) for _ in range(spec.n_trials)]
    configs = [with_values(spec.config, p, where=f"trial {i}") for i, p in enumerate(params)]
    splits = Dataset.from_config(spec.config).search_splits(inputs=("visual", "text"))
    trained = train(configs, Engine(*splits, EngineSettings(device="cpu", slots=32)))
    kept = [i for i, curve in enumerate(trained) if curve is not None]
    curves = [np.array(trained[i], np.float32) for i in kept]
    columns: dict[str, object] = {key: [params[i].get(key) for i in kept] for key in spec.space}
    columns["value"] = pa.array([curve.max() for curve in curves], pa.float32())
    if study in WITH_CURVES:
        # Sixteen bits keep three decimals, as finely as seeds agree.
        columns["curve"] = pa.array([curve.astype(np.float16) for curve in curves])
    pq.write_table(pa.table(columns), table_path(study), compression="zstd")
    best = max(float(curve.max()) for curve in curves)
    return {"trials": len(kept), "failed": len(trained) - len(kept), "best": best}


def fit(study: str) -> dict[str, float]:
    """Fit the surrogate.

    The process itself would promise more than was recorded, where good values are few.

    Returns:
        The bandwidth, and how much it explains of each trial, given all others.
    """
    points, values = recorded_trials(study)
    fitted = np.random.default_rng(0).permutation(len(points))[:N_FITTED]
    signal = ConstantKernel(1.0) * Matern(np.ones(points.shape[1]), (0.05, 100.0), nu=2.5)
    process = GaussianProcessRegressor(signal + WhiteKernel(0.1), normalize_y=True, random_state=0)
    process.fit(points[fitted], values[fitted])
    scales = process.kernel_.k1.k2.length_scale.round(4)
    distances = cdist(points / scales, points / scales)
    np.fill_diagonal(distances, np.inf)
    explained = {
        bandwidth: r2_score(values, nearby_means(distances, values, bandwidth))
        for bandwidth in BANDWIDTHS
    }
    bandwidth = max(explained, key=explained.__getitem__)
    surrogates = json.loads(SURROGATES.read_text()) if SURROGATES.exists() else {}
    surrogates[study] = {"length_scales": scales.tolist(), "bandwidth": bandwidth}
    SURROGATES.write_text(json.dumps(surrogates) + "\n")
    return {"bandwidth": bandwidth, "r2_left_out": explained[bandwidth]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", choices=STUDIES, default="head_study")
    parser.add_argument("--fit-only", action="store_true")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    recorded_spec(args.study)  # refuse a bad study file before training
    summary = {} if args.fit_only else record(args.study, args.overrides)
    print(json.dumps(summary | fit(args.study)))


if __name__ == "__main__":
    main()
