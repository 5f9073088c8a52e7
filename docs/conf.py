"""Sphinx configuration: MyST Markdown, Google docstrings, pages generated from the code."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import headsweep
from headsweep.package_info import code_commit

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "scripts"))

from reference_pages import write_pages  # noqa: E402

write_pages(DOCS / "reference" / "generated")

project = "headsweep"
author = "the headsweep developers"
release = f"{getattr(headsweep, '__version__', '')} {code_commit() or ''}".strip()
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "headsweep"
default_role = "literal"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
copybutton_exclude = ".linenos, .gp, .go"


def fences_to_directives(
    app: object, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Turn Markdown code fences of a docstring into reStructuredText, which autodoc reads."""
    result: list[str] = []
    inside = False
    for line in lines:
        text = line.lstrip()
        if not text.startswith("```"):
            # Markdown's code in single backticks needs two in reStructuredText.
            plain = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line)
            result.append((f"    {line}" if text else line) if inside else plain)
            continue
        inside = not inside
        indent = line[: len(line) - len(text)]
        result += [f"{indent}.. code-block:: {text[3:] or 'text'}", ""] if inside else [""]
    lines[:] = result


def setup(app: object) -> None:
    """Run the conversion before napoleon's, which has priority 500."""
    app.connect("autodoc-process-docstring", fences_to_directives, priority=400)  # type: ignore[attr-defined]
