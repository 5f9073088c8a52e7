"""The manifest for Kubernetes conforms to the published schema and to what workers need.

The manifest is only checked, not run, because test machines have no Kubernetes.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator, ValidationError

from headsweep.settings import (
    HOST_VARIABLE,
    STORAGE_URL_VARIABLE,
    WORKER_VARIABLE,
    WorkerSettings,
)

ROOT = Path(__file__).parents[2]
SCHEMAS = {"Job": "job-batch-v1.json", "Secret": "secret-v1.json"}


@pytest.fixture
def documents() -> dict[str, dict[str, Any]]:
    text = (ROOT / "docs" / "kubernetes" / "workers.yaml").read_text(encoding="utf-8")
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def check(document: dict[str, Any]) -> None:
    file = Path(__file__).parent / "kubernetes" / SCHEMAS[document["kind"]]
    Draft7Validator(json.loads(file.read_text())).validate(document)


def test_manifest_conforms_to_the_published_schema(documents):
    assert list(documents) == ["Secret", "Job"]
    for document in documents.values():
        check(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "parallel"), 8),
        (("spec", "parallelism"), "eight"),
        (("spec", "template", "spec", "containers", 0, "images"), "x"),
        (("spec", "template", "spec", "containers", 0, "env", 0, "valueFrom", "secret"), "x"),
    ],
)
def test_schema_when_a_field_is_wrong_rejects_it(documents, path, value):
    document = copy.deepcopy(documents["Job"])
    node: Any = document
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(ValidationError):
        check(document)


def test_manifest_gives_a_worker_its_environment(documents):
    job, secret = documents["Job"]["spec"], documents["Secret"]
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"]
    pod = job["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= WorkerSettings.grace_s
    (container,) = pod["containers"]
    variables = {variable["name"]: variable for variable in container["env"]}
    reference = variables[STORAGE_URL_VARIABLE]["valueFrom"]["secretKeyRef"]
    assert reference["name"] == secret["metadata"]["name"]
    assert reference["key"] in secret["stringData"]
    # It uses its own index, and a variable that is defined before it, as Kubernetes requires.
    assert "$(INDEX)" in variables[WORKER_VARIABLE]["value"]
    assert list(variables).index("INDEX") < list(variables).index(WORKER_VARIABLE)
    assert variables[HOST_VARIABLE]["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "postgresql" not in json.dumps(container)


def test_manifest_command_is_accepted_by_headsweep(documents, headsweep):
    (container,) = documents["Job"]["spec"]["template"]["spec"]["containers"]
    program, command, _, *options = container["command"]
    assert program == "headsweep"
    shown = headsweep(command, "--help").out
    assert not [option for option in options if option.startswith("--") and option not in shown]
