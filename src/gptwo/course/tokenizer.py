"""Lesson 7: byte pair encoding, to train it, to encode and to decode."""

from __future__ import annotations

import itertools

from gptwo.course.judging import FunctionExercise, Mistake

Pair = tuple[int, int]


def count_pairs(ids: list[int], *, how: str = "right") -> dict[Pair, int]:
    """How often each pair of neighbours occurs."""
    counts: dict[Pair, int] = {}
    pairs = list(itertools.pairwise(ids))
    pairs = pairs[:-1] if how == "without last" else pairs[::2] if how == "apart" else pairs
    if how == "around" and ids:
        pairs.append((ids[-1], ids[0]))
    for one, other in pairs:
        pair = (min(one, other), max(one, other)) if how == "unordered" else (one, other)
        counts[pair] = 1 if how == "once" else counts.get(pair, 0) + 1
    return counts


COUNT_PAIRS = FunctionExercise(
    "count_pairs(ids)",
    count_pairs,
    (([1, 2, 3, 1, 2],), ([5, 5, 5],), ([2, 1, 2],), ([7],), ([],)),
    (
        Mistake("The last pair is not counted.", {"how": "without last"}),
        Mistake("Every other pair is skipped; a token has a pair with each of its two neighbours.", {"how": "apart"}),
        Mistake("The order is forgotten: (1, 2) and (2, 1) are two pairs.", {"how": "unordered"}),
        Mistake("Each pair counts once; count how often it occurs.", {"how": "once"}),
        Mistake("The last token makes a pair with the first, though they are no neighbours.", {"how": "around"}),
    ),
)


def merge(ids: list[int], pair: Pair, new: int, *, how: str = "right") -> list[int]:
    """Put `new` in place of each occurrence of `pair`, from the left."""
    if how == "backwards":
        return merge(ids[::-1], (pair[1], pair[0]), new)[::-1]
    merged, i = [], 0
    while i < len(ids):
        last = len(ids) - (3 if how == "not at the end" else 2)
        if i <= last and (ids[i], ids[i + 1]) == pair:
            merged += [new, ids[i + 1]] if how == "second stays" else [new]
            i += 1 if how == "overlap" else 2
            if how == "first only":
                return merged + ids[i:]
        else:
            merged.append(ids[i])
            i += 1
    if how == "last lost" and merged and merged[-1] != new:
        merged.pop()
    return merged


MERGE = FunctionExercise(
    "merge(ids, pair, new)",
    merge,
    (
        ([1, 2, 3, 1, 2], (1, 2), 9),
        ([5, 5, 5, 5, 5], (5, 5), 9),
        ([1, 2, 1], (1, 2), 9),
        ([3], (3, 3), 9),
        ([], (1, 2), 9),
    ),
    (
        Mistake("A token is used twice: once 5 5 is merged, go on after both of them.", {"how": "overlap"}),
        Mistake("The second token of the pair stays in the list beside the new one.", {"how": "second stays"}),
        Mistake("A pair at the end of the list is not merged.", {"how": "not at the end"}),
        Mistake("The last token is lost where it is not part of a pair.", {"how": "last lost"}),
        Mistake("Only the first occurrence is merged.", {"how": "first only"}),
        Mistake(
            "It merges from the right, so that of three equal tokens the last two join; begin at the left.",
            {"how": "backwards"},
        ),
    ),
)


def train_bpe(
    text: str,
    count: int,
    *,
    units: str = "bytes",
    first: int = 256,
    ties: str = "first",
    again: bool = True,
    choice: str = "most",
) -> list[Pair]:
    """The merges in the order in which they were made; merge i makes token 256 + i."""
    ids = [ord(c) for c in text] if units == "characters" else list(text.encode("utf-8"))
    if not again:
        counts = count_pairs(ids)
        return sorted(counts, key=lambda pair: -counts[pair])[:count]
    merges: list[Pair] = []
    for i in range(count):
        counts = count_pairs(ids)
        if not counts:
            break
        most = min(counts.values()) if choice == "least" else max(counts.values())
        best = [pair for pair in counts if counts[pair] == most]
        pair = {"first": best[0], "last": best[-1], "highest": max(best), "lowest": min(best)}[ties]
        merges.append(pair)
        ids = merge(ids, pair, first + i)
    return merges


TRAIN = FunctionExercise(
    "train_bpe(text, count)",
    train_bpe,
    (("ab ab abc abc", 4), ("naïve naïve café café", 6), ("zyzyxw", 1), ("dcba", 3), ("aa", 5), ("", 2)),
    (
        Mistake(
            "It works on characters; encode the text as UTF-8 and work on its bytes, then every text has tokens.",
            {"units": "characters"},
        ),
        Mistake("The first new token has the id 257; the bytes are 0 to 255, so it is 256.", {"first": 257}),
        Mistake("The first new token has the id 255, which is a byte's; it is 256.", {"first": 255}),
        Mistake(
            "Pairs are counted once at the start; after each merge count again, the new token makes new pairs.",
            {"again": False},
        ),
        Mistake("The rarest pair is merged; merge the most frequent.", {"choice": "least"}),
        Mistake("Of equally frequent pairs the last one in the text is taken; take the first.", {"ties": "last"}),
        Mistake(
            "Of equally frequent pairs the one with the highest ids is taken; take the first in the text.",
            {"ties": "highest"},
        ),
        Mistake(
            "Of equally frequent pairs the one with the lowest ids is taken; take the first in the text.",
            {"ties": "lowest"},
        ),
    ),
)

