"""What is wrong with a regular expression that its library would take: repeats of repeats, and sizes beyond reason.

Rust reads `foo**` as `(foo*)*`, where Python and others say that it is a mistake, and takes `(a{1000}){1000}`, of which
no text is ever complete.
"""

from __future__ import annotations

import re

DEEPEST = 100  # groups within groups
LARGEST = 100_000  # characters and classes, with repeated ones counted as often as they may come

_COUNT = re.compile(r"\{\s*(\d*)\s*(,?)\s*(\d*)\s*\}")
_NAMED = re.compile(r"\\[pPxuU]\{[^}]*\}")


def regex_fault(text: str) -> str | None:
    """What is wrong, or None. It looks no closer than it must: all else is for the library to find.

    Example: regex_fault("foo**") == "repeats a repeat at character 5, write (...)* for one that is meant"
    """
    sizes = [0]  # of what stands so far in each group that is open
    last = 0  # the size of what a quantifier would repeat; 0 if there is nothing
    repeated = False  # whether it is repeated already
    at = 0
    while at < len(text):
        character = text[at]
        count = _COUNT.match(text, at) if character == "{" else None
        if count is not None and not (count[1] or count[3]):
            count = None  # `{}` and `{,}` are characters, or mistakes
        if character in "*+?" or count is not None:
            if repeated:
                return f"repeats a repeat at character {at + 1}, write (...){character} for one that is meant"
            most = 1 if count is None else int((count[3] or count[1])[:9])
            sizes[-1] += last * (most - 1)
            last, repeated = last * most, True
            at = at + 1 if count is None else count.end()
            if at < len(text) and text[at] == "?":
                at += 1  # a lazy one
        elif character == "(":
            sizes.append(0)
            last, repeated = 0, False
            at += 2 if text.startswith("(?", at) else 1
        elif character == ")":
            last, repeated = max(1, sizes.pop()), False
            sizes = sizes or [0]  # one that closes nothing is for the library to find
            sizes[-1] += last
            at += 1
        elif character == "|":
            last, repeated = 0, False
            at += 1
        else:
            last, repeated = 1, False
            sizes[-1] += 1
            at = _behind(text, at)
        if len(sizes) > DEEPEST + 1:
            return f"has groups nested more than {DEEPEST} deep"
        if sizes[-1] > LARGEST:
            return f"repeats so much that it has more than {LARGEST:,} characters and classes"
    return None


def _behind(text: str, at: int) -> int:
    """Where the character, escape or class that begins at `at` has its end."""
    if text[at] == "\\":
        named = _NAMED.match(text, at)
        return named.end() if named else at + 2
    if text[at] != "[":
        return at + 1
    depth = 0
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        if text[at] == "[":
            depth += 1
            at += 1
            at += text.startswith("^", at)
            at += text.startswith("]", at)  # first in a class it stands for itself
            continue
        depth -= text[at] == "]"
        at += 1
        if depth == 0:
            break
    return at
