"""Schemas, expressions and grammars that mean harm, or nothing: an error or an answer, soon, and never a crash."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tiny_models import TOKENIZER, ToyDecoder, answer, tiny_config

from gptwo.engine import Engine
from gptwo.errors import GptwoError, InvalidRequestError
from gptwo.sampling import SamplingParams, StructuredOutputs, grammar, grammar_trial
from gptwo.sampling.grammar import compile_grammar
from gptwo.sampling.grammar_trial import TOO_EXPENSIVE, Trial

CONFIG = tiny_config(n_positions=500)


def outcome(wanted: dict[str, Any], seed: int = 1) -> str:
    """How a request ends: how its text finishes, or what is said of it, in one sentence about this parameter."""
    try:
        params = SamplingParams(structured_outputs=wanted, max_tokens=30, seed=seed)
        engine = Engine(ToyDecoder(CONFIG), TOKENIZER)
        return answer(engine, engine.add([1], params)).finish_reason
    except InvalidRequestError as error:
        found = error
    assert found.param == "structured_outputs"
    assert "\n" not in str(found)
    assert len(str(found)) < 400
    return str(found)


def chain(count: int, link: Callable[[int], Any]) -> dict[str, Any]:
    """A schema of references, each to the next."""
    links = {f"a{i}": link(i + 1) for i in range(count)}
    return {"$ref": "#/$defs/a0", "$defs": {**links, f"a{count}": {"type": "string"}}}


def rules(count: int, rule: Callable[[int], str], last: str) -> str:
    return "\n".join(["start: R0", *(f"R{i}: {rule(i + 1)}" for i in range(count)), f"R{count}: {last}"])


REF = "#/$defs/a{}".format
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "60,000 brackets in an expression": ({"regex": "(" * 60_000 + ")" * 60_000}, "expected at most"),
    "8,000 brackets in an expression": ({"regex": "(" * 8_000 + ")" * 8_000}, "nested more than 100 deep"),
    "60,000 brackets in a grammar": ({"grammar": "start: " + "(" * 60_000 + '"a"' + ")" * 60_000}, "nested more than"),
    "a repeat of a repeat": ({"regex": "foo**"}, "repeats a repeat"),
    "an exponential expression": ({"regex": "(a{1000}){1000}"}, "more than 100,000 characters"),
    "a group that stays open": ({"regex": "(a"}, "regex cannot be used: unclosed group"),
    "a class that stays open": ({"regex": "[a"}, "regex cannot be used: unclosed character class"),
    "lookahead": ({"regex": "(?=a)b"}, "look-around, including look-ahead and look-behind, is not supported"),
    "a backreference": ({"regex": r"(a)\1"}, "backreferences are not supported"),
    "an expression that nothing matches": ({"regex": r"[^\s\S]"}, "allows no text"),
    "a grammar that is none": ({"grammar": "start"}, "grammar cannot be used"),
    "a grammar without start": ({"grammar": 'a: "b"'}, "grammar cannot be used"),
    "a rule that is not there": ({"grammar": "start: x"}, 'unknown name: "x"'),
    "a quote that stays open": ({"grammar": 'start: "'}, "grammar cannot be used"),
    "a slash alone": ({"grammar": "start: /"}, "grammar cannot be used"),
    "a list of grammars in place of one": ({"grammar": '{"grammars": []}'}, "grammar cannot be used"),
    "rules without an end": ({"grammar": "start: a\na: b\nb: a"}, "allows no text"),
    "a terminal within itself": ({"grammar": 'start: A\nA: A "x" | "y"'}, "circular reference"),
    "terminals that double 40 times": ({"grammar": rules(40, lambda i: f"R{i} R{i}", '"a"')}, "grammar cannot be used"),
    "a chain of 20,000 rules": ({"grammar": rules(15_000, lambda i: f"R{i}", '"a"')}, TOO_EXPENSIVE),
    "a chain of groups": ({"grammar": rules(8_000, lambda i: f'("b" R{i} "c")*', '"a"')}, TOO_EXPENSIVE),
    "a special token": ({"grammar": 'start: "a" <|endoftext|>'}, "unknown special token"),
    "a token that is not there": ({"grammar": "start: <[99999999]>"}, "grammar cannot be used"),
    "a file to import": ({"grammar": "%import /etc/passwd\nstart: passwd"}, "grammar cannot be used"),
    "GBNF that is none": ({"grammar": "root ::= ["}, "Unexpected end of input"),
    "GBNF without its rules": ({"grammar": "root ::= b"}, "read as GBNF"),
    "GBNF of a chain of rules": (
        {"grammar": "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(8_000)) + 'r8000 ::= "a"'},
        "expected at most 8,192 in GBNF",
    ),
    "the schema false": ({"json_schema": False}, "schema is false"),
    "a schema of itself": ({"json_schema": {"$ref": "#"}}, "allows no text"),
    "references in a circle": (
        {"json_schema": {"$ref": REF("a"), "$defs": {"a" * 2: {"$ref": REF("a")}}}},
        "allows no text",
    ),
    "an intersection with itself": (
        {"json_schema": {"$ref": REF(0), "$defs": {"a0": {"allOf": [{"$ref": REF(0)}, {"$ref": REF(0)}]}}}},
        "circular references",
    ),
    "references 8,000 deep": ({"json_schema": chain(8_000, lambda i: {"$ref": REF(i)})}, TOO_EXPENSIVE),
    "arrays by references 4,000 deep": (
        {"json_schema": chain(4_000, lambda i: {"type": "array", "items": {"$ref": REF(i)}})},
        TOO_EXPENSIVE,
    ),
    "a product of alternatives": (
        {
            "json_schema": {
                "allOf": [
                    {"anyOf": [{"properties": {f"p{i}_{j}": {"maxLength": j}}} for j in range(4)]} for i in range(12)
                ]
            }
        },
        "schema too large",
    ),
    "a reference to elsewhere": ({"json_schema": {"$ref": "https://example.com/schema.json"}}, "is not present"),
    "a reference to a file": ({"json_schema": {"$ref": "file:///etc/passwd"}}, "is not present"),
    "a schema from elsewhere": ({"json_schema": {"$schema": "http://example.com/"}}, "is not present"),
    "a pattern that is none": ({"json_schema": {"type": "string", "pattern": "("}}, "json_schema cannot be used"),
    "a key that is not supported": ({"json_schema": {"not": {"type": "string"}}}, "Unimplemented keys"),
    "a type that is none": ({"json_schema": {"type": "strin"}}, "Invalid type: strin"),
    "an empty range": ({"json_schema": {"type": "integer", "minimum": 9, "maximum": 5}}, "Unsatisfiable schema"),
    "a huge prime": ({"json_schema": {"type": "integer", "multipleOf": 982451653}}, "json_schema cannot be used"),
    "spaces of absurd size": (
        {"json_schema": {"x-guidance": {"whitespace_pattern": "("}, "type": "object"}},
        "json_schema cannot be used",
    ),
}

HARMLESS: dict[str, dict[str, Any]] = {
    "left recursion": {"grammar": 'start: start "a" | "a"'},
    "ambiguity": {"grammar": 'start: s\ns: s s s | s s | "a" | "b" | "ab" | ""'},
    "hidden left recursion": {"grammar": 'start: a start "x" | "y"\na: ""'},
    "GBNF that doubles 30 times": {
        "grammar": "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(30)) + 'r30 ::= root | "a"'
    },
    "rules that double 40 times": {"grammar": rules(40, lambda i: f"r{i} r{i}", '"a"').replace("R", "r")},
    "repeats of repeats of repeats": {"grammar": 'start: (("a"{1000}){1000}){1000}'},
    "any number of any number": {"grammar": 'start: c{1,1000}\nc: b{1,1000}\nb: "a" | "b"'},
    "40 intersections": {
        "grammar": "start: A\nA: " + " & ".join(f"/(?s:.*){chr(97 + i % 26)}(?s:.*)/" for i in range(40))
    },
    "a complement": {"grammar": "start: A\nA: ~/(?s:.*)a(?s:.{30})b(?s:.*)/ & /[ab]*/"},
    "5,000 alternatives": {"grammar": "start: " + "|".join(f'"a{i}"' for i in range(5_000))},
    "an automaton of 2^30 states": {"regex": "(a|b)*a(a|b){30}c"},
    "expressions that overlap": {"regex": "((a|b|ab|ba)*(ab|ba|a)*){50}"},
    "many optional ones": {"regex": "(((a?){20}){20}){20}"},
    "all of Unicode": {"regex": r"(\p{L}{1,100}\p{N}{1,100}){1,100}"},
    "schemas 90 deep": {"json_schema": functools.reduce(lambda s, _: {"type": "array", "items": s}, range(90), True)},
    "a tree": {
        "json_schema": {
            "$ref": REF(0),
            "$defs": {
                "a0": {
                    "type": "object",
                    "properties": {"l": {"$ref": REF(0)}, "r": {"$ref": REF(0)}},
                    "required": ["l", "r"],
                }
            },
        }
    },
    "an enumeration of 10,000": {"json_schema": {"enum": [f"value number {i}" for i in range(10_000)]}},
    "800 of which one": {
        "json_schema": {
            "oneOf": [{"type": "object", "properties": {"k": {"const": str(i)}}, "required": ["k"]} for i in range(800)]
        }
    },
    "an endless text": {"json_schema": {"type": "string", "minLength": 10**6, "maxLength": 10**7}},
    "an endless list": {"json_schema": {"type": "array", "minItems": 10**9}},
    "lists of lists of lists": {
        "json_schema": {"type": "array", "minItems": 999, "items": {"type": "array", "minItems": 999, "items": {}}}
    },
    "a pattern of absurd size": {"json_schema": {"type": "string", "pattern": "(a{1000}){1000}"}},
    "10,000 choices": {"choice": [f"this is choice {i}" for i in range(10_000)]},
    "one long choice": {"choice": ["x" * 200_000]},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_kept_is_refused_in_one_sentence(name: str) -> None:
    wanted, said = REFUSED[name]
    assert said in outcome(wanted)


@pytest.mark.parametrize("name", HARMLESS)
def test_what_looks_dangerous_and_is_not_gets_an_answer_or_an_error_in_the_end(name: str) -> None:
    assert outcome(HARMLESS[name]) in ("stop", "length") or "costs too much to keep after" in outcome(HARMLESS[name])


def test_a_mask_that_costs_too_much_ends_its_request_and_no_other() -> None:
    params = SamplingParams(structured_outputs=HARMLESS["5,000 alternatives"], max_tokens=30, seed=1)
    engine = Engine(ToyDecoder(CONFIG), TOKENIZER)
    bad, good = engine.add([1], params), engine.add([1], SamplingParams(max_tokens=5, seed=1, ignore_eos=True))
    with pytest.raises(InvalidRequestError, match="costs too much to keep after 1 tokens"):
        answer(engine, bad)
    assert not engine.knows(good)
    assert not engine.has_work()


def test_masks_that_take_too_long_in_all_end_their_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "TOKEN_SECONDS", 0.0)
    monkeypatch.setattr(grammar, "BURST_SECONDS", 0.05)  # gone after a while, on any machine
    schema = {"type": "string", "minLength": 10**6, "maxLength": 10**7}
    params = SamplingParams(structured_outputs={"json_schema": schema}, max_tokens=10**6, overflow="slide", seed=1)
    engine = Engine(ToyDecoder(tiny_config(n_positions=2)), TOKENIZER)
    request = engine.add([1], params)
    with pytest.raises(InvalidRequestError, match="its masks take too long"):
        answer(engine, request)
    assert not engine.has_work()


# ---- by chance


def mutated(draw: random.Random, text: str) -> str:
    for _ in range(draw.randint(1, 4)):
        at, end = sorted((draw.randrange(len(text) + 1), draw.randrange(len(text) + 1)))
        part = draw.choice(["", text[at : at + 5] * 3, draw.choice('()[]{}|*+?~&:"/\\<>%\n.^$-0a, '), text[:5]])
        text = text[:at] + part + text[min(end, at + draw.randint(0, 6)) :]
    return text


SEEDS = {
    "regex": [r"[a-z]+(, [a-z]{2,5})*\.", r"(?i:a|bc)+\d{1,3}[^x-z\]]?", r"\p{L}\x{41}(?P<n>\w|\S)*?$", "^a|b|$"],
    "grammar": [
        'start: a+ | B\na: "x" B? ("y" | a)\nB: /[0-9]+/ & ~/7/\n%ignore / /',
        'start: %json {"type": "array", "items": {"enum": [1, "a"]}} | t\nt[lazy]: /.*x/',
        'start: "a"~2..4 (b){1,3}\nb[suffix="z"]: /[a-y]*/\n%import common.INT\n// end',
        'start: <[1-5]> p::0x0\np::_: "" %if is_ones([0:4])\n  | "1" p::set_bit(1) %if bit_clear(1)',
    ],
    "json_schema": [
        json.dumps(
            {"type": "object", "properties": {"a": {"type": "string", "pattern": "^[a-c]+$"}}, "required": ["a"]}
        ),
        json.dumps(
            {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "number", "maximum": 9.5}], "$defs": {"n": {"type": "null"}}}
        ),
        json.dumps(
            {"type": ["array", "string"], "items": {"$ref": "#"}, "minItems": 1, "format": "date", "maxLength": 30}
        ),
        json.dumps({"allOf": [{"minProperties": 1}, {"additionalProperties": {"type": "integer", "multipleOf": 3}}]}),
    ],
}


@pytest.mark.parametrize("kind", SEEDS)
def test_by_chance_nothing_crashes_and_all_errors_are_of_one_kind(kind: str) -> None:
    draw, ends = random.Random(7), set()
    for number in range(150):
        source = mutated(draw, draw.choice(SEEDS[kind])) or "a"
        ends.add(outcome({kind: source}, seed=number)[:6])
    assert {"stop", "length"} & ends
    assert len(ends) > 2


def random_schema(draw: random.Random, depth: int) -> Any:
    kind = draw.choice(["object", "array", "anyOf", "allOf", "oneOf", "leaf", "leaf", "ref", "bool"])
    inner = functools.partial(random_schema, draw, depth - 1)
    if depth == 0 or kind == "leaf":
        leaf: dict[str, Any] = {
            "type": draw.choice(["string", "integer", "number", "boolean", "null", ["string", "null"]])
        }
        for key in draw.sample(["minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "multipleOf"], 2):
            leaf[key] = draw.choice([-5, 0, 1, 3, 0.5, 1e9, -1e-9, 2**70])
        return leaf if draw.random() < 0.8 else {"enum": draw.sample([1, "a", None, [], {"k": 1.5}], 3)}
    if kind == "object":
        names = draw.sample("abcdef", draw.randint(0, 3))
        found = {"type": "object", "properties": {name: inner() for name in names}, "required": names[:2]}
        return found | draw.choice([{}, {"additionalProperties": inner()}, {"minProperties": draw.randint(0, 3)}])
    if kind == "array":
        return {"type": "array", "items": inner(), "prefixItems": [inner()], "minItems": draw.randint(0, 3)}
    if kind == "ref":
        return {
            "$ref": draw.choice(["#", "#/$defs/x", "#/$defs/y", "#/properties/a"]),
            **draw.choice([{}, {"maxLength": 2}]),
        }
    return draw.random() < 0.8 if kind == "bool" else {kind: [inner() for _ in range(draw.randint(1, 3))]}


def test_by_chance_no_schema_crashes() -> None:
    draw, ends = random.Random(11), set()
    for number in range(200):
        schema = random_schema(draw, 3)
        if isinstance(schema, dict):
            schema = {**schema, "$defs": {"x": random_schema(draw, 2), "y": random_schema(draw, 2)}}
        ends.add(outcome({"json_schema": schema}, seed=number)[:6])
    assert {"stop", "length"} <= ends
    assert len(ends) > 2


# ---- the process that tries them out


@pytest.fixture
def trial() -> Any:
    grammar._library()
    made = Trial(grammar._library()._lib.__file__, grammar.LIMITS)
    yield made
    made.close()


def lark(text: str) -> str:
    return json.dumps({"grammars": [{"lark_grammar": text}]})


GOOD, WRONG, DEADLY = lark('start: "a"'), lark("start: b"), lark(rules(15_000, lambda i: f"R{i}", '"a"'))


def test_after_one_that_kills_the_process_another_is_started(trial: Trial) -> None:
    assert trial.verdict(GOOD) is None
    first = trial._process
    assert trial.verdict(DEADLY) == TOO_EXPENSIVE
    assert 'unknown name: "b"' in str(trial.verdict(WRONG))
    assert first is not None
    assert first.returncode is not None
    assert trial._process is not first


def test_what_was_found_out_is_remembered_up_to_a_bound(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_trial, "MOST_VERDICTS", 2)
    assert [trial.verdict(source) for source in (GOOD, DEADLY, GOOD, DEADLY)] == [None, TOO_EXPENSIVE] * 2
    assert trial._process is None  # it died, and nothing had to be tried again
    trial.verdict(WRONG)
    assert list(trial._verdicts) == [DEADLY, WRONG]


def test_one_that_takes_for_ever_is_given_up(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_trial, "WAIT_SECONDS", 0.0)
    assert trial.verdict(lark('start: "b"')) == TOO_EXPENSIVE
    monkeypatch.undo()
    assert trial.verdict(GOOD) is None


def test_one_that_takes_too_much_of_a_processor_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_trial, "SECONDS", 0.001)
    trial = Trial(grammar._library()._lib.__file__, grammar.LIMITS)
    assert trial.verdict(lark(rules(40, lambda i: f"R{i} R{i}", '"a"'))) == TOO_EXPENSIVE
    trial.close()


def test_one_that_takes_too_much_memory_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_trial, "MEMORY_BYTES", 2**20)  # less than there is already
    trial = Trial(grammar._library()._lib.__file__, grammar.LIMITS)
    assert trial.verdict(lark(rules(40, lambda i: f"R{i} R{i}", '"a"'))) == TOO_EXPENSIVE
    trial.close()


def test_an_interruption_while_it_works_leaves_no_answer_for_the_next(trial: Trial) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trial.verdict(WRONG, interrupted)
    assert trial.verdict(GOOD) is None


def test_a_process_that_was_killed_is_replaced(trial: Trial) -> None:
    assert trial.verdict(GOOD) is None
    assert trial._process is not None
    os.kill(trial._process.pid, signal.SIGKILL)
    trial._process.wait()
    assert 'unknown name: "b"' in str(trial.verdict(WRONG))


def test_where_no_process_can_be_started_that_is_said(trial: Trial) -> None:
    trial._command[0] = "/nowhere/python"
    with pytest.raises(GptwoError, match="the process that tries out grammars cannot be started"):
        trial.verdict(GOOD)


def test_a_fork_starts_its_own(trial: Trial) -> None:
    assert trial.verdict(GOOD) is None
    mine = trial._process
    trial._owner = -1  # as if another process had begun it
    assert 'unknown name: "b"' in str(trial.verdict(WRONG))
    assert trial._process is not mine
    assert mine is not None
    assert mine.poll() is None  # and it is left to its owner
    theirs, trial._process = trial._process, mine
    trial.close()
    trial._process = theirs


def test_threads_may_ask_at_once() -> None:
    def ask(number: int) -> None:
        source = f"[a-{chr(98 + number)}]+" if number % 2 else "(" * (number + 1)
        try:
            found.append(compile_grammar(StructuredOutputs(regex=source), TOKENIZER) is not None)
        except InvalidRequestError as error:
            found.append("unclosed group" not in str(error))

    found: list[bool] = []
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == [False] * 6 + [True] * 6