_WORDS = "the then there hen heathen"
_MERGES: list[Pair] = [(104, 101), (116, 256), (101, 110), (257, 110), (97, 116), (195, 169)]


def encode(text: str, merges: list[Pair], *, how: str = "rank", units: str = "bytes", first: int = 256) -> list[int]:
    """Token ids: the bytes of the text, with the earliest merge that applies made again and again."""
    ids = [ord(c) for c in text] if units == "characters" else list(text.encode("utf-8"))
    if how == "longest":
        return _longest(ids, merges)
    if how == "left":
        ranks, i = {pair: first + n for n, pair in enumerate(merges)}, 0
        while i + 1 < len(ids):
            if (ids[i], ids[i + 1]) in ranks:
                ids[i : i + 2] = [ranks[ids[i], ids[i + 1]]]
                i = max(i - 1, 0)
            else:
                i += 1
        return ids
    order = list(enumerate(merges))
    for i, pair in order[::-1] if how == "reversed" else order[:1] if how == "one merge" else order:
        ids = merge(ids, pair, first + i)
    return ids


def _longest(ids: list[int], merges: list[Pair]) -> list[int]:
    """The longest token at each place, from the left."""
    spelled = [bytes([i]) for i in range(256)]
    for one, other in merges:
        spelled.append(spelled[one] + spelled[other])
    rest, found = bytes(ids), []
    while rest:
        token = max((t for t in range(len(spelled)) if rest.startswith(spelled[t])), key=lambda t: len(spelled[t]))
        found.append(token)
        rest = rest[len(spelled[token]) :]
    return found


ENCODE = FunctionExercise(
    "encode(text, merges)",
    encode,
    (
        (_WORDS, _MERGES),
        ("hhé the", _MERGES),
        ("aab", [(97, 98), (97, 97)]),
        ("", _MERGES),
        ("aaab", [(97, 97), (256, 97), (97, 98)]),
        ("abc", [(98, 99), (97, 98), (97, 256)]),
    ),
    (
        Mistake("It works on characters; begin with the bytes of the text's UTF-8.", {"units": "characters"}),
        Mistake(
            "It takes the longest token from the left; BPE makes the merges in the order in which they were learned.",
            {"how": "longest"},
        ),
        Mistake(
            "It merges the leftmost pair that can be; the merge that was learned first comes first.", {"how": "left"}
        ),
        Mistake("The merges are made from the last to the first; those learned first come first.", {"how": "reversed"}),
        Mistake("Only the first of the merges is made.", {"how": "one merge"}),
        Mistake("The ids of merges are one too high: merge i makes the token 256 + i.", {"first": 257}),
    ),
)


def decode(ids: list[int], merges: list[Pair], *, how: str = "right") -> str:
    """The text of the ids; bytes that are no UTF-8 become U+FFFD."""
    spelled = [bytes([i]) for i in range(256)]
    for one, other in merges:
        spelled.append(spelled[other] + spelled[one] if how == "reversed" else spelled[one] + spelled[other])
    if how == "each":
        return "".join(spelled[i].decode("utf-8", "replace") for i in ids)
    if how == "spaces":
        return " ".join(spelled[i].decode("utf-8", "replace") for i in ids)
    whole = b"".join(spelled[i] for i in ids)
    return (
        whole.decode("latin-1")
        if how == "latin-1"
        else whole.decode("utf-8", "ignore" if how == "ignore" else "replace")
    )


DECODE = FunctionExercise(
    "decode(ids, merges)",
    decode,
    (([257, 110, 32, 258], _MERGES), ([99, 97, 102, 195, 169], []), ([195, 104, 105], []), ([], _MERGES)),
    (
        Mistake(
            "Each token is decoded alone, but a character may be spread over several: join the bytes first, and decode "
            "them together.",
            {"how": "each"},
        ),
        Mistake("The tokens are joined with spaces; a space is part of a token here.", {"how": "spaces"}),
        Mistake("The bytes are read as Latin-1, one character each; they are UTF-8.", {"how": "latin-1"}),
        Mistake(
            'Bytes that are no UTF-8 vanish; show them as U+FFFD: decode("utf-8", errors="replace").', {"how": "ignore"}
        ),
        Mistake("The two halves of a merge are in the wrong order.", {"how": "reversed"}),
    ),
)

EXERCISES = {"count_pairs": COUNT_PAIRS, "merge": MERGE, "train_bpe": TRAIN, "encode": ENCODE, "decode": DECODE}
