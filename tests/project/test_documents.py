"""Commands, options, overrides, study files, links and config keys in the documents exist."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from headsweep.cli.root import root
from headsweep.config.overrides import compose_config
from headsweep.search.study_file import load_study_file

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    ROOT / "storage" / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if "generated" not in page.parts),
]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
README = TEXTS["README.md"]


def commands() -> list[str]:
    """All commands below `headsweep`, the longest first."""
    names = []
    for name, command in root.commands.items():
        names += [name, *(f"{name} {child}" for child in getattr(command, "commands", ()))]
    return sorted(names, key=len, reverse=True)


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    """The functions that write the generated pages."""
    return runpy.run_path(str(ROOT / "scripts" / "reference_pages.py"))


@pytest.mark.parametrize("page", TEXTS)
def test_command_in_a_document_exists_with_its_options(headsweep, page):
    """In code blocks and in the text; the page "Getting started" is run besides."""
    for line in re.findall(r"(?<![\w/.-])headsweep [a-z][^`\n]*", TEXTS[page]):
        words = line.replace("\\|", "|").split()[1:]
        name = next((c for c in commands() if words[: len(c.split())] == c.split()), None)
        options = {word.strip("[],.") for word in words if word.startswith(("--", "[--", "-o"))}
        if name and options:
            help_text = headsweep(*name.split(), "--help").out
            assert not {option for option in options if option not in help_text}, line
    for block in re.findall(r"^```(?:sh)?\n(.*?)^```", TEXTS[page], re.DOTALL | re.MULTILINE):
        for line in re.findall(r"^ *headsweep (.*)", block, re.MULTILINE):
            assert any(f"{line} ".startswith(f"{command} ") for command in commands()), line


def test_command_line_page_describes_every_command_and_option(headsweep, reference):
    page = reference["command_line_page"]()
    for name in commands():
        assert f"`headsweep {name}`" in page
        for option in re.findall(r"^ +(?:-\w, )?(--[\w-]+)", headsweep(*name.split(), "-h").out):
            assert option in page, (name, option)


def test_study_file_page_says_that_tpe_is_not_optunas(reference):
    assert "`tpe` is not Optuna's `TPESampler`" in reference["study_file_page"]()


def test_config_page_names_every_config_key(reference):
    page = reference["config_page"]()
    for section in ("head=mlp", "head=retrieval", "training.optimizer", "data.columns.volume"):
        assert f"`{section}" in page


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", README, re.DOTALL))
def test_study_file_in_the_readme_is_valid(block, tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(block, encoding="utf-8")
    assert load_study_file(file, []).name == yaml.safe_load(block)["study"]["name"]


@pytest.mark.parametrize("page", TEXTS)
def test_overrides_in_a_document_are_config_keys(page):
    for line in re.findall(
        r"^headsweep (?:train|evaluate|align|data check) (.*)", TEXTS[page], re.M
    ):
        overrides = [word for word in line.split() if re.fullmatch(r"[a-z_.]+=[\w./-]+", word)]
        # `manifest=` is not a config key: it names the manifest that `evaluate` scores.
        keys = [word for word in overrides if not word.startswith("manifest=")]
        # A head of another package, and an input that another line of the page defines.
        if not {"head.kind=bottleneck", "features.input=ct_clip"} & {*keys}:
            compose_config(keys, where=page)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_files_that_a_document_links_to_exist(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "generated/" not in link]  # written when the site is built
    assert not [link for link in local if not (page.parent / link).exists()]


def test_documents_name_no_folder_beside_the_checkout():
    pictures = {p.name: p.read_text(encoding="utf-8") for p in ROOT.glob("docs/images/*.svg")}
    assert [page for page, text in (TEXTS | pictures).items() if "../shared" in text] == []


def test_readme_has_at_most_120_lines():
    assert len(README.splitlines()) <= 120
