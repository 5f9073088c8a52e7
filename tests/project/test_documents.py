"""README, ARCHITECTURE and docs/ name what there is, and nothing that there is not."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import yaml

from headsweep.config.overrides import compose_config
from headsweep.search.study_file import load_study_file
from tests.cli.test_contract import COMMANDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [README, *(p.read_text(encoding="utf-8") for p in sorted((ROOT / "docs").glob("*.md")))]


def test_the_readme_names_every_command():
    groups = dict.fromkeys(command.split()[0] for command in COMMANDS)
    assert not [name for name in groups if not re.search(rf"`(headsweep )?{name}\b", README)]


@pytest.mark.parametrize("text", DOCUMENTS, ids=lambda text: text.splitlines()[0].strip("# "))
def test_every_command_in_a_document_is_one_and_has_its_options(headsweep, text):
    """In code blocks and in tables of commands; the tutorial and the quickstart are run besides."""
    for line in re.findall(r"(?<![\w/.-])headsweep [a-z][^`\n]*", text):
        words = line.replace("\\|", "|").split()[1:]
        name = next((c for c in COMMANDS if words[: len(c.split())] == c.split()), None)
        options = {word.strip("[],.") for word in words if word.startswith(("--", "[--", "-o"))}
        if name and options:
            help_text = headsweep(*name.split(), "--help").out
            assert not {option for option in options if option not in help_text}, line
    for block in re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in re.findall(r"^ *headsweep (.*)", block, re.MULTILINE):
            assert any(f"{line} ".startswith(f"{command} ") for command in COMMANDS), line


def test_the_reference_of_the_study_file_is_that_of_the_schema():
    """`python scripts/study_file_reference.py` writes it anew."""
    script = runpy.run_path(str(ROOT / "scripts" / "study_file_reference.py"))
    assert script["page"]() == (ROOT / "docs" / "study_file.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", README, re.DOTALL))
def test_the_study_file_in_the_readme_is_one(block, tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(block, encoding="utf-8")
    assert load_study_file(file, []).name == yaml.safe_load(block)["study"]["name"]


def test_the_overrides_in_the_readme_are_known():
    for line in re.findall(r"headsweep (?:train|evaluate|align|data check) (.*)", README):
        overrides = [word for word in line.split() if re.fullmatch(r"[a-z_.]+=[\w./-]+", word)]
        # `manifest=` is no config key: it names what `evaluate` scores.
        keys = [word for word in overrides if not word.startswith("manifest=")]
        compose_config(keys, where="README.md")


def test_the_files_that_the_documents_link_to_exist():
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8"))
        assert not [link for link in links if not (page.parent / link).exists()], page
