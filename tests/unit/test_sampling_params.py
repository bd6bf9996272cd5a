"""SamplingParams and BeamParams: what they accept, what they refuse and how they say so."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import math
import pickle
import re
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptwo.errors import InvalidRequestError
from gptwo.sampling import BeamParams, SamplingParams

KINDS = [SamplingParams, BeamParams]

FULL_SAMPLING = SamplingParams(
    n=2,
    best_of=3,
    max_tokens=9,
    min_tokens=1,
    temperature=0.5,
    top_k=7,
    top_p=0.9,
    min_p=0.1,
    typical_p=0.8,
    repetition_penalty=1.1,
    frequency_penalty=0.2,
    presence_penalty=-0.3,
    no_repeat_ngram_size=3,
    logit_bias={5: -100, 7: 2.5},
    allowed_token_ids=[5, 6, 7],
    bad_words=["bad", [1, 2]],
    stop=["\n\n", "END"],
    stop_token_ids=[3],
    include_stop_str_in_output=True,
    ignore_eos=True,
    seed=-4,
    logprobs=2,
    prompt_logprobs=0,
    overflow="slide",
    speculate=4,
    structured_outputs={"regex": "a+"},
)


def refusal(kind, **values) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        kind(**values)
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_has_one_line_of_help(kind):
    helps = kind.field_help()
    assert list(helps) == [field.name for field in dataclasses.fields(kind)]
    for text in helps.values():
        assert "\n" not in text
        assert 15 < len(text) <= 110
        assert text.endswith(".")


def test_the_parameters_are_those_of_the_interface():
    shared = (
        "max_tokens min_tokens repetition_penalty frequency_penalty presence_penalty no_repeat_ngram_size logit_bias "
        "allowed_token_ids bad_words stop_token_ids ignore_eos"
    )
    sampling = (
        "n best_of temperature top_k top_p min_p typical_p stop include_stop_str_in_output seed logprobs "
        "prompt_logprobs overflow speculate structured_outputs"
    )
    assert " ".join(SamplingParams.field_help()) == f"{shared} {sampling}"
    beams = "num_beams length_penalty early_stopping num_return_sequences"
    assert " ".join(BeamParams.field_help()) == f"{shared} {beams}"


def test_the_signature_names_every_parameter():
    assert "top_p" in inspect.signature(SamplingParams).parameters


@pytest.mark.parametrize("kind", KINDS)
def test_params_are_frozen_equal_and_hashable(kind):
    params = kind(logit_bias={1: 2})
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.max_tokens = 3
    assert params == kind(logit_bias={1: 2.0})
    assert hash(params) == hash(kind(logit_bias={1: 2.0}))
    assert params != kind()


@pytest.mark.parametrize("params", [FULL_SAMPLING, BeamParams(num_beams=3, early_stopping="never", logit_bias={1: 1})])
def test_params_survive_copy_pickle_replace_and_json(params):
    assert copy.copy(params) == params
    assert copy.deepcopy(params) == params
    assert pickle.loads(pickle.dumps(params)) == params  # noqa: S301 - our own bytes
    assert dataclasses.replace(params) == params
    assert type(params).from_dict(params.to_dict()) == params
    assert type(params).from_dict(json.loads(json.dumps(params.to_dict()))) == params


def test_to_dict_holds_only_what_differs_from_the_default():
    assert SamplingParams().to_dict() == {}
    assert SamplingParams(temperature=0, stop="x", logit_bias={5: 1}).to_dict() == {
        "temperature": 0.0,
        "stop": ["x"],
        "logit_bias": {"5": 1.0},
    }
    assert len(FULL_SAMPLING.to_dict()) == len(SamplingParams.field_help())


def test_an_unknown_name_is_refused_with_the_nearest_known_one():
    error = refusal(SamplingParams, topp=1)
    assert str(error) == "SamplingParams has no parameter 'topp'; did you mean 'top_p'?"
    assert error.param == "topp"
    error = refusal(BeamParams, beams=3)
    assert "'num_beams'" in str(error)
    assert refusal(SamplingParams, num_beams=3).param == "num_beams"


def test_an_unknown_name_is_refused_by_replace_and_from_dict_too():
    with pytest.raises(InvalidRequestError, match="did you mean 'temperature'"):
        dataclasses.replace(SamplingParams(), temprature=1)
    with pytest.raises(InvalidRequestError, match="did you mean 'max_tokens'"):
        SamplingParams.from_dict({"max_token": 1})
    with pytest.raises(InvalidRequestError, match="expected text"):
        SamplingParams.from_dict({3: 1})
    with pytest.raises(InvalidRequestError, match="expected an object"):
        SamplingParams.from_dict([("n", 1)])


def test_replace_checks_again():
    with pytest.raises(InvalidRequestError, match="temperature is -1"):
        dataclasses.replace(SamplingParams(), temperature=-1)


HUGE = pytest.param(10**5000, id="huge")  # more digits than Python prints
INTEGERS = [
    "max_tokens",
    "min_tokens",
    "no_repeat_ngram_size",
    "n",
    "best_of",
    "top_k",
    "seed",
    "logprobs",
    "speculate",
]
NUMBERS = ["temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "frequency_penalty", "presence_penalty"]
FLAGS = ["ignore_eos", "include_stop_str_in_output"]
LISTS = ["allowed_token_ids", "stop_token_ids", "bad_words", "logit_bias"]


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize(
    "value", [True, 1.0, "1", [1], math.nan, 10**30, -(10**30), HUGE, pytest.param(object(), id="object")]
)
def test_an_integer_parameter_takes_integers_only(name, value):
    error = refusal(SamplingParams, **{name: value})
    assert error.param == name
    assert str(error).startswith(f"{name} is ")
    assert "expected an integer from" in str(error)
    assert len(str(error)) < 200


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [True, "1", None, [1.0], math.nan, math.inf, -math.inf, HUGE, 1j, np.bool_(True)])
def test_a_number_parameter_takes_finite_numbers_only(name, value):
    error = refusal(SamplingParams, **{name: value})
    assert error.param == name
    assert str(error).startswith(f"{name} is ")
    assert re.search("expected a (finite )?number", str(error))


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", [0, 1, None, "true", np.bool_(True)])
def test_a_flag_takes_true_and_false_only(name, value):
    assert refusal(SamplingParams, **{name: value}).param == name


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("value", [5, 1.5, True, [True], [1.5], [math.nan], b"12", {"a": 1}])
def test_a_list_parameter_says_what_it_holds(name, value):
    assert refusal(SamplingParams, **{name: value}).param == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.01),
        ("top_k", -2),
        ("top_p", 1.01),
        ("top_p", -0.01),
        ("min_p", 1.5),
        ("typical_p", 0.0),
        ("typical_p", 1.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", -1.0),
        ("frequency_penalty", 2.1),
        ("presence_penalty", -2.1),
        ("n", 0),
        ("n", 10**6),
        ("best_of", 129),
        ("max_tokens", -1),
        ("min_tokens", -1),
        ("no_repeat_ngram_size", -1),
        ("logprobs", -1),
        ("prompt_logprobs", -1),
        ("seed", 2**64),
        ("seed", -(2**63) - 1),
        ("overflow", "slip"),
        ("overflow", None),
        ("logit_bias", {5: 100.5}),
        ("logit_bias", {5: math.nan}),
        ("logit_bias", {5: True}),
        ("logit_bias", {5: None}),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {True: 1.0}),
        ("logit_bias", {"-1": 1.0}),
        ("logit_bias", {"1.5": 1.0}),
        ("logit_bias", {"": 1.0}),
        ("logit_bias", {"٣": 1.0}),
        ("logit_bias", {"9" * 5000: 1.0}),
        ("logit_bias", {"5": 1.0, 5: 2.0}),
        ("logit_bias", [[5, 1.0]]),
        ("allowed_token_ids", []),
        ("allowed_token_ids", [-1]),
        ("allowed_token_ids", "12"),
        ("stop_token_ids", [2**31]),
        ("stop_token_ids", 5),
        ("bad_words", [""]),
        ("bad_words", [[]]),
        ("bad_words", [5, 6]),
        ("bad_words", [["word"]]),
        ("bad_words", ["x"] * 10_001),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stop", [5]),
        ("stop", 5),
        ("stop", {"a": 1}),
        ("stop", "x" * 4097),
        ("stop", ["x"] * 1025),
    ],
)
def test_a_value_out_of_range_names_the_parameter(name, value):
    error = refusal(SamplingParams, **{name: value})
    assert error.param == name
    assert str(error).startswith(name)
    assert "expected" in str(error) or "twice" in str(error)
    assert len(str(error)) < 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_beams", 0),
        ("num_beams", True),
        ("length_penalty", math.nan),
        ("length_penalty", 11),
        ("early_stopping", "always"),
        ("early_stopping", 1),
        ("early_stopping", 0),
        ("early_stopping", None),
        ("num_return_sequences", 0),
        ("num_return_sequences", 5),
    ],
)
def test_a_beam_value_out_of_range_names_the_parameter(name, value):
    assert refusal(BeamParams, **{name: value}).param == name


def test_parameters_that_contradict_each_other_are_refused():
    error = refusal(SamplingParams, n=3, best_of=2)
    assert (str(error), error.param) == ("best_of is 2, expected at least n, which is 3", "best_of")
    error = refusal(SamplingParams, min_tokens=5, max_tokens=4)
    assert (str(error), error.param) == ("min_tokens is 5, expected at most max_tokens, which is 4", "min_tokens")
    error = refusal(BeamParams, num_beams=2, num_return_sequences=3)
    assert "at most num_beams, which is 2" in str(error)
    assert SamplingParams(min_tokens=100, max_tokens=None).min_tokens == 100


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 0},
        {"temperature": 100.0},
        {"temperature": 5e-324},
        {"top_k": 10**6},
        {"top_p": 0},
        {"max_tokens": 0},
        {"max_tokens": None},
        {"n": 128, "best_of": 128},
        {"seed": -(2**63)},
        {"seed": 2**64 - 1},
        {"logprobs": 0},
        {"frequency_penalty": -2, "presence_penalty": 2},
    ],
)
def test_the_ends_of_the_ranges_are_accepted(values):
    params = SamplingParams(**values)
    for name, value in values.items():
        assert getattr(params, name) == value


def test_values_come_out_in_their_normal_form():
    params = SamplingParams(
        temperature=np.float32(0.5),
        top_k=-1,
        max_tokens=np.int64(3),
        stop="end",
        stop_token_ids=np.array([5, 4, 5]),
        allowed_token_ids=range(3),
        bad_words=["word", [1, 2], np.array([3])],
        logit_bias={"50256": -100, 7: 1},
    )
    assert params.temperature == 0.5
    assert type(params.temperature) is float
    assert params.top_k == 0
    assert type(params.max_tokens) is int
    assert params.stop == params.stop_strings == ("end",)
    assert params.stop_token_ids == (5, 4)
    assert params.allowed_token_ids == (0, 1, 2)
    assert params.bad_words == ("word", (1, 2), (3,))
    assert params.logit_bias == {50256: -100.0, 7: 1.0}
    assert SamplingParams(bad_words="word").bad_words == ("word",)


def test_none_in_place_of_a_list_is_an_empty_one():
    params = SamplingParams(stop=None, stop_token_ids=None, bad_words=None, logit_bias={})
    assert params == SamplingParams()
    assert params.stop_strings == params.stop_token_ids == params.bad_words == ()
    assert params.logit_bias is None


def test_later_changes_to_what_was_given_change_nothing():
    bias, stop = {1: 2.0}, ["a"]
    params = SamplingParams(logit_bias=bias, stop=stop)
    bias[9] = 1.0
    stop.append("b")
    assert params == SamplingParams(logit_bias={1: 2.0}, stop=["a"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logit_bias", {10: 1}),
        ("allowed_token_ids", [1, 10]),
        ("stop_token_ids", [10]),
        ("bad_words", ["text", [1, 10]]),
        ("logprobs", 11),
        ("prompt_logprobs", 11),
    ],
)
def test_ids_outside_the_vocabulary_are_refused(name, value):
    params = SamplingParams(**{name: value})
    with pytest.raises(InvalidRequestError, match=name) as caught:
        params.check_vocabulary(10)
    assert caught.value.param == name
    assert "10" in str(caught.value)
    params.check_vocabulary(11)


def test_beam_params_check_the_vocabulary_too():
    with pytest.raises(InvalidRequestError, match="stop_token_ids has token 10, expected ids below 10"):
        BeamParams(stop_token_ids=[10]).check_vocabulary(10)


def test_a_deep_or_failing_value_still_gives_one_line():
    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    deep: list = []
    for _ in range(sys.getrecursionlimit() * 2):
        deep = [deep]
    for value in (Hostile(), deep, "two\nlines", [10**5000]):
        message = str(refusal(SamplingParams, temperature=value))
        assert "\n" not in message
        assert message.startswith("temperature is ")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab1 \x00é", max_size=3)
JSON_VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.sampled_from(["1", "x"]), SCALARS)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(kind=st.sampled_from(KINDS), data=st.data())
def test_any_json_gives_params_or_an_error_that_names_the_parameter(kind, data):
    names = st.sampled_from(list(kind.field_help()))
    values = data.draw(st.dictionaries(names, JSON_VALUES, max_size=2))
    refused = None
    try:
        params = kind.from_dict(values)
    except InvalidRequestError as error:
        refused = error
    if refused is None:
        assert kind.from_dict(json.loads(json.dumps(params.to_dict()))) == params
    else:
        assert refused.param in {*values, "best_of", "min_tokens", "num_return_sequences"}
