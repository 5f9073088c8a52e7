"""Everything that headsweep writes, small, in two versions; processes that die while they do."""

import errno
import os
import re
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from headsweep.atomic_files import write_json
from headsweep.config.data_sections import ColumnsConfig
from headsweep.config.files import write_config
from headsweep.config.overrides import compose_config
from headsweep.config.schema import Config
from headsweep.data.ct_rate.prepare import Prepared, write_prepared, write_scan_means
from headsweep.data.manifest import read_manifest
from headsweep.data.packing import pack
from headsweep.data.subsets import write_budget_subsets
from headsweep.data.synthetic.generate import synthesize
from headsweep.engine.checkpoints import Snapshot, save_snapshot
from headsweep.engine.slots import EpochReport
from headsweep.evaluation.predictions import write_scores
from headsweep.heads.base import HeadShape
from headsweep.heads.normalization import Normalizer
from headsweep.heads.predictor import Predictor, PredictorSpec, save_predictor
from headsweep.heads.registry import build_head
from headsweep.leaderboard.staging import staging
from headsweep.leaderboard.table import write_tables
from headsweep.settings import EngineSettings
from headsweep.single_run import train
from tests.helpers.data_sets import write_feature, write_split

KILLED = 77
VOLUMES = ("train_1_a_1", "train_1_a_2", "train_2_a_1", "train_3_a_1")

Write = Callable[[Path, int], None]
"""Writes a version of something below a folder."""


def write_export(folder: Path, version: int) -> None:
    write_config(Config(), folder / "best.yaml", study="probe", trial=version, value=0.5)


def write_predictor(folder: Path, version: int) -> None:
    config, shape = Config().head, HeadShape({"visual": 6}, "visual", 2)
    spec = PredictorSpec(config, shape, "none", ("Emphysema", "Lung nodule"))
    head = build_head(config, shape, seed=version)
    normalizers = {"visual": Normalizer("none", 6)}
    save_predictor(Predictor(spec, normalizers, head), folder / "model.safetensors")


def write_state(folder: Path, version: int) -> None:
    report = EpochReport(0, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 1, finished=False, failure=None)
    tensors = {"weight": torch.full((40, 40), float(version))}
    save_snapshot(Snapshot(version, (report,), tensors), folder / "state.safetensors", {"run": "x"})


def write_predictions(folder: Path, version: int) -> None:
    labels = ("Emphysema", "Lung nodule")
    targets = {label: np.array([0, 1], np.uint8) for label in labels}
    logits = np.array([[-1.0, 0.0], [0.5, 2.0]], np.float32) * version
    scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
    path = folder / "predictions/test.parquet"
    write_scores(VOLUMES[:2], ("train_1", "train_1"), targets, labels, scores, logits, path)


def write_tables_and_metrics(folder: Path, version: int) -> None:
    write_tables([{"rank": version, "study": "probe"}], folder)
    write_json(folder / "metrics.json", {"auprc_macro": version})


def write_manifests(folder: Path, version: int) -> None:
    rows = tuple((volume, f"image/{volume}.npz", str(version)) for volume in VOLUMES)
    header = ("volumename", "visual_feature_path", "Emphysema")
    write_prepared(Prepared(header, rows, (), {}), folder / "train.csv")


def write_means(folder: Path, version: int) -> None:
    members = tuple(f"image/{volume}.npz" for volume in VOLUMES[:version])
    means = {"scan_mean/image/train_1_a.npz": members}
    write_scan_means(Prepared((), (), (), means), folder / "features")


def write_subsets(folder: Path, version: int) -> None:
    manifest = read_manifest(folder / "data/manifests/train.csv", ColumnsConfig(), None)
    write_budget_subsets(manifest, folder, [4], [0])


def write_pack(folder: Path, version: int) -> None:
    data = folder / "data"
    manifest = read_manifest(data / "manifests/train.csv", ColumnsConfig(), None)
    packed = pack(manifest, "visual", data / "features", folder / "cache", progress=False)
    assert (packed.matrix == version).all()


def write_board(folder: Path, version: int) -> None:
    with staging(folder) as staged:
        for rank in ("1", "2"):
            place = staged / "finalists" / rank
            place.mkdir(parents=True)
            write_json(place / "metrics.json", {"version": version})
        write_tables_and_metrics(staged, version)
        write_json(staged / "provenance.json", {"version": version})


