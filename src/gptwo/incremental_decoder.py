"""Text from token ids that come one by one."""

from __future__ import annotations

import codecs
from collections.abc import Callable


class IncrementalDecoder:
    """Ids in, text out, as soon as a character is whole; all pieces and `flush()` joined are what `decode` gives.

    Example: with "é" as two tokens, push(first) == "" and push(second) == "é".
    """

    def __init__(self, bytes_of: Callable[[int], bytes]) -> None:
        """bytes_of: the bytes of a token id."""
        self._bytes_of = bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that is certain with this token: "" while a character's last bytes are still to come."""
        return self._decoder.decode(self._bytes_of(token_id))

    def flush(self) -> str:
        """What was held back: "" or U+FFFD for a character that never became whole. Then start afresh."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest
