"""What a text has to be: JSON of a schema, a match of a regular expression, one of several choices, or a grammar's.

Here is what may be asked for, checked without any library; `grammar` makes masks of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from gptwo.errors import InvalidRequestError, nearest_name
from gptwo.options import shown
from gptwo.sampling.regex_check import regex_fault

PARAM = "structured_outputs"
LONGEST_REGEX = 16_384
LONGEST_SOURCE = 262_144  # characters of a schema, of a grammar, or of all choices
MOST_CHOICES = 10_000
# Deeper than what people write; what reads them goes one call deeper for each level.
DEEPEST = 100

KINDS = ("json_schema", "regex", "choice", "grammar", "json_object")
_ALIASES = {"json": "json_schema"}  # vLLM's name
_KIND_LIST = ", ".join(KINDS[:-1]) + f" or {KINDS[-1]}"


@dataclass(frozen=True, kw_only=True)
class StructuredOutputs:
    """What a text has to be; exactly one of the fields is given.

    json_schema: a JSON schema, as an object or as JSON; it is kept as JSON. regex: a regular expression in Rust's
    syntax, which the whole text matches; its digits are 0 to 9. choice: the texts to choose from. grammar: a
    context-free grammar in Lark's syntax, whose rule `start` is the whole text, or in llama.cpp's (GBNF), where that is
    `root`. json_object: True for any JSON object.

    Raises InvalidRequestError, whose `param` is structured_outputs, for none or several of them, a value of the wrong
    type, and for what is too long or nested too deep. Whether a schema, an expression or a grammar makes sense is seen
    when it meets a model's vocabulary.
    Example: StructuredOutputs(regex=r"[0-9]{4}-[0-9]{2}")
    """

    json_schema: Mapping[str, Any] | bool | str | None = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    json_object: bool = False

    def __post_init__(self) -> None:
        if self.json_object is not False and self.json_object is not True:
            raise _refused(f"json_object is {shown(self.json_object)}, expected true or false")
        given = [name for name in KINDS if getattr(self, name) not in (None, False) or self._is_false_schema(name)]
        if len(given) != 1:
            found = " and ".join(given) if given else "nothing"
            raise _refused(f"{PARAM} has {found}, expected exactly one of {_KIND_LIST}")
        checks = {"json_schema": _schema, "regex": _regex, "choice": _choice, "grammar": _grammar}
        for name, check in checks.items():
            if name == given[0]:
                object.__setattr__(self, name, check(getattr(self, name)))

    def _is_false_schema(self, name: str) -> bool:
        return name == "json_schema" and self.json_schema is False

    @property
    def kind(self) -> str:
        """Which of the fields is given."""
        return next(name for name in KINDS if getattr(self, name) not in (None, False))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what JSON gave; a field that is null counts as not given. Raises as the constructor does."""
        if not isinstance(values, Mapping):
            raise _refused(f"{PARAM} is {shown(values)}, expected an object with one of {_KIND_LIST}")
        known = [field.name for field in fields(cls)]
        found: dict[str, Any] = {}
        for key, value in values.items():
            name = _ALIASES.get(key, key) if isinstance(key, str) else key
            if name not in known:
                hint = nearest_name(name, [*known, *_ALIASES]) if isinstance(name, str) else ""
                raise _refused(f"{PARAM} has no field {shown(key)}{hint}")
            if value is None:
                continue
            if name in found:
                raise _refused(f"{PARAM} has json and json_schema, which are the same")
            found[name] = value
        return cls(**found)

    def to_dict(self) -> dict[str, Any]:
        """The field that is given, in plain values that JSON can hold; from_dict reads it back."""
        value = getattr(self, self.kind)
        if self.kind == "json_schema":
            value = json.loads(value)
        return {self.kind: list(value) if isinstance(value, tuple) else value}


def structured(name: str, value: Any) -> StructuredOutputs | None:
    """The check of a parameter that is StructuredOutputs, or a mapping of its fields, or none."""
    if value is None or isinstance(value, StructuredOutputs):
        return value
    return StructuredOutputs.from_dict(value)


def _refused(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, param=PARAM)


def _text(name: str, value: Any, longest: int) -> str:
    if not isinstance(value, str) or not value:
        raise _refused(f"{name} is {shown(value)}, expected text")
    if len(value) > longest:
        raise _refused(f"{name} has {len(value):,} characters, expected at most {longest:,}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _refused(f"{name} is not Unicode: it holds a lone surrogate") from None
    return value


def _regex(value: Any) -> str:
    text = _text("regex", value, LONGEST_REGEX)
    fault = regex_fault(text)
    if fault is not None:
        raise _refused(f"regex {fault}")
    return text


def _grammar(value: Any) -> str:
    text = _text("grammar", value, LONGEST_SOURCE)
    depth = 0
    for character in text:  # those in quotes and classes count too: it is a bound, no parser
        depth = max(0, depth + (character in "([{") - (character in ")]}"))
        if depth > DEEPEST:
            raise _refused(f"grammar has brackets nested more than {DEEPEST} deep")
    return text


def _choice(value: Any) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray)):
        raise _refused(f"choice is {shown(value)}, expected a list of texts")
    if not value:
        raise _refused("choice is empty, expected at least one text")
    if len(value) > MOST_CHOICES:
        raise _refused(f"choice has {len(value):,} texts, expected at most {MOST_CHOICES:,}")
    choices = tuple(_text("choice", text, LONGEST_SOURCE) for text in value)
    total = sum(map(len, choices))
    if total > LONGEST_SOURCE:
        raise _refused(f"choice has {total:,} characters, expected at most {LONGEST_SOURCE:,}")
    return tuple(dict.fromkeys(choices))


def _schema(value: Any) -> str:
    """A JSON schema as JSON. The order of its keys stays: it is the order in which properties are written."""
    if isinstance(value, str):
        _text("json_schema", value, LONGEST_SOURCE)
        try:
            value = json.loads(value, parse_constant=_no_constant)
        except RecursionError:
            raise _refused(f"json_schema is nested more than {DEEPEST} deep") from None
        except ValueError as error:
            raise _refused(f"json_schema is not JSON ({error})") from None
    if not isinstance(value, (Mapping, bool)):
        raise _refused(f"json_schema is {shown(value)}, expected an object")
    _check_tree(value)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain_mapping)
        text.encode()
    except UnicodeEncodeError:
        raise _refused("json_schema is not Unicode: it holds a lone surrogate") from None
    except (TypeError, ValueError) as error:
        raise _refused(f"json_schema cannot be written as JSON ({error})") from None
    if len(text) > LONGEST_SOURCE:
        raise _refused(f"json_schema has {len(text):,} characters, expected at most {LONGEST_SOURCE:,}")
    return text


def _check_tree(value: Any) -> None:
    """Refuse what is too deep or too large to be written, such as an object that holds itself."""
    left, level = LONGEST_SOURCE, [value]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for item in level:
            if isinstance(item, Mapping):
                for key in item:
                    if not isinstance(key, str):
                        raise _refused(f"json_schema has the key {shown(key)}, expected text")
                below.extend(item.values())
            elif isinstance(item, (list, tuple)):
                below.extend(item)
            left -= 1
            if left < 0 or len(below) > left:
                raise _refused(f"json_schema has more than {LONGEST_SOURCE:,} values")
        if not below:
            return
        level = below
    raise _refused(f"json_schema is nested more than {DEEPEST} deep")


def _plain_mapping(value: object) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"it holds {shown(value)}")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
