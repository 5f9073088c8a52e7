"""Logs of TensorBoard and W&B can be read back, and a failing logger does not stop training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.wandb_files import values, wandb_records
from tests.single.conftest import Run

pytestmark = pytest.mark.slow

SHORT = ("training.max_epochs=4", "training.batch_size=32")
NAMED = ("logging.group=sweep-7", "logging.tags=[probe,visual]", "logging.project=ct")


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def trained_elsewhere(tmp_path: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Train in a process whose home folder has no logger account."""
    home = tmp_path / "home"
    home.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    return subprocess.run(
        [sys.executable, "-m", "headsweep", "train", *SHORT, *overrides],
        env={**kept, "HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_train_with_wandb_offline_and_no_account_writes_readable_logs(
    small_data: tuple[str, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "probe"
    logging = ("logging=wandb", "logging.log_model=true", *NAMED)
    done = trained_elsewhere(tmp_path, *small_data, *logging, f"paths.checkpoint_dir={folder}")
    assert (done.returncode, done.stderr) == (0, "")

    records = list(wandb_records(folder))
    (run,) = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    assert (run.project, run.run_group, run.display_name) == ("ct", "sweep-7", "probe")
    assert list(run.tags) == ["probe", "visual"]
    config = values(run.config.update)
    assert config["training"]["batch_size"] == 32
    assert config["head"] == {"kind": "linear"}

    history = [values(r.history.item) for r in records if r.WhichOneof("record_type") == "history"]
    names = metrics(folder)[0]
    assert [{name: step[name] for name in names} for step in history] == metrics(folder)
    summaries = [values(r.summary.update) for r in records if r.HasField("summary")]
    merged = {key: value for summary in summaries for key, value in summary.items()}
    best = json.loads((folder / "metrics.json").read_text())
    assert merged["best/val/auprc_macro"] == best["val/auprc_macro"]
    (artifact,) = [r.artifact for r in records if r.HasField("artifact")]
    assert [entry.path for entry in artifact.manifest.contents] == ["model.safetensors"]

    sync = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "--dry-run"],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Would sync 1 run(s)" in sync.stdout + sync.stderr


def test_train_with_tensorboard_logs_curves_config_and_resumed_epochs(
    small_data: tuple[str, ...], run: Run, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    place = f"paths.checkpoint_dir={tmp_path}"
    run("train", *SHORT, *small_data, "logging=tensorboard", *NAMED, place)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name in ("val/auprc_macro", "val/auroc_macro", "val/loss"):
        read = [(event.step, event.value) for event in events.Scalars(name)]
        assert read == [(m["epoch"], pytest.approx(m[name], rel=1e-6)) for m in metrics(tmp_path)]
    best = json.loads((tmp_path / "metrics.json").read_text())
    (event,) = events.Scalars("best/val/auprc_macro")
    assert (event.step, event.value) == (best["epoch"], pytest.approx(best["val/auprc_macro"]))
    texts = {
        tag: events.Tensors(f"{tag}/text_summary")[0].tensor_proto.string_val[0].decode()
        for tag in ("config", "run")
    }
    assert "batch_size: 32" in texts["config"]
    assert "group: sweep-7" in texts["run"]
    assert "- probe" in texts["run"]

    run("train", *SHORT, *small_data, "logging=tensorboard", place, "training.resume.enabled=true")
    events.Reload()
    assert [event.step for event in events.Scalars("val/loss")] == [1, 2, 3, 4]


def test_train_when_a_logger_cannot_write_prints_one_notice_and_continues(
    small_data: tuple[str, ...], headsweep, tmp_path: Path
) -> None:
    quiet, folder = tmp_path / "quiet", tmp_path / "run"
    headsweep("train", *SHORT, *small_data, f"paths.checkpoint_dir={quiet}")
    folder.mkdir()
    (folder / "tensorboard").write_text("in the way")
    ended = headsweep(
        "train", *SHORT, *small_data, "logging=tensorboard", f"paths.checkpoint_dir={folder}"
    )
    assert ended.code == 0
    assert ended.err.startswith("Notice: logging to tensorboard ended, training goes on: ")
    assert ended.err.count("\n") == 1
    assert metrics(folder) == metrics(quiet)


def test_train_with_wandb_online_and_no_account_prints_one_notice(
    small_data: tuple[str, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    online = ("logging=wandb", "logging.offline=false", f"paths.checkpoint_dir={folder}")
    done = trained_elsewhere(tmp_path, *small_data, *online)
    assert done.returncode == 0
    notices = [line for line in done.stderr.splitlines() if line.startswith("Notice: ")]
    assert len(notices) == 1
    assert notices[0].startswith("Notice: logging to wandb ended, training goes on: ")
    assert len(metrics(folder)) == 4
