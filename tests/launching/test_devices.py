"""Which GPU a worker uses: the scheduler's choice, or all GPUs and MIG slices in turn."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headsweep.launching.devices import default_workers, device_of_worker, visible_gpus

MIG = ("MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb")
LISTED = f"""\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 3g.20gb     Device  0: (UUID: {MIG[0]})
  MIG 3g.20gb     Device  1: (UUID: {MIG[1]})
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-0d88a9b5-2c3a-8a2b-7b6b-0e2f27a2c9f1)
"""
"""Output of `nvidia-smi -L` (driver 535) for one GPU in MIG mode and one without it."""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake nvidia-smi that lists two GPUs, one of them split into two MIG slices."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n[ \"$1\" = -L ] && cat <<'END'\n{LISTED}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ("0,1", ("0", "1")),
        ("3", ("3",)),
        (f"{MIG[0]},{MIG[1]}", MIG),
        ("GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77", ("GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77",)),
        ("MIG-GPU-5d5ba0d6-d33d/1/0", ("MIG-GPU-5d5ba0d6-d33d/1/0",)),
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("0,-1,1", ("0",)),
    ],
)
def test_visible_gpus_when_a_scheduler_chose_returns_its_choice(monkeypatch, driver, given, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus() == seen


def test_visible_gpus_without_a_choice_returns_every_gpu_and_slice(driver):
    assert visible_gpus() == (*MIG, "1")
    assert default_workers("auto") == default_workers("cuda") == 3
    assert default_workers("cuda:1") == 1


def test_device_of_worker_takes_the_gpus_in_turn(driver):
    names = [device_of_worker("auto", worker)["CUDA_VISIBLE_DEVICES"] for worker in range(4)]
    assert names == [*MIG, "1", MIG[0]]
    assert device_of_worker("cpu", 0) == device_of_worker("cuda:1", 0) == {}
