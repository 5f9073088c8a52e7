"""What headsweep stands on: every dependency in a range, pinned, and of a known licence (bar 12).

Advisories need a network: `scripts/dependencies` asks for them at a release.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FREE = re.compile(
    r"MIT|BSD|Apache|PSF|Python Software Foundation|MPL|Mozilla|ISC|Unlicense|HPND|CC0|0BSD|Zlib"
    r"|CMU License|CNRI"
)
APART = {"psycopg": "LGPL", "psycopg-binary": "LGPL"}
"""Licences of another kind, each justified in CONTRIBUTING.md."""
UNSAID = {"atheris": "Apache 2.0"}
"""Licences that stand beside the source alone, and not in the package's metadata."""
NO_PACKAGES = re.compile(r"nvidia|cuda|triton|headsweep|pip|setuptools|wheel")
"""CUDA's own libraries, ourselves, and what an environment begins with."""


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


def test_every_dependency_has_a_range_and_a_pin_within_it():
    """Fails when a line is taken out of constraints.txt, or a range is left open below."""
    pinned = pins()
    unheld = {"ray", "syne-tune", "scipy-stubs", "types-pyyaml", "types-jsonschema"}
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        assert requirement.specifier or name in unheld, name
        if name not in {"ray", "syne-tune"}:  # the extra `benchmark`, which nothing here installs
            assert name in pinned, name
            assert requirement.specifier.contains(pinned[name], prereleases=True), name


def test_every_pin_is_exact_and_what_is_installed():
    for name, pin in pins().items():
        assert re.fullmatch(r"[0-9][0-9a-z.]*", pin), name
    installed = {canonicalize_name(d.name): d.version for d in distributions()}
    pinned = pins()
    strays = {
        name: version
        for name, version in installed.items()
        if not NO_PACKAGES.match(name) and pinned.get(name) != version.partition("+")[0]
    }
    assert strays == {}


def licence(name: str) -> str:
    """What a package says of its licence, in the newest field first."""
    about = distribution(name).metadata
    kinds = [text for text in about.get_all("Classifier") or () if text.startswith("License")]
    if name in UNSAID:
        return UNSAID[name]
    return about.get("License-Expression") or "; ".join(kinds) or (about.get("License") or "")[:200]


def test_every_licence_is_free_and_known():
    """A dependency under terms that were not looked at fails here."""
    unknown = {}
    for found in distributions():
        name = canonicalize_name(found.name)
        due = APART.get(name)
        known = re.search(due, licence(name)) if due else FREE.search(licence(name))
        if not NO_PACKAGES.match(name) and not known:
            unknown[name] = licence(name)
    assert unknown == {}
