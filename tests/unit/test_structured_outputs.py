"""StructuredOutputs: what may be asked for, what is refused and how that is said, before any model is there."""

from __future__ import annotations

import json
import pickle
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptwo import BeamParams, SamplingParams, StructuredOutputs
from gptwo.errors import InvalidRequestError
from gptwo.sampling.regex_check import regex_fault

SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"enum": [1, None, "é"]}}}
EXAMPLES: list[dict[str, Any]] = [
    {"json_schema": SCHEMA},
    {"json_schema": True},
    {"json_schema": False},
    {"regex": r"\d{4}-\d\d"},
    {"choice": ["yes", "no"]},
    {"grammar": 'start: "a" start | "b"'},
    {"json_object": True},
]


def refusal(values: Any) -> str:
    """What SamplingParams says to such a value; always the same type of error, about the same parameter."""
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParams(structured_outputs=values)
    assert caught.value.param == "structured_outputs"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def nested(depth: int, inner: Any = True) -> Any:
    value = inner
    for _ in range(depth):
        value = {"items": value}
    return value


@pytest.mark.parametrize("values", EXAMPLES, ids=str)
def test_what_is_asked_for_comes_back_from_plain_values(values: dict[str, Any]) -> None:
    wanted = StructuredOutputs(**values)
    assert wanted.to_dict() == values
    assert StructuredOutputs.from_dict(json.loads(json.dumps(values))) == wanted
    params = SamplingParams(structured_outputs=values)
    assert params.structured_outputs == wanted
    assert params.to_dict() == {"structured_outputs": values}
    assert SamplingParams.from_dict(params.to_dict()) == params == SamplingParams(structured_outputs=wanted)
    assert pickle.loads(pickle.dumps(params)) == params  # noqa: S301
    assert len({params, SamplingParams(structured_outputs=values)}) == 1


def test_a_schema_may_be_json_and_keeps_the_order_of_its_properties() -> None:
    as_text = StructuredOutputs(json_schema=json.dumps(SCHEMA, indent=3))
    assert as_text == StructuredOutputs(json_schema=SCHEMA)
    properties = {"properties": {"b": {}, "a": {}}}
    assert StructuredOutputs(json_schema=properties).json_schema == '{"properties":{"b":{},"a":{}}}'


def test_vllms_name_for_a_schema_is_known_and_null_is_nothing() -> None:
    values = {"json": SCHEMA, "regex": None, "choice": None, "grammar": None, "json_object": None}
    assert StructuredOutputs.from_dict(values) == StructuredOutputs(json_schema=SCHEMA)
    assert "json and json_schema" in refusal({"json": SCHEMA, "json_schema": SCHEMA})


def test_choices_that_are_equal_are_one() -> None:
    assert StructuredOutputs(choice=["a", "b", "a"]).choice == ("a", "b")


