"""The wheel and the sdist are complete: a search runs without the checkout."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from headsweep.package_info import code_commit
from tests.helpers.archives import unpack

ROOT = Path(__file__).parents[2]
SHARED_LIBRARIES = "shared_libraries.pth"

pytestmark = [pytest.mark.slow]


def hatch(source: Path, out: Path, *targets: str) -> None:
    options = [word for target in targets for word in ("-t", target)]
    command = [sys.executable, "-m", "hatchling", "build", *options, "-d", str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel and the sdist of the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    hatch(ROOT, folder, "wheel", "sdist")
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Run `headsweep` from the wheel, in a new environment and an empty folder.

    Other packages come from this environment, since installing torch takes minutes. This checkout
    is not importable there: an editable install is a .pth file, which only `site` reads.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True
    )
    python = folder / "venv" / "bin" / "python"
    (place,) = (folder / "venv" / "lib").glob("python*/site-packages")
    libraries = Path(pytest.__file__).parents[1]
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    (place / SHARED_LIBRARIES).write_text(f"{libraries}\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "HEADSWEEP"))}

    def run(*arguments: str) -> str:
        ended = subprocess.run(
            [str(python.with_name("headsweep")), *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    return run


def test_wheel_contains_configs_and_studies(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "src" / "headsweep"
    for pattern in ("*.py", "configs/**/*.yaml", "leaderboard/templates/*"):
        for path in package.rglob(pattern):
            assert f"headsweep/{path.relative_to(package).as_posix()}" in names
    studies = list((ROOT / "search_spaces").rglob("*.yaml"))
    assert len(studies) >= 8
    for path in studies:
        assert f"headsweep/{path.relative_to(ROOT).as_posix()}" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_built_from_sdist_equals_wheel(built, wheel, tmp_path):
    """An sdist outside git still knows its commit."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        unpack(archive, tmp_path)
    (source,) = tmp_path.iterdir()
    hatch(source, tmp_path / "dist", "wheel")
    (again,) = (tmp_path / "dist").glob("*.whl")

    def contents(path: Path) -> dict[str, bytes]:
        with zipfile.ZipFile(path) as archive:
            names = (name for name in archive.namelist() if not name.endswith("/RECORD"))
            return {name: archive.read(name) for name in names}

    assert contents(again) == contents(wheel)


def test_wheel_installed_alone_runs_quickstart(installed):
    commit = code_commit()
    assert commit is not None
    assert f"({commit})" in installed("--version")
    small = ("--patients-train", "150", "--patients-valid", "80", "--patients-test", "80")
    installed("data", "synth", "data/quickstart", *small)
    few = ("--n-trials", "6", "--workers", "1", "--device", "cpu")
    one = ("finalists.top_k=1", "finalists.seeds=[0]", "training.target_labels=[Lung nodule]")
    printed = installed("run", "quickstart", *few, *one)
    assert "report: outputs/quickstart/report.html" in printed
    shown = installed("leaderboard", "show", "outputs/quickstart", "--csv")
    (row,) = csv.DictReader(shown.splitlines())
    assert (row["study"], row["rank"]) == ("quickstart", "1")
