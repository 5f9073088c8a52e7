"""Names of inputs: lists and joined texts, reserved names, the sides of a retrieval head."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headsweep.config.inputs import BUILT_IN, input_names, joined_input, paired_inputs
from headsweep.config.overrides import compose_config
from headsweep.config.schema import Config
from headsweep.config.values import parse_config, with_values
from headsweep.data.splits import required_inputs
from headsweep.errors import ConfigError, StudyError
from tests.helpers.study_specs import make_spec

INPUTS = {
    "ct_clip": {"column": "visual_feature_path", "modality": "visual"},
    "colipri": {"column": "colipri_path", "modality": "visual"},
    "report": {"column": "text_feature_path", "modality": "text"},
}
NAMES = st.lists(
    st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,8}", fullmatch=True).filter(lambda n: n != "both"),
    min_size=1,
    max_size=4,
    unique=True,
)


def config(**values: object) -> Config:
    named = {key.replace("__", "."): value for key, value in values.items()}
    return with_values(Config(), {"data.inputs": INPUTS, **named}, where="test")


@given(NAMES)
def test_joined_input_of_a_list_gives_its_names_again(names: list[str]) -> None:
    joined = joined_input(names)
    assert isinstance(joined, str)
    assert list(input_names(joined)) == names
    assert joined_input(joined) == joined


def test_list_of_the_built_in_inputs_is_both() -> None:
    assert Config.model_validate_json('{"features": {"input": ["visual", "text"]}}') == (
        Config.model_validate_json('{"features": {"input": "both"}}')
    )


def test_override_with_a_list_equals_the_joined_text() -> None:
    given_inputs = {"data.inputs": INPUTS}
    configs = [
        compose_config([f"features.input={text}"], where="t", given=given_inputs)
        for text in ("[ct_clip,colipri]", "ct_clip+colipri")
    ]
    assert configs[0] == configs[1]
    assert configs[0].features.input == "ct_clip+colipri"


def test_override_of_inputs_in_hydras_grammar_is_read() -> None:
    text = "data.inputs={ct_clip: {column: c, modality: visual}}"
    found = compose_config([text, "features.input=ct_clip"], where="test")
    assert found.data.modalities == {**BUILT_IN, "ct_clip": "visual"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"features__input": "colipry"}, "unknown input 'colipry'. Did you mean 'colipri'?"),
        ({"features__input": "visual+both"}, "'both' stands alone"),
        ({"features__input": "ct_clip+ct_clip"}, "must name every input once, found 'ct_clip'"),
        ({"features__input": "ct_clip+"}, "must be the name of an input, or several joined"),
        ({"features__input": []}, "must be the name of an input"),
        ({"features__partner": "reports"}, "unknown input 'reports'. Did you mean 'report'?"),
        ({"data__inputs": {"both": INPUTS["report"]}}, "data.inputs: 'both' is reserved"),
        ({"data__inputs": {"targets": INPUTS["report"]}}, "data.inputs: 'targets' is reserved"),
        ({"data__inputs": {"a+b": INPUTS["report"]}}, "must begin with a letter"),
        ({"data__inputs": {}}, "data.inputs: must name at least one input"),
        (
            {"data__inputs": {"a": INPUTS["report"], "b": INPUTS["report"]}},
            "'a' and 'b' must differ in their column",
        ),
        (
            {"data__inputs": {"a": {"column": "c", "modality": "image"}}},
            "data.inputs.a.modality: input should be 'visual' or 'text', found 'image'",
        ),
        (
            {"data__inputs": {"a": {"colum": "c", "modality": "text"}}},
            "data.inputs.a.colum: unknown key 'colum'. Did you mean 'column'?",
        ),
    ],
)
def test_wrong_inputs_are_refused_in_one_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config(**values)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_config_with_inputs_is_parsed_from_its_own_plain_data_and_hashes_all_of_them() -> None:
    found = config(features__input="ct_clip+report")
    assert parse_config(found.model_dump(mode="json"), where="test") == found
    other = config(data__inputs={**INPUTS, "more": {"column": "m", "modality": "text"}})
    assert other.fingerprint() != config().fingerprint()


MODALITIES = {**BUILT_IN, "ct_clip": "visual", "colipri": "visual", "report": "text"}


@pytest.mark.parametrize(
    ("feature_input", "partner", "visual", "text"),
    [
        ("visual", None, ("visual",), ("text",)),
        ("both", None, ("visual",), ("text",)),
        ("text", "colipri", ("colipri",), ("text",)),
        ("ct_clip", None, ("ct_clip",), ("report",)),
        ("report", "colipri", ("colipri",), ("report",)),
        ("report+ct_clip+colipri", None, ("ct_clip", "colipri"), ("report",)),
    ],
)
def test_paired_inputs_of_retrieval_heads(feature_input, partner, visual, text) -> None:
    sides = paired_inputs(feature_input, partner, MODALITIES)
    assert sides == {"visual": visual, "text": text}
    values = {"features__input": feature_input, "features__partner": partner}
    assert required_inputs(config(head__kind="linear", **values)) == input_names(feature_input)


@pytest.mark.parametrize(
    ("feature_input", "partner", "message"),
    [
        ("report", None, "features.partner must name the visual input .* ct_clip, colipri"),
        ("ct_clip", "colipri", "must be a text input .* found the visual input 'colipri'"),
    ],
)
def test_retrieval_head_without_a_clear_partner_is_refused(feature_input, partner, message) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_config(
            [
                "head=retrieval",
                f"features.input={feature_input}",
                f"features.partner={partner or 'null'}",
            ],
            where="test",
            given={"data.inputs": INPUTS},
        )


def space(*choices: object) -> dict[str, object]:
    return {
        "base": ["head=linear", {"data.inputs": INPUTS}],
        "space": {"features.input": {"type": "categorical", "choices": list(choices)}},
    }


def test_space_with_a_list_of_inputs_holds_the_joined_text(tmp_path) -> None:
    spec = make_spec(tmp_path, **space("ct_clip", "colipri", ["ct_clip", "colipri"]))
    assert spec.space["features.input"].choices == ("ct_clip", "colipri", "ct_clip+colipri")


def test_space_with_an_unknown_input_names_the_choice(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"choices\[1\]: features.input: unknown input 'colipry'"):
        make_spec(tmp_path, **space("ct_clip", "colipry"))


def test_space_with_a_choice_and_its_list_is_refused(tmp_path) -> None:
    with pytest.raises(StudyError, match="choices must differ"):
        make_spec(tmp_path, **space("ct_clip+colipri", ["ct_clip", "colipri"]))


def test_base_that_is_neither_text_nor_mapping_is_refused(tmp_path) -> None:
    with pytest.raises(StudyError, match="must be a list of key=value texts"):
        make_spec(tmp_path, base=[3])


def test_enqueued_params_may_hold_a_list_of_inputs(tmp_path) -> None:
    study = {
        "name": "probe",
        "n_trials": 4,
        "enqueue": [{"features.input": ["ct_clip", "colipri"]}],
    }
    spec = make_spec(tmp_path, study=study, **space("ct_clip", ["ct_clip", "colipri"]))
    assert spec.enqueue[0]["features.input"] == "ct_clip+colipri"


def test_override_replaces_a_mapping_of_the_base(tmp_path) -> None:
    text = "data.inputs={other: {column: o, modality: text}}"
    spec = make_spec(tmp_path, text, base=["head=linear", {"data.inputs": INPUTS}])
    assert list(spec.config.data.inputs or {}) == ["other"]
