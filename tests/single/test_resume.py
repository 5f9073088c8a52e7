"""A run that was killed and resumed ends with the same bits as an uninterrupted one."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from headsweep.config.overrides import compose_config
from headsweep.config.schema import Config, to_dict
from headsweep.engine.slots import EpochReport
from headsweep.errors import TrialError
from headsweep.single_run import STATE, train
from tests.helpers.killed_runs import SETTINGS, WEIGHTS_AND_METRICS, epochs_in, kill_once
from tests.single.conftest import Run

pytestmark = pytest.mark.slow

HEADS = {
    "linear": ("head=linear",),
    "linear, sgd": ("head=linear", "training.optimizer=sgd", "training.clip_norm=0.5"),
    "mlp": ("head=mlp", "head.width=24", "head.dropout=0.3", "head.norm=layer"),
    "mlp, batch norm": ("head=mlp", "head.width=16", "head.norm=batch", "head.dropout=0.2"),
    "retrieval": ("head=retrieval", "head.dim=8", "features=both"),
    "lbfgs": ("head=linear", "training.optimizer=lbfgs"),
}
KILLS = {"linear": 4, "linear, sgd": 4, "mlp": 4, "mlp, batch norm": 3, "retrieval": 4, "lbfgs": 1}
EPOCHS = 16


def config_of(folder: Path, *overrides: str) -> Config:
    short = (f"training.max_epochs={EPOCHS}", "training.batch_size=32")
    patient = "training.early_stopping_patience=null"
    place = f"paths.checkpoint_dir={folder}"
    return compose_config([*short, patient, *overrides, place], where="test")


@pytest.mark.parametrize("head", HEADS)
def test_train_when_killed_at_random_and_resumed_ends_with_the_same_bits(
    head: str, small_data: tuple[str, ...], tmp_path: Path
) -> None:
    whole = config_of(tmp_path / "whole", *small_data, *HEADS[head])
    train(whole, SETTINGS, progress=False)

    chance = random.Random(head)
    resumed = config_of(
        tmp_path / "killed", *small_data, *HEADS[head], "training.resume.enabled=true"
    )
    last = 0 if head == "lbfgs" else EPOCHS - 2
    for epoch in sorted(chance.sample(range(1, last + 2), KILLS[head])):
        kill_once(resumed, max(epoch, epochs_in(tmp_path / "killed") + 1), chance.uniform(0, 0.01))
    train(resumed, SETTINGS, progress=False)

    for name in WEIGHTS_AND_METRICS:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    state, due = (load_file(tmp_path / part / STATE) for part in ("killed", "whole"))
    assert {name: tensor.tobytes() for name, tensor in state.items()} == {
        name: tensor.tobytes() for name, tensor in due.items()
    }


def test_number_of_kills_is_twenty() -> None:
    assert sum(KILLS.values()) == 20


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_train_when_interrupted_and_resumed_ends_with_the_same_bits(
    sent: signal.Signals, real_data: tuple[str, ...], run: Run, tmp_path: Path
) -> None:
    """The command line gets Ctrl-C, or SIGTERM as from a scheduler."""
    long = (*real_data, "training.max_epochs=300", "training.early_stopping_patience=null")
    run("train", *long, f"paths.checkpoint_dir={tmp_path}/whole")

    folder = tmp_path / "cut"
    command = ["train", *long, f"paths.checkpoint_dir={folder}"]
    with subprocess.Popen(
        [sys.executable, "-m", "headsweep", *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # If the tests run in the background, child processes would ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        while epochs_in(folder) < 3 and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(sent)
        _, err = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert 3 <= epochs_in(folder) < 300

    run(*command, "training.resume.enabled=true")
    for name in WEIGHTS_AND_METRICS:
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_train_with_a_state_path_resumes_from_that_state(
    small_data: tuple[str, ...], tmp_path: Path
) -> None:
    whole = config_of(tmp_path / "whole", *small_data)
    train(whole, SETTINGS, progress=False)
    cut = config_of(tmp_path / "cut", *small_data)
    kill_once(cut, 5, 0.0)
    place = f"training.resume.state_path={tmp_path}/cut/{STATE}"
    moved = config_of(tmp_path / "moved", *small_data, place)
    train(moved, SETTINGS, progress=False)
    for name in WEIGHTS_AND_METRICS:
        assert (tmp_path / "moved" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_train_when_resuming_a_finished_run_changes_nothing(
    small_data: tuple[str, ...], tmp_path: Path
) -> None:
    whole = config_of(tmp_path, *small_data)
    train(whole, SETTINGS, progress=False)
    before = {name: (tmp_path / name).read_bytes() for name in WEIGHTS_AND_METRICS}
    epochs: list[EpochReport] = []
    again = config_of(tmp_path, *small_data, "training.resume.enabled=true")
    train(again, SETTINGS, progress=False, on_epoch=epochs.append)
    assert not epochs
    assert {name: (tmp_path / name).read_bytes() for name in WEIGHTS_AND_METRICS} == before
    assert "enabled: false" in (tmp_path / "config.yaml").read_text()


def test_train_without_resume_removes_the_state_of_an_earlier_run(
    small_data: tuple[str, ...], tmp_path: Path
) -> None:
    """If it fails in its first epoch, a later resume must not use the state of the earlier run."""
    train(config_of(tmp_path, *small_data), SETTINGS, progress=False)
    diverging = config_of(tmp_path, *small_data, "training.learning_rate=1e30")
    with pytest.raises(TrialError, match="scores must be finite, found NaN or infinity in epoch 1"):
        train(diverging, SETTINGS, progress=False)
    assert not (tmp_path / STATE).exists()
    assert epochs_in(tmp_path) == 0


def test_train_with_resume_but_no_state_starts_anew_with_a_notice(
    small_data: tuple[str, ...], tmp_path: Path
) -> None:
    said: list[str] = []
    config = config_of(tmp_path, *small_data, "training.resume.enabled=true")
    train(config, SETTINGS, progress=False, notice=said.append)
    assert said == [f"{tmp_path / STATE}: no state to resume from, training from the start"]
    assert epochs_in(tmp_path) == EPOCHS


class TestRefused:
    """The state of another run is refused in one line, and no file is overwritten."""

    @pytest.fixture
    def folder(self, small_data: tuple[str, ...], tmp_path: Path) -> Path:
        train(config_of(tmp_path, *small_data), SETTINGS, progress=False)
        return tmp_path

    @pytest.mark.parametrize(
        ("override", "law"),
        [
            ("training.learning_rate=0.5", "training.learning_rate was 0.001, found 0.5"),
            ("data.val_manifest=test_manual_all.csv", "data.val_manifest was 'valid.csv'"),
            (
                "training.resume.state_path=no/such/file",
                "state file not found: no/such/file. training.resume.state_path names",
            ),
        ],
    )
    def test_train_with_the_state_of_another_config_is_refused(
        self, headsweep, folder: Path, small_data: tuple[str, ...], override: str, law: str
    ) -> None:
        before = {file: file.read_bytes() for file in folder.iterdir()}
        plain = [f"training.max_epochs={EPOCHS}", "training.batch_size=32"]
        patient = "training.early_stopping_patience=null"
        ended = headsweep(
            "train", *plain, patient, *small_data, f"paths.checkpoint_dir={folder}",
            "training.resume.enabled=true", override,
        )  # fmt: skip
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert law in ended.err
        assert {file: file.read_bytes() for file in folder.iterdir()} == before

    def test_train_with_the_state_of_other_data_is_refused(
        self, headsweep, folder: Path, small_data, tmp_path: Path
    ) -> None:
        config = json.dumps(to_dict(config_of(folder, *small_data)))
        file = tmp_path / "other.yaml"
        file.write_text(config)
        manifests = tmp_path / "manifests"
        manifests.mkdir()
        for source in Path(small_data[1].partition("=")[2]).iterdir():
            lines = source.read_text().splitlines(keepends=True)
            (manifests / source.name).write_text("".join(lines[:-1]))
        ended = headsweep(
            "train", "--config", file, f"paths.manifest_dir={manifests}",
            "training.resume.enabled=true",
        )  # fmt: skip
        assert ended.code == 2
        assert "a run resumes with the data it began with, train." in ended.err

    def test_train_with_a_state_of_another_format_is_refused(
        self, headsweep, folder: Path, small_data
    ) -> None:
        model = folder / "model.safetensors"
        resume = f"training.resume.state_path={model}"
        ended = headsweep("train", *small_data, f"paths.checkpoint_dir={folder}", resume)
        assert ended.code == 2
        assert "cannot resume from this file, which is not a headsweep-state/1 file" in ended.err