def test_beams_do_not_know_of_it() -> None:
    with pytest.raises(InvalidRequestError, match="no parameter 'structured_outputs'"):
        BeamParams(structured_outputs={"regex": "a"})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "has nothing, expected exactly one of json_schema, regex, choice, grammar or json_object"),
        ({"json_object": False}, "has nothing"),
        ({"regex": "a", "choice": ["b"]}, "has regex and choice, expected exactly one"),
        ({"json_schema": False, "regex": "b"}, "has json_schema and regex, expected exactly one"),
        ({"regexp": "a"}, "no field 'regexp'; did you mean 'regex'?"),
        ({5: "a"}, "no field 5"),
        ("regex", "is 'regex', expected an object"),
        ([], "is [], expected an object"),
        ({"json_object": 1}, "json_object is 1, expected true or false"),
        ({"json_object": "yes"}, "json_object is 'yes', expected true or false"),
        ({"regex": ""}, "regex is '', expected text"),
        ({"regex": 5}, "regex is 5, expected text"),
        ({"regex": "\ud800"}, "lone surrogate"),
        ({"regex": "a" * 20_000}, "regex has 20,000 characters, expected at most 16,384"),
        ({"grammar": ""}, "grammar is '', expected text"),
        ({"grammar": "a" * 300_000}, "grammar has 300,000 characters"),
        ({"grammar": "start: " + "(" * 60_000}, "nested more than 100 deep"),
        ({"grammar": "start: " + "([{" * 40}, "nested more than 100 deep"),
        ({"choice": []}, "choice is empty"),
        ({"choice": "yes"}, "choice is 'yes', expected a list"),
        ({"choice": ["a", 5]}, "choice is 5, expected text"),
        ({"choice": ["a", ""]}, "choice is '', expected text"),
        ({"choice": ["a"] * 10_001}, "choice has 10,001 texts, expected at most 10,000"),
        ({"choice": ["a" * 200_000, "b" * 200_000]}, "choice has 400,000 characters"),
        ({"json_schema": 5}, "json_schema is 5, expected an object"),
        ({"json_schema": "5"}, "json_schema is 5, expected an object"),
        ({"json_schema": "{"}, "json_schema is not JSON"),
        ({"json_schema": '{"minimum": NaN}'}, "json_schema is not JSON (NaN is no JSON)"),
        ({"json_schema": {"minimum": float("inf")}}, "cannot be written as JSON"),
        ({"json_schema": {"x": {1, 2}}}, "cannot be written as JSON (it holds {1, 2})"),
        ({"json_schema": {"x": {1: 2}}}, "has the key 1, expected text"),
        ({"json_schema": {"const": "\ud800"}}, "lone surrogate"),
        ({"json_schema": nested(100)}, "nested more than 100 deep"),
        ({"json_schema": json.dumps(nested(101))}, "nested more than 100 deep"),
        ({"json_schema": "[" * 100_000}, "json_schema is n"),
        ({"json_schema": '{"enum":' + "[" * 60_000 + "]" * 60_000 + "}"}, "nested more than 100 deep"),
        ({"json_schema": {"enum": ["x" * 300_000]}}, "json_schema has 300,013 characters"),
        ({"json_schema": {"enum": list(range(300_000))}}, "more than 262,144 values"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_sentence(values: Any, said: str) -> None:
    assert said in refusal(values)


def test_a_schema_that_holds_itself_is_refused() -> None:
    schema: dict[str, Any] = {}
    schema["items"] = schema
    assert "nested more than 100 deep" in refusal({"json_schema": schema})
    level: Any = True
    for _ in range(60):  # 2^60 values, few in memory
        level = [level, level]
    assert "more than 262,144 values" in refusal({"json_schema": {"enum": level}})


# ---- regular expressions


@pytest.mark.parametrize(
    "regex",
    [
        "foo*",
        r"a*?b+?c??d{2}?",
        r"\**\+*\?*\{*",
        "[*+?{}]+",
        "[]*]+[^]*]+[[:alpha:]*&&[^x]]*",
        r"\p{Greek}*\x{41}+\u{41}?",
        "(?:a*)*(?P<n>b+)+",
        "a{1,3}|b{2,}",
        "a{}b{,}",
        r"[\]]*",
        ")*",
        "*",
        "(",
        "a{100000}",
        "(" * 100 + ")" * 100,
    ],
)
def test_expressions_that_repeat_within_reason_pass(regex: str) -> None:
    assert regex_fault(regex) is None


@pytest.mark.parametrize(
    "regex", ["foo**", "a+*", "a?+", "a{2}{3}", "(a)*{2}", "a*??", "[*]**", r"\*+*", "a*?*", "|a**"]
)
def test_a_repeat_of_a_repeat_is_a_mistake_as_it_is_elsewhere(regex: str) -> None:
    assert "repeats a repeat at character" in str(regex_fault(regex))
    if "{" not in regex and "?" not in regex and not regex.endswith("+"):
        with pytest.raises(re.error, match="multiple repeat"):
            re.compile(regex)
    assert "repeats a repeat" in refusal({"regex": regex})


@pytest.mark.parametrize(
    "regex",
    ["(a{1000}){1000}", "((a{100}){100}){100}", "a{100001}", "a{4294967295}", "((ab?){0,400}){0,400}", "a{9999999999}"],
)
def test_an_expression_of_absurd_size_is_refused(regex: str) -> None:
    assert "more than 100,000 characters and classes" in refusal({"regex": regex})


def test_groups_that_are_nested_too_deep_are_refused() -> None:
    assert "nested more than 100 deep" in refusal({"regex": "(" * 8000 + "a" + ")" * 8000})
    assert "characters, expected at most" in refusal({"regex": "(" * 60_000 + "a" + ")" * 60_000})


@given(st.text(st.sampled_from("ab(){}[]|*+?\\^$.,19:<>pPx-&"), max_size=40))
def test_any_text_is_looked_at_without_an_exception(text: str) -> None:
    fault = regex_fault(text)
    assert fault is None or "\n" not in fault
