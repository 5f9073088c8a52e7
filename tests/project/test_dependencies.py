"""Dependencies: each has a version range, a pin and a known licence.

`scripts/dependencies` queries all advisories over the network before a release. The most severe
ones known in November 2026 are listed in `advisories.csv`, which these tests read offline.
"""

from __future__ import annotations

import csv
import json
import re
import tomllib
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.metadata import Distribution, distribution, distributions
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

pytestmark = pytest.mark.hardening

ROOT = Path(__file__).parents[2]
ADVISORIES = Path(__file__).parent / "advisories.csv"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FREE = re.compile(
    r"MIT|BSD|Apache|PSF|Python Software Foundation|MPL|Mozilla|ISC|Unlicense|HPND|CC0|0BSD|Zlib"
    r"|CMU License|CNRI"
)
APART = {"psycopg": "LGPL", "psycopg-binary": "LGPL"}
"""Licences of another kind, each justified in CONTRIBUTING.md."""
UNSAID = {"atheris": "Apache 2.0"}
"""Licences that are given in the source only, not in the package's metadata."""
NO_PACKAGES = re.compile(r"nvidia|cuda|triton|headsweep|pip|setuptools|wheel")
"""CUDA libraries, headsweep itself, and the packages of an empty environment."""


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    parts = (line.partition(";")[0].partition("==") for line in lines)
    return {canonicalize_name(name): pin.strip() for name, _, pin in parts}


def requirements() -> Iterator[Requirement]:
    project = PROJECT["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for text in (
        *(text for group in groups for text in group),
        *PROJECT["build-system"]["requires"],
    ):
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) != "headsweep":
            yield requirement


def installed() -> dict[str, Distribution]:
    """Return this environment's distributions by name; the first on the path wins."""
    return {canonicalize_name(part.name): part for part in reversed([*distributions()])}


def test_dependencies_all_have_a_range_and_a_pin_within_it():
    """Fails when a line is removed from constraints.txt, or a range has no lower bound."""
    pinned = pins()
    unheld = {"ray", "syne-tune", "scipy-stubs", "types-pyyaml", "types-jsonschema"}
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        assert requirement.specifier or name in unheld, name
        if name not in {"ray", "syne-tune"}:  # the extra `benchmark`, which is not installed here
            assert name in pinned, name
            assert requirement.specifier.contains(pinned[name], prereleases=True), name


def test_pins_are_exact_and_equal_installed_versions():
    for name, pin in pins().items():
        assert re.fullmatch(r"[0-9][0-9a-z.]*", pin), name
    pinned = pins()
    strays = {
        name: part.version
        for name, part in installed().items()
        if not NO_PACKAGES.match(name) and pinned.get(name) != part.version.partition("+")[0]
    }
    assert strays == {}


def test_pins_accept_lowest_supported_python():
    """Fails for soupsieve 3.0, which needs Python 3.11.5, where Debian 12 has 3.11.2."""
    lowest = PROJECT["project"]["requires-python"].removeprefix(">=")
    pinned = pins()
    too_new = {
        name: part.metadata["Requires-Python"]
        for name, part in installed().items()
        if name in pinned
        and not SpecifierSet(part.metadata["Requires-Python"] or "").contains(f"{lowest}.0")
    }
    assert too_new == {}


def test_pins_and_ranges_exclude_versions_with_known_advisories():
    """Fails, for example, when jinja2 3.1.5 is pinned or within the range."""
    rows = list(csv.DictReader(ADVISORIES.read_text().splitlines()))
    assert len(rows) >= 20
    floors = {
        (canonicalize_name(requirement.name), Version(clause.version))
        for requirement in requirements()
        for clause in requirement.specifier
        if clause.operator == ">="
    }
    pinned = pins()
    for row in rows:
        name, safe = row["package"], Version(row["first_safe"])
        assert Version(pinned[name]) >= safe, row
        assert [floor for package, floor in floors if package == name and floor < safe] == [], row


def licence(name: str) -> str:
    """Return the licence in a package's metadata; newer metadata fields come first."""
    about = distribution(name).metadata
    kinds = [text for text in about.get_all("Classifier") or () if text.startswith("License")]
    if name in UNSAID:
        return UNSAID[name]
    return about.get("License-Expression") or "; ".join(kinds) or (about.get("License") or "")[:200]


def test_licences_of_installed_packages_are_all_known_and_free():
    """Fails for a dependency whose licence has not been reviewed."""
    unknown = {}
    for found in distributions():
        name = canonicalize_name(found.name)
        pattern = APART.get(name)
        known = re.search(pattern, licence(name)) if pattern else FREE.search(licence(name))
        if not NO_PACKAGES.match(name) and not known:
            unknown[name] = licence(name)
    assert unknown == {}


SOUND = {"name": "numpy", "version": "2.4.6", "vulns": []}
ILL = {"name": "torch", "version": "2.13.0", "vulns": [{"id": "PYSEC-1", "fix_versions": []}]}
UNASKED = {"name": "numpy", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("answers", "code", "expected"),
    [
        ([[SOUND], [SOUND, SOUND]], 0, "none known to pypi for 2 pins"),
        ([[SOUND], [SOUND, ILL]], 1, "torch 2.13.0: PYSEC-1"),
        ([[SOUND], [SOUND, UNASKED]], 3, "UNKNOWN, pypi did not answer for numpy"),
        ([[UNASKED], None], 3, "UNKNOWN, neither of pypi, osv answered"),
        ([[UNASKED], [SOUND], [ILL]], 1, "torch 2.13.0: PYSEC-1"),
    ],
)
def test_audit_without_answer_is_reported_as_unknown(tmp_path, capsys, answers, code, expected):
    """pip-audit is replaced by a script with fixed output; None is an unreachable database."""
    loader = SourceFileLoader("dependencies", str(ROOT / "scripts/dependencies"))
    dependencies = module_from_spec(spec_from_loader(loader.name, loader))
    loader.exec_module(dependencies)
    tool = tmp_path / "bin/pip-audit"
    tool.parent.mkdir()
    for turn, found in enumerate(answers):
        text = json.dumps({"dependencies": found}) if found is not None else ""
        (tmp_path / f"answer-{turn}").write_text(text)
    tool.write_text(PIP_AUDIT)
    tool.chmod(0o755)
    output = tmp_path / "advisories.json"
    assert dependencies.audit(tmp_path, output) == code
    printed = "".join(capsys.readouterr())
    assert expected in printed
    assert output.exists() == ("neither" not in printed)


PIP_AUDIT = """#!/bin/sh
cd "$(dirname "$0")/.."
answer=$(ls answer-* | head -n 1)
while [ "$1" != --output ]; do shift; done
[ ! -s "$answer" ] || cp "$answer" "$2"
rm "$answer"
exit 1
"""
