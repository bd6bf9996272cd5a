"""Options made from the fields of dataclasses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import click
import pytest
from click.testing import CliRunner

from gptwo.cli.generation import (
    DEFAULT_MAX_TOKENS,
    generation_options,
    generation_parameters,
    make_params,
    misplaced,
    with_length,
)
from gptwo.cli.parameters import SectionedCommand, given, parameters_of
from gptwo.config import GPTConfig
from gptwo.options import boolean, check_options, integer, option, text
from gptwo.sampling import BeamParams, SamplingParams, StructuredOutputs

FIELDS = {field.name for cls in (SamplingParams, BeamParams) for field in dataclasses.fields(cls)}

# What a person types, and the value that it means.
TYPED: list[tuple[str, str, Any]] = [
    ("max_tokens", "40", 40),
    ("max_tokens", "none", None),
    ("min_tokens", "3", 3),
    ("repetition_penalty", "1.1", 1.1),
    ("frequency_penalty", "-2", -2.0),
    ("presence_penalty", "1e-1", 0.1),
    ("no_repeat_ngram_size", "3", 3),
    ("logit_bias", "50256=-100, 11=2.5", {50256: -100.0, 11: 2.5}),
    ("allowed_token_ids", "1,2 3", (1, 2, 3)),
    ("allowed_token_ids", "none", None),
    ("bad_words", '["bad", [1, 2]]', ("bad", (1, 2))),
    ("bad_words", "bad", ("bad",)),
    ("stop_token_ids", "7", (7,)),
    ("ignore_eos", "yes", True),
    ("n", "2", 2),
    ("best_of", "3", 3),
    ("temperature", "0.8", 0.8),
    ("top_k", "40", 40),
    ("top_p", "0.9", 0.9),
    ("min_p", ".05", 0.05),
    ("typical_p", "0.5", 0.5),
    ("stop", r'"\n\n"', ("\n\n",)),
    ("stop", "The End", ("The End",)),
    ("stop", "none", ()),
    ("include_stop_str_in_output", "true", True),
    ("seed", "-1", -1),
    ("logprobs", "5", 5),
    ("prompt_logprobs", "0", 0),
    ("overflow", "slide", "slide"),
    ("speculate", "8", 8),
    ("structured_outputs", '{"choice": ["a"]}', StructuredOutputs(choice=["a"])),
    ("structured_outputs", "none", None),
    ("num_beams", "3", 3),
    ("length_penalty", "0.8", 0.8),
    ("early_stopping", "never", "never"),
    ("early_stopping", "true", True),
    ("early_stopping", "False", False),
    ("num_return_sequences", "2", 2),
]


def test_every_field_of_both_kinds_of_parameters_is_tried_here() -> None:
    assert {name for name, _, _ in TYPED} == FIELDS


@pytest.mark.parametrize(("name", "typed", "value"), TYPED)
def test_what_is_typed_becomes_the_value_that_it_means(name: str, typed: str, value: Any) -> None:
    cls = SamplingParams if name in parameters_of(SamplingParams) else BeamParams
    params = cls(**{name: parameters_of(cls)[name].parse(typed)})
    assert getattr(params, name) == value


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("max_tokens", "many"),
        ("temperature", "warm"),
        ("n", "1.5"),
        ("n", "none"),
        ("ignore_eos", "maybe"),
        ("overflow", "wrap"),
        ("early_stopping", "sometimes"),
        ("stop_token_ids", "1,x"),
        ("logit_bias", "5"),
        ("logit_bias", "5=x"),
        ("stop", '["unclosed'),
        ("stop", "[" * 100_000),
        ("structured_outputs", "5"),
        ("structured_outputs", "{"),
        ("structured_outputs", "[" * 100_000),
    ],
)
def test_what_is_nothing_of_the_kind_is_refused(name: str, typed: str) -> None:
    cls = SamplingParams if name in parameters_of(SamplingParams) else BeamParams
    with pytest.raises(ValueError):
        parameters_of(cls)[name].parse(typed)


def test_there_is_one_option_for_each_field_and_its_help_is_the_fields() -> None:
    options = {option.name: option for option in generation_options()}
    assert options.keys() | {"structured_outputs"} == FIELDS == generation_parameters().keys()
    for cls in (SamplingParams, BeamParams):
        for field in dataclasses.fields(cls):
            if field.name == "structured_outputs":  # which has several, in gptwo.cli.structured
                continue
            found = options[field.name]
            assert isinstance(found, click.Option)
            assert f"--{field.name.replace('_', '-')}" in found.opts
            assert (found.help or "").startswith(field.metadata["help"])


def run(arguments: list[str], *params: click.Parameter) -> tuple[dict[str, Any], str, int]:
    found: dict[str, Any] = {}

    @click.command(cls=SectionedCommand, params=list(params or generation_options()))
    def command(**_: Any) -> None:
        found.update(given(click.get_current_context(), [p.name or "" for p in params] or FIELDS))

    outcome = CliRunner().invoke(command, arguments)
    return found, outcome.output, outcome.exit_code


def test_only_the_options_that_were_given_have_values() -> None:
    assert run([])[0] == {}
    values, _, _ = run(["--temperature", "0.5", "--ignore-eos", "--max-tokens", "none", "--n", "1"])
    assert values == {"temperature": 0.5, "ignore_eos": True, "max_tokens": None, "n": 1}


def test_options_for_lists_may_be_given_again() -> None:
    arguments = ["--stop", "[a]", "--stop", " b", "--stop-token-ids", "1,2", "--stop-token-ids", "3"]
    biases = ["--logit-bias", "1=2,2=3", "--logit-bias", "1=5"]
    assert run(arguments + biases)[0] == {
        "stop": ["[a]", " b"],
        "stop_token_ids": [1, 2, 3],
        "logit_bias": {1: 5.0, 2: 3.0},
    }
    assert run(["--allowed-token-ids", "1", "--allowed-token-ids", "none"])[0] == {"allowed_token_ids": None}


def test_beams_is_short_for_num_beams() -> None:
    assert run(["--beams", "3"])[0] == run(["--num-beams", "3"])[0] == {"num_beams": 3}


@pytest.mark.parametrize("arguments", [["--temperature", "warm"], ["--n", "1.5"], ["--overflow", "wrap"], ["--seed"]])
def test_a_value_of_the_wrong_kind_is_wrong_usage(arguments: list[str]) -> None:
    _, output, code = run(arguments)
    assert code == 2
    assert arguments[0] in output


def test_help_lists_each_option_under_its_heading() -> None:
    help_text = run(["--help"])[1]
    headings = [line for line in help_text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Sampling and beam search:", "Sampling:", "Beam search:", "Options:"]
    assert help_text.index("--max-tokens") < help_text.index("--temperature") < help_text.index("--length-penalty")


def test_any_dataclass_of_options_can_have_its_options() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Oven:
        dish: str = option("pie", text, "What to bake.")
        degrees: int = option(180, integer(0), "How hot.")
        fan: bool = option(True, boolean, "Move the air.")

        def __post_init__(self) -> None:
            check_options(self)

    # Annotations here are text that names no module's globals, so the types are given as they are.
    Oven.__annotations__.update(dish=str, degrees=int, fan=bool)
    options = [parameter.option("Oven") for parameter in parameters_of(Oven).values()]
    values, _, code = run(["--dish", "flan", "--no-fan", "--degrees", "90"], *options)
    assert (values, code) == ({"dish": "flan", "fan": False, "degrees": 90}, 0)


def test_beams_choose_the_kind_of_parameters() -> None:
    assert make_params({"num_beams": 2, "max_tokens": 3}) == BeamParams(num_beams=2, max_tokens=3)
    assert make_params({"top_p": 0.5}) == SamplingParams(top_p=0.5)


def test_a_parameter_of_the_other_kind_is_named() -> None:
    assert misplaced(["top_p", "seed", "max_tokens"]) is None
    assert misplaced(["num_beams", "length_penalty", "max_tokens"]) is None
    assert misplaced(["num_beams", "top_p"]) == "--top-p is for sampling, and --beams searches instead"
    assert misplaced(["length_penalty"]) == "--length-penalty is for beam search, which needs --beams"


class Model:
    """As much of a LanguageModel as has to do with lengths; a token for each character."""

    config = GPTConfig(n_positions=120, n_embd=8, n_head=2, n_layer=1)

    class tokenizer:  # noqa: N801 - stands for an instance
        encode = staticmethod(list)

        @staticmethod
        def certainly_exceeds(text: str, tokens: int) -> bool:
            return len(text) > tokens


@pytest.mark.parametrize(
    ("values", "prompt", "expected"),
    [
        ({}, "", DEFAULT_MAX_TOKENS),
        ({}, "x" * 20, DEFAULT_MAX_TOKENS),
        ({}, "x" * 70, 50),
        ({}, [1] * 119, 1),
        ({}, "x" * 120, DEFAULT_MAX_TOKENS),  # too long in any case, which generating says
        ({"overflow": "slide"}, "x" * 119, DEFAULT_MAX_TOKENS),
        ({"min_tokens": 110}, "", 110),
        ({"max_tokens": 500}, "x" * 70, 500),
        ({"max_tokens": None}, "x" * 70, None),
    ],
)
def test_without_a_length_as_much_is_generated_as_the_context_holds(
    values: dict[str, Any], prompt: Any, expected: int | None
) -> None:
    assert with_length(values, Model(), prompt) == {**values, "max_tokens": expected}  # type: ignore[arg-type]


def test_an_empty_prompt_takes_one_position_for_the_token_that_begins_a_text() -> None:
    model = Model()
    model.config = GPTConfig(n_positions=60, n_embd=8, n_head=2, n_layer=1)
    assert with_length({}, model, "") == {"max_tokens": 59}  # type: ignore[arg-type]
