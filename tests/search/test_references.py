"""`finalists.references`: which rows a study asks for, and that old studies stay as they are."""

import pytest

from headsweep.errors import ConfigError, StudyError
from headsweep.search.spec import spec_from_json, spec_to_json
from headsweep.search.study_file import study_from_dict
from headsweep.studies.references import with_references


def spec_of(finalists=None, *overrides):
    space = {"training.learning_rate": {"type": "float", "low": 0.1, "high": 0.2}}
    document = {"study": {"name": "s", "n_trials": 3}, "space": space}
    return study_from_dict(
        document | ({} if finalists is None else {"finalists": finalists}), overrides
    )


def test_references_by_default_are_the_first_three_and_zero_shot_with_a_file():
    assert spec_of().references == ("prevalence", "logistic_regression", "knn")
    assert spec_of(None, "data.zero_shot=p.npz").references[3:] == ("zero_shot",)
    assert spec_of({"references": []}).references == ()
    assert spec_of(None, "finalists.references=[knn,prevalence]").references == (
        "prevalence",
        "knn",
    )


def test_references_by_default_change_neither_fingerprint_nor_stored_text():
    spec = spec_of()
    assert "references" not in spec_to_json(spec)
    assert "zero_shot" not in spec_to_json(spec)
    without = spec_of({"references": []})
    assert without.fingerprint() != spec.fingerprint()
    assert spec_from_json(spec_to_json(without)) == without
    assert spec_from_json(spec_to_json(spec)) == spec


@pytest.mark.parametrize(
    ("references", "message"),
    [
        (
            ["logistic_regresion"],
            r"unknown reference 'logistic_regresion'\. Did you mean 'logistic_",
        ),
        (["knn", "knn"], "references must differ"),
        (["zero_shot"], r"finalists\.references: zero_shot needs a file .* data\.zero_shot"),
    ],
)
def test_study_with_references_that_are_not_allowed_is_refused(references, message):
    with pytest.raises(StudyError, match=message) as caught:
        spec_of({"references": references})
    assert "\n" not in str(caught.value)


def test_zero_shot_reads_the_input_that_the_prompts_are_of():
    named = "data.inputs={a: {column: a_path, modality: visual}}"
    overrides = [named, "features.input=text", "data.zero_shot=p.npz", "data.zero_shot_input=a"]
    assert with_references(spec_of(None, *overrides), ("text",)) == ("text", "a")
    assert with_references(spec_of(None, "data.zero_shot=p.npz"), ("text",)) == ("visual", "text")
    assert with_references(spec_of(), ("text",)) == ("text",)
    with pytest.raises(ConfigError, match=r"data\.zero_shot_input: unknown input 'b'"):
        spec_of(None, *overrides[:-1], "data.zero_shot_input=b")
