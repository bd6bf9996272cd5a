"""A process that encodes texts: what `encode_in_order` (encoding.py) starts, one for each core.

Its argument is a tokenizer's directory. On standard input come frames, each a list of texts as JSON; on standard output
goes a frame for each: 0 and the ids of all texts, or 1 and an error. It ends when standard input does.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from gptwo.errors import GptwoError
from gptwo.tokenizer import Tokenizer

HEAD = struct.Struct("<BQ")  # of a frame: its kind, and the bytes that follow
IDS, FAILED = 0, 1


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[npt.NDArray[np.uint32]]:
    """The ids of each text, uint32 (N,); what looks like a special token in them is plain text."""
    return [np.array(tokenizer.encode(text), dtype=np.uint32) for text in texts]


def pack(ids: Sequence[npt.NDArray[np.uint32]]) -> bytes:
    """Arrays as bytes: how many, the length of each, and their elements."""
    lengths = np.array([len(ids), *map(len, ids)], dtype=np.uint32)
    return b"".join([lengths.tobytes(), *(one.tobytes() for one in ids)])


def unpack(data: bytes) -> list[npt.NDArray[np.uint32]]:
    """What `pack` packed."""
    words = np.frombuffer(data, dtype=np.uint32)
    count = int(words[0])
    return np.split(words[count + 1 :], np.cumsum(words[1:count]).astype(np.int64)) if count else []


def send(stream: BinaryIO, kind: int, data: bytes) -> None:
    """Write a frame. Raises OSError if nobody reads it."""
    stream.write(HEAD.pack(kind, len(data)))
    stream.write(data)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[int, bytes]:
    """Read a frame. Raises EOFError if there is none, or not all of it."""
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        raise EOFError
    kind, size = HEAD.unpack(head)
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return kind, data


def main() -> None:
    """Encode until standard input ends."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # only frames go where frames are expected
    tokenizer = Tokenizer.load(Path(sys.argv[1]))
    while True:
        try:
            _, data = receive(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = IDS, pack(encode(tokenizer, json.loads(data)))
        except GptwoError as error:
            answer = FAILED, json.dumps([type(error).__name__, str(error)]).encode()
        try:
            send(out, *answer)
        except OSError:
            os._exit(0)


if __name__ == "__main__":
    main()
