"""Pickles of plain values, read opcode by opcode: nothing that is in one is ever run, imported or built.

Source: the descriptions of the opcodes in Python's own `pickletools`.
"""

from __future__ import annotations

import pickletools
from typing import Any, Final

_NOTHING: Final = frozenset({"PROTO", "FRAME", "STOP"})
_VALUES: Final = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
)
_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUTS: Final = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GETS: Final = frozenset({"GET", "BINGET", "LONG_BINGET"})


def read_plain_pickle(data: bytes) -> Any:
    """The value of a pickle that holds dicts, lists, text and numbers. Raises ValueError for any other."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        place = marks.pop()
        values = stack[place:]
        del stack[place:]
        return values

    try:
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name in _VALUES:
                stack.append(argument)
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name == "MARK":
                marks.append(len(stack))
            elif name in ("EMPTY_DICT", "EMPTY_LIST"):
                stack.append({} if name == "EMPTY_DICT" else [])
            elif name in ("SETITEM", "SETITEMS"):
                pairs = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                _expect(stack[-1], dict).update(zip(pairs[::2], pairs[1::2], strict=True))
            elif name in ("APPEND", "APPENDS"):
                items = since_mark() if name == "APPENDS" else [stack.pop()]
                _expect(stack[-1], list).extend(items)
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in _PUTS:
                memo[_expect(argument, int)] = stack[-1]
            elif name in _GETS:
                stack.append(memo[_expect(argument, int)])
            elif name not in _NOTHING:
                raise ValueError(f"it holds more than plain values ({name})")
        (value,) = stack
    except (IndexError, KeyError, TypeError, OverflowError) as error:
        raise ValueError("it is broken") from error
    return value


def _expect(value: Any, kind: type[Any]) -> Any:
    if type(value) is not kind:
        raise ValueError("it is broken")
    return value
