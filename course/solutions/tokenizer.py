"""Solutions to lesson 7."""

from itertools import pairwise


def count_pairs(ids):
    counts = {}
    for pair in pairwise(ids):
        counts[pair] = counts.get(pair, 0) + 1
    return counts


def merge(ids, pair, new):
    merged, i = [], 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            merged.append(new)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


def train_bpe(text, count):
    ids, merges = list(text.encode("utf-8")), []
    while len(merges) < count and len(ids) > 1:
        counts = count_pairs(ids)
        pair = max(counts, key=counts.get)  # the first of the most frequent
        ids = merge(ids, pair, 256 + len(merges))
        merges.append(pair)
    return merges


def encode(text, merges):
    ids = list(text.encode("utf-8"))
    for i, pair in enumerate(merges):
        ids = merge(ids, pair, 256 + i)
    return ids


def spellings(merges):
    """The bytes of each token."""
    spelled = [bytes([byte]) for byte in range(256)]
    for one, other in merges:
        spelled.append(spelled[one] + spelled[other])
    return spelled


def decode(ids, merges):
    spelled = spellings(merges)
    return b"".join(spelled[i] for i in ids).decode("utf-8", errors="replace")