def write_data_set(folder: Path, version: int) -> None:
    """Into an empty folder: one that holds something is refused."""
    out = folder / "synthetic"
    if version == 1:
        return
    shutil.rmtree(out, ignore_errors=True)
    sizes = {"patients_train": 1, "patients_valid": 1, "patients_test": 2}
    synthesize(out, **sizes, width=96, seed=0, progress=False)


def write_run(folder: Path, version: int) -> None:
    """A head trained for two epochs on some rows."""
    os.environ["HEADSWEEP_CACHE"] = "data/cache"
    torch.set_num_threads(1)
    overrides = [
        *("paths.data_root=data/features", "paths.manifest_dir=data/manifests"),
        "paths.checkpoint_dir=run",
        "data.test_manifests=[valid.csv]",
        f"training.learning_rate={version * 0.01}",
        *("head=linear", "training.max_epochs=2", "training.batch_size=4"),
    ]
    config = compose_config(overrides, where="test")
    with (
        chdir(folder),
        patch("headsweep.single_run.secrets.token_hex", lambda n: "0" * 2 * n),
    ):  # the run's name
        train(config, EngineSettings(device="cpu", slots=1), progress=False)


WRITERS: dict[str, Write] = {
    "export": write_export,
    "predictor": write_predictor,
    "state": write_state,
    "predictions": write_predictions,
    "tables": write_tables_and_metrics,
    "manifests": write_manifests,
    "means": write_means,
    "subsets": write_subsets,
    "pack": write_pack,
    "board": write_board,
    "data set": write_data_set,
    "run": write_run,
}


def bring(name: str, folder: Path, version: int) -> None:
    """The data from which that version is written."""
    data = folder / "data"
    if name == "means":
        for volume in VOLUMES[:2]:
            write_feature(folder, f"image/{volume}.npz", np.ones((1, 4), np.float32))
    elif name == "subsets":
        write_split(data, "train", {f"train_{version + i}_a_1": (i % 2, 1) for i in range(8)})
    elif name == "pack":
        write_split(data, "train", dict.fromkeys(VOLUMES[:2], (1, 0)))
        for volume in VOLUMES[:2]:
            write_feature(data, f"image/{volume}.npz", np.full(6, float(version), np.float32))
    elif name == "run" and version == 1:
        write_split(data, "train", {f"train_{i}_a_1": (i % 2, i // 6) for i in range(12)})
        write_split(data, "valid", {f"valid_{i}_a_1": (i % 2, i // 4) for i in range(8)})


def write_with_fault(name: str, folder: Path, at: int, error: int | None) -> None:
    """Write version 2, and fail at the `at`-th change of the file system.

    Without an `error` the process ends by `os._exit`, as if it were killed: no buffer is flushed,
    no `finally` runs. Otherwise the change raises an `OSError` with this number.
    """
    changes = 0

    def change(path: Any) -> None:
        nonlocal changes
        changes += 1
        if changes != at:
            return
        if error is None:
            os._exit(KILLED)
        raise OSError(error, os.strerror(error), str(path))

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            below = isinstance(path, str) and Path(path).absolute().is_relative_to(folder)
            if below and flags & (os.O_WRONLY | os.O_RDWR):
                change(path)
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
            change(arguments[0])

    sync = os.fsync

    def fsync(handle: int) -> None:
        change("fsync")
        sync(handle)

    os.fsync = fsync
    sys.addaudithook(watch)
    _write(name, folder)


def write_up_to(name: str, folder: Path, size: int, *, dies: bool) -> None:
    """Writes version 2, no file of it longer than `size` bytes: the kernel kills at the byte after,
    or fails that write.
    """
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if dies else signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    _write(name, folder)


def _write(name: str, folder: Path) -> None:
    from headsweep.errors import HeadsweepError

    try:
        WRITERS[name](folder, 2)
    except (OSError, HeadsweepError) as error:
        told = str(error)
        # The partial file's name would tell nobody anything.
        os._exit(1 if "\n" not in told and not re.search(r"\.partial\b(?!-)", told) else 3)
    os._exit(0)


NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
