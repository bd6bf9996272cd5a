"""Command-line options made from dataclasses whose fields carry a line of help, such as SamplingParams.

A field is listed once, in its dataclass: its type says how its text is read, here and in `gptwo interactive`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:  # which only newer versions of click give a type parameter
    _ParamType = click.ParamType

NONE_WORDS = ("none", "null")
TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
SHORT_NAMES = {"num_beams": "--beams"}


@dataclass(frozen=True)
class Parameter:
    """One field of a dataclass, as a person types it. `read` turns text into a value, or raises ValueError."""

    name: str
    help: str
    default: Any
    metavar: str
    read: Callable[[str], Any]
    merge: Callable[[list[Any]], Any] | None = None
    """What several occurrences of the option come to; None if it may occur once."""

    def option(self, section: str, *, both_ways: bool = False) -> click.Option:
        """The option `--the-name`. Its value is None unless it is given.

        both_ways: what is off by default can be switched off too, with `--no-the-name`.
        """
        dashed = "--" + self.name.replace("_", "-")
        names = [self.name, *([SHORT_NAMES[self.name]] if self.name in SHORT_NAMES else []), dashed]
        if self.metavar == "true|false":
            switch = f"{dashed}/--no-{dashed[2:]}" if self.default or both_ways else dashed
            return SectionOption([self.name, switch], section, is_flag=True, help=self.help, default=self.default)
        more = "  May be given again." if self.merge is not None else ""
        more += "" if self.default is None or self.default == () else f"  [default: {self.default}]"
        return SectionOption(
            names,
            section,
            type=ParameterType(self),
            metavar=self.metavar,
            help=self.help + more,
            multiple=self.merge is not None,
        )

    def parse(self, text: str) -> Any:
        """The value that `text` means; ValueError says what was expected."""
        return self.read(text.strip())


class ParameterType(_ParamType):
    """Click's view of a Parameter."""

    def __init__(self, parameter: Parameter) -> None:
        """parameter: whose text is to be read."""
        self.name = parameter.name
        self.parameter = parameter

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        """Read what was typed; wrong usage if it is nothing of the kind."""
        if not isinstance(value, str):
            return value
        # Text is taken as it was typed, where `\\config` also takes it as JSON.
        if self.parameter.metavar == "TEXT":
            return [value] if self.parameter.merge else value
        try:
            return self.parameter.read(value.strip())
        except ValueError as error:
            self.fail(str(error), param, context)


class SectionOption(click.Option):
    """An option that `--help` lists under a heading of its own."""

    def __init__(self, names: list[str], section: str, **settings: Any) -> None:
        """section: the heading."""
        super().__init__(names, **settings)
        self.section = section


class SectionedCommand(click.Command):
    """A command with so many options that its help has a heading for each kind."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, the command's own first, then one section for each heading."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(context):
            record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


@functools.cache
def parameters_of(cls: type[Any]) -> dict[str, Parameter]:
    """The fields of a dataclass of options, by name and in order."""
    hints = typing.get_type_hints(cls)
    return {field.name: _parameter(field, hints[field.name]) for field in dataclasses.fields(cls)}


def given(context: click.Context, names: Collection[str]) -> dict[str, Any]:
    """The values of those options that the person gave; the others keep their dataclass's default."""
    found = {}
    for parameter in context.command.get_params(context):
        name = parameter.name
        if name in names and context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            value = context.params[name]
            kind = getattr(parameter, "type", None)
            merge = kind.parameter.merge if isinstance(kind, ParameterType) else None
            found[name] = value if merge is None else merge(list(value))
    return found


def _parameter(field: dataclasses.Field[Any], annotation: Any) -> Parameter:
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    kinds = set(typing.get_args(annotation)) if union else {annotation}
    optional = type(None) in kinds
    metavar, read, merge = _reader(kinds - {type(None)})

    def read_or_none(text: str) -> Any:
        return None if text.lower() in NONE_WORDS else read(text)

    help_line = str(field.metadata["help"])
    return Parameter(field.name, help_line, field.default, metavar, read_or_none if optional else read, merge)


def _reader(kinds: set[Any]) -> tuple[str, Callable[[str], Any], Callable[[list[Any]], Any] | None]:
    """The metavar, the reader and the merger for a field whose type is the union of `kinds`."""
    literals = [kind for kind in kinds if typing.get_origin(kind) is Literal]
    if literals:
        words = {str(value): value for literal in literals for value in typing.get_args(literal)}
        words |= {"true": True, "false": False} if bool in kinds else {}
        return "|".join(sorted(words)), functools.partial(_word, words), None
    if kinds == {bool}:
        return "true|false", functools.partial(_word, TRUTH), None
    if kinds == {int}:
        return "INTEGER", _integer, None
    if kinds == {float}:
        return "NUMBER", _number, None
    if kinds == {str}:
        return "TEXT", str, None
    if Mapping[str, Any] in kinds:
        return "JSON", _object, None
    (sequence,) = kinds - {str}
    if typing.get_origin(sequence) is Mapping:
        return "ID=BIAS,...", _biases, lambda many: {key: bias for one in many for key, bias in (one or {}).items()}
    if typing.get_args(sequence) == (int,):
        return "ID,...", _ids, lambda many: None if None in many else [token_id for one in many for token_id in one]
    return "TEXT", _texts, lambda many: [text for one in many for text in one]


def _word(words: Mapping[str, Any], text: str) -> Any:
    if text.lower() not in words:
        raise ValueError(f"{text!r} is not one of {', '.join(words)}")
    return words[text.lower()]


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text[:60]!r} is not an integer") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text[:60]!r} is not a number") from None


def _ids(text: str) -> list[int]:
    """Token ids with commas or spaces between them."""
    return [_integer(part) for part in text.replace(",", " ").split()]


def _biases(text: str) -> dict[int, float]:
    biases = {}
    for part in text.replace(",", " ").split():
        token_id, equals, bias = part.partition("=")
        if not equals:
            raise ValueError(f"{part[:60]!r} is not of the form ID=BIAS")
        biases[_integer(token_id)] = _number(bias)
    return biases


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{text[:60]!r} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{text[:60]!r} is no object")
    return value


def _texts(text: str) -> list[Any]:
    """One text as it is, or JSON: a string, or a list of strings (or of lists of token ids)."""
    if text[:1] not in ('"', "["):
        return [text]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{text[:60]!r} begins like JSON but is none ({error})") from None
    return value if isinstance(value, list) else [value]
