"""JSON of others is parsed as the standard library does it, except for deep nesting."""

from __future__ import annotations

import gc
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headsweep.json_text import MOST_NESTED, parse_json

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet='[]{}"\\a\n')
VALUES = st.recursive(LEAVES, lambda v: st.lists(v) | st.dictionaries(st.text('"[\\'), v))


@given(VALUES, st.booleans())
def test_parse_json_of_any_value_equals_the_standard_library(value, many):
    """Also with more brackets than the limit, side by side."""
    text = json.dumps([value] * MOST_NESTED if many else value)
    assert repr(parse_json(text)) == repr(json.loads(text))


@pytest.mark.parametrize("opened", ["[", '{"a":', '[{"]]}}\\"]":'])
def test_parse_json_nests_as_deep_as_the_limit(opened):
    levels = opened.count("[", 0, 1) + opened.count("{", 0, 2)
    n = MOST_NESTED // levels
    closed = "".join({"[": "]", "{": "}"}[c] for c in reversed(opened[:levels]))
    text = opened * n + "1" + closed * n
    assert parse_json(text) == json.loads(text)
    with pytest.raises(ValueError, match="nested deeper than 100"):
        parse_json("[" + text + "]")


@pytest.mark.parametrize("text", ["[" * 100_000, '"\\' * 100_000, "[" * 101 + '"', '{"a":' * 5000])
def test_parse_json_of_unfinished_text_raises_value_error_at_once(text):
    with pytest.raises(ValueError, match=r"nested deeper|Invalid|Unterminated|Expecting|Extra"):
        parse_json(text)


class _Counted:
    """Garbage whose finalizer needs some stack."""

    finalized = 0

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        def descend(n: int) -> None:
            if n:
                descend(n - 1)

        descend(50)
        type(self).finalized += 1


def test_parse_json_of_deep_text_leaves_room_for_finalizers():
    """Collect garbage after every number of lists that fits into the stack."""
    before = gc.get_threshold()
    gc.collect()
    _Counted.finalized = made = 0
    try:
        for room in range(700, 1001, 10):
            gc.disable()
            _Counted()
            made += 1
            gc.set_threshold(gc.get_count()[0] + room)
            gc.enable()
            with pytest.raises(ValueError):
                parse_json("[" * 100_000)
        gc.collect()
    finally:
        gc.set_threshold(*before)
    assert _Counted.finalized == made
