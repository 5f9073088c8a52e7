"""Documents and docstrings use plain words and none of the discouraged ones."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLAINER = {
    r"heard": "handled, received",
    r"former (?:life|lives)": "previous run",
    r"(?:stands?|stood|standing) still": "hangs, is suspended",
    r"signs? of life": "heartbeat",
    r"strangers?(?:'s?)?": "untrusted, somebody else's",
    r"(?:is|are|was|were) told": "is notified, receives",
    r"lest": "so that ... not",
    r"thereof": "of it",
}
"""Words and what to write instead."""
WORDS = re.compile(rf"\b(?:{'|'.join(PLAINER)})\b", re.IGNORECASE)
GENERATED = ("generated", "_build")


def pages() -> list[Path]:
    """Return the Markdown pages of the repository."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "storage" / "README.md"]
    return sorted(page for page in found if not set(GENERATED) & set(page.parts))


def sources() -> list[Path]:
    """Return the Python files whose docstrings are checked."""
    return sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")])


def docstrings(file: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string of a module that is a statement of its own."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield node.lineno, value.value


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page_contains_no_discouraged_word(page):
    assert [match[0] for match in WORDS.finditer(page.read_text(encoding="utf-8"))] == []


def test_docstrings_contain_no_discouraged_word():
    found = [
        f"{file.relative_to(ROOT)}:{line}: {' '.join(match[0].split())}"
        for file in sources()
        for line, text in docstrings(file)
        for match in WORDS.finditer(" ".join(text.split()))
    ]
    assert found == []


def test_words_across_a_line_break_are_detected():
    (found,) = WORDS.findall(" ".join(["A", "process", "that", "stands", "still."]))
    assert found == "stands still"
