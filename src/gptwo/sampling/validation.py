"""Checks of the parameters that only sampling has: token ids, biases, stop strings, words. `options` has the others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from gptwo.errors import InvalidRequestError
from gptwo.options import LARGEST_INTEGER, Check, finite, is_integer, refuse, shown

LARGEST_BIAS = 100.0
LONGEST_TEXT = 4096
MOST_TOKEN_IDS = 1_000_000


def token_ids(*, optional: bool = False) -> Check:
    """Token ids, as a tuple in which each occurs once; None is none of them, or with `optional` stays None.

    With `optional` an empty list is refused, since nobody can mean it: it would allow no token at all.
    """

    def check(name: str, value: Any) -> tuple[int, ...] | None:
        if value is None:
            return None if optional else ()
        ids = _token_ids(name, value)
        if optional and not ids:
            refuse(name, value, "at least one token id, or none for no limit")
        return tuple(dict.fromkeys(ids))

    return check


def token_biases(name: str, value: Any) -> dict[int, float] | None:
    """A mapping of token id to bias; ids may be strings of digits, as JSON has them. An empty one is None."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        refuse(name, value, "a mapping of token id to bias, such as {50256: -100}")
    biases: dict[int, float] = {}
    for key, bias in value.items():
        token_id = int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 10 else key
        if not _is_token_id(token_id):
            raise InvalidRequestError(
                f"{name} has the key {shown(key)}, expected a token id from 0 to {LARGEST_INTEGER}", param=name
            )
        if token_id in biases:
            raise InvalidRequestError(f"{name} has token {token_id} twice, as a number and as text", param=name)
        amount = finite(bias)
        if amount is None or abs(amount) > LARGEST_BIAS:
            raise InvalidRequestError(
                f"{name} gives token {token_id} the bias {shown(bias)}, "
                f"expected a number from {-LARGEST_BIAS:g} to {LARGEST_BIAS:g}",
                param=name,
            )
        biases[int(token_id)] = amount
    return biases or None


def texts(most: int) -> Check:
    """Strings, as a tuple: one string stands for itself, None for no string. At most so many, none empty or huge."""

    def check(name: str, value: Any) -> tuple[str, ...]:
        items = _items(name, value, most, "a string or a list of strings")
        for item in items:
            if not isinstance(item, str):
                raise InvalidRequestError(f"{name} holds {shown(item)}, expected strings only", param=name)
            _check_text(name, item)
        return items

    return check


def words(most: int) -> Check:
    """Strings or sequences of token ids, as a tuple of strings and tuples; one string stands for itself."""
    expected = "a list of strings or of lists of token ids"

    def check(name: str, value: Any) -> tuple[str | tuple[int, ...], ...]:
        found: list[str | tuple[int, ...]] = []
        for item in _items(name, value, most, expected):
            if isinstance(item, str):
                _check_text(name, item)
                found.append(item)
                continue
            if not _is_collection(item):
                raise InvalidRequestError(
                    f"{name} holds {shown(item)}, expected strings or lists of token ids", param=name
                )
            ids = _token_ids(name, item)
            if not ids:
                raise InvalidRequestError(f"{name} holds an empty list, expected at least one token id", param=name)
            found.append(ids)
        return tuple(found)

    return check


def _is_token_id(value: Any) -> bool:
    return is_integer(value) and 0 <= value <= LARGEST_INTEGER


def _is_collection(value: object) -> bool:
    return isinstance(value, Collection) and not isinstance(value, (str, bytes, bytearray, Mapping))


def _token_ids(name: str, value: Any) -> tuple[int, ...]:
    if not _is_collection(value):
        refuse(name, value, "a list of token ids")
    if len(value) > MOST_TOKEN_IDS:
        refuse(name, value, f"at most {MOST_TOKEN_IDS} token ids")
    for item in value:
        if not _is_token_id(item):
            raise InvalidRequestError(
                f"{name} holds {shown(item)}, expected token ids from 0 to {LARGEST_INTEGER}", param=name
            )
    return tuple(int(item) for item in value)


def _items(name: str, value: Any, most: int, expected: str) -> tuple[Any, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if not _is_collection(value):
        refuse(name, value, expected)
    if len(value) > most:
        raise InvalidRequestError(f"{name} has {len(value)} entries, expected at most {most}", param=name)
    return tuple(value)


def _check_text(name: str, text: str) -> None:
    if not text:
        raise InvalidRequestError(f"{name} holds an empty string, expected at least one character", param=name)
    if len(text) > LONGEST_TEXT:
        raise InvalidRequestError(
            f"{name} holds a string of {len(text)} characters, expected at most {LONGEST_TEXT}", param=name
        )
