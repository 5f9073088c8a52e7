"""Sphinx configuration: MyST Markdown, Google docstrings, pages generated from the code."""

from __future__ import annotations

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
