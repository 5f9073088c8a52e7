"""The Python examples of README and docs run as they are, in a folder with a synthetic data set."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from headsweep.data.synthetic.generate import synthesize

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/how_to/own_features.md", "docs/how_to/use_a_head.md")
"""In the order in which they run: the last one reads the leaderboard of the first."""
SHOWN_ELSEWHERE = {
    "docs/how_to/own_head.md": "tests/heads/test_example.py",
    "docs/how_to/cross_validation.md": "tests/leaderboard/test_cross_validation.py",
    "docs/how_to/other_cohorts.md": "tests/leaderboard/test_other_cohorts.py",
    "docs/how_to/compare_encoders.md": "tests/end_to_end/test_compare_encoders.py",
    "docs/reference/files.md": "tests/leaderboard/test_references.py",
}
"""Pages whose Python is a file of a package, or needs other data, with the module that tests it."""

pytestmark = [pytest.mark.slow]


def examples(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data/features` and `data/manifests`, 512 wide."""
    folder = tmp_path_factory.mktemp("project")
    patients = {"patients_train": 100, "patients_valid": 60, "patients_test": 60}
    synthesize(folder / "data", **patients, width=512, seed=3, progress=False)
    return folder


@pytest.fixture
def run(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Run an example in the folder, with no names but its own, and return what it printed."""
    monkeypatch.chdir(project)
    for name in [name for name in os.environ if name.startswith("HEADSWEEP")]:
        monkeypatch.delenv(name)

    def run(code: str) -> str:
        with redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, "example", "exec"), {"__name__": "__main__"})
        return printed.getvalue()

    return run


def test_pages_with_python_are_all_tested():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    names = {page.relative_to(ROOT).as_posix() for page in pages if "generated" not in page.parts}
    assert {name for name in names if examples(name)} == {*PAGES, *SHOWN_ELSEWHERE}


def test_examples_in_reading_order_run_unchanged(project, run):
    printed = {}
    for page in PAGES:
        for i, code in enumerate(examples(page)):
            printed[page, i] = run(code)
    assert "COMPLETE" in printed["README.md", 0]
    assert (project / "outputs/linear-visual/leaderboard.csv").is_file()
    assert (project / "outputs/memory/leaderboard.csv").is_file()
    assert printed["docs/how_to/use_a_head.md", 0].count("\n") == 18
