"""Dataclasses whose every field has one line of documentation and a check.

A check is a function of (name, value): it returns the value in its normal form, or raises InvalidRequestError, with
`param` set to the name, that says what was expected instead. Numbers of numpy count as numbers; booleans never do.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import reprlib
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, NoReturn, TypeVar

from gptwo.errors import InvalidRequestError, nearest_name

Check = Callable[[str, Any], Any]
Options = TypeVar("Options")

LARGEST_INTEGER = 2**31 - 1
MOST_THREADS = 256  # more than any processor that runs a GPT-2, and few enough that every system has them

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


def option(default: Any, check: Check, help_line: str, *, hashed: bool = True) -> Any:
    """A dataclass field with one line of documentation and a check."""
    return dataclasses.field(
        default=default, hash=None if hashed else False, metadata={"help": help_line, "check": check}
    )


def refuse_unknown_names(cls: type[Options]) -> type[Options]:
    """Make a dataclass answer an unknown keyword with the name that was probably meant, not with a TypeError."""
    init: Callable[..., None] = cls.__init__

    @functools.wraps(init)
    def checked_init(self: Options, *args: Any, **values: Any) -> None:
        known = field_help(cls)
        for name in values:
            if name not in known:
                hint = nearest_name(name, known)
                raise InvalidRequestError(f"{cls.__name__} has no parameter {shown(name)}{hint}", param=name)
        init(self, *args, **values)

    cls.__init__ = checked_init  # type: ignore[assignment]
    lines = (
        f"    {field.name} = {field.default!r}: {field.metadata['help']}"
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]
    )
    cls.__doc__ = "\n\n".join([cls.__doc__ or "", "Parameters, with their defaults:", "\n".join(lines)])
    return cls


def check_options(self: Any) -> None:
    """Run every field's check on a frozen dataclass and keep the normal forms; for `__post_init__`."""
    for field in dataclasses.fields(self):
        value = field.metadata["check"](field.name, getattr(self, field.name))
        object.__setattr__(self, field.name, value)


def field_help(cls: Any) -> dict[str, str]:
    """The names of a dataclass's options, in order, and one line about each."""
    return {field.name: field.metadata["help"] for field in dataclasses.fields(cls)}


@dataclasses.dataclass(frozen=True)
class Bounds:
    """The check of a number, and the bounds themselves, for whoever explains a parameter."""

    minimum: float
    maximum: float
    whole: bool = False
    """Integers only."""
    optional: bool = False
    """None is allowed too."""
    above_minimum: bool = False
    """The minimum itself is not allowed."""

    def __call__(self, name: str, value: Any) -> int | float | None:
        """The number, or an InvalidRequestError that says what was expected."""
        if value is None and self.optional:
            return None
        if self.whole:
            if not is_integer(value) or not self.minimum <= value <= self.maximum:
                refuse(name, value, self._expected())
            return int(value)
        amount = finite(value)
        if amount is None or not self.minimum <= amount <= self.maximum or self._is_excluded(amount):
            refuse(name, value, self._expected())
        return amount

    def _is_excluded(self, amount: float) -> bool:
        return self.above_minimum and amount == self.minimum

    def _expected(self) -> str:
        if self.whole:
            return f"an integer from {self.minimum} to {self.maximum}" + (" or none" if self.optional else "")
        lower = f"more than {self.minimum:g}" if self.above_minimum else f"{self.minimum:g}"
        upper = " or more" if self.maximum == math.inf else f" to {self.maximum:g}"
        kind = "a finite number" if self.maximum == math.inf else "a number"
        return f"{kind}, {lower}{upper}" + (", or none" if self.optional else "")


def integer(minimum: int, maximum: int = LARGEST_INTEGER, *, optional: bool = False) -> Bounds:
    """An integer from minimum to maximum, or None where that is allowed."""
    return Bounds(minimum, maximum, whole=True, optional=optional)


def number(minimum: float, maximum: float = math.inf, *, above_minimum: bool = False, optional: bool = False) -> Bounds:
    """A finite number from minimum (or, with above_minimum, from more than that) to maximum, as float."""
    return Bounds(minimum, maximum, optional=optional, above_minimum=above_minimum)


def boolean(name: str, value: Any) -> bool:
    """True or false, and nothing that merely counts as one."""
    if not isinstance(value, bool):
        refuse(name, value, "true or false")
    return value


def choice(*choices: bool | str) -> Check:
    """One of a few values, of the same type: 1 is not True."""
    expected = "one of " + ", ".join(repr(c) for c in choices)

    def check(name: str, value: Any) -> bool | str:
        for known in choices:
            if type(value) is type(known) and value == known:
                return known
        refuse(name, value, expected)

    return check


def text(name: str, value: Any) -> str:
    """Text of at least one character."""
    if not isinstance(value, str) or not value:
        refuse(name, value, "text")
    return value


def optional_text(name: str, value: Any) -> str | None:
    """Text of at least one character, or None."""
    return None if value is None else text(name, value)


def refuse(name: str, value: object, expected: str) -> NoReturn:
    """Raise the error of a value that is not what was expected."""
    raise InvalidRequestError(f"{name} is {shown(value)}, expected {expected}", param=name)


def shown(value: object) -> str:
    """A value on one line for a message, however large or hostile it is."""
    # Python refuses to print an integer of thousands of digits.
    if isinstance(value, int) and abs(value) >= 10**40:
        return "an integer of over 40 digits"
    try:
        words = _short.repr(value)
    except Exception:  # noqa: BLE001 - the repr of a foreign object may fail in any way, its type still says something
        words = f"a {type(value).__name__}"
    words = " ".join(words.split())
    return words if len(words) <= 60 else words[:57] + "..."


def is_integer(value: object) -> bool:
    """An integer of Python or numpy that is no boolean."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def finite(value: Any) -> float | None:
    """The value as a finite float, or None if it is none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        amount = float(value)
    except OverflowError:
        return None
    return amount if math.isfinite(amount) else None
