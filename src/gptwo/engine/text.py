"""Text from tokens, with stop strings that may span them."""

from __future__ import annotations

from collections.abc import Sequence

from gptwo.tokenizer import IncrementalDecoder, Tokenizer


class TextAssembler:
    """Turns the tokens of one sequence into pieces of text, and ends it at a stop string.

    Of several stop strings the one that is complete first ends the text (the longest of those that end together), so
    the result does not depend on how the text is cut into tokens. Text that may be the beginning of a stop string is
    held back until it is known not to be. Stop strings that are complete while `may_stop` is false are text like any
    other; one that has only begun by then still counts.
    """

    def __init__(self, decoder: IncrementalDecoder, stops: Sequence[str] = (), *, include_stop: bool = False) -> None:
        self._decoder, self._stops, self._include_stop = decoder, tuple(stops), include_stop
        self._held = ""
        self._searched = 0  # characters of it in which no stop string that counts is complete
        self.stopped_by: str | None = None

    def push(self, token_id: int, *, may_stop: bool = True) -> str:
        """Take a token; the text that is certain now."""
        self._held += self._decoder.push(token_id)
        return self._release(may_stop)

    def flush(self, *, may_stop: bool = True) -> str:
        """The end: everything that was held back, up to a stop string if the last character completes one."""
        self._held += self._decoder.flush()
        released = self._release(may_stop)
        if self.stopped_by is None:
            released, self._held = released + self._held, ""
        return released

    def _release(self, may_stop: bool) -> str:
        text = self._held
        found = []
        for stop in self._stops if may_stop else ():
            start = text.find(stop, max(0, self._searched + 1 - len(stop)))
            if start >= 0:
                found.append((start + len(stop), -len(stop), stop))
        if found:
            end, _, self.stopped_by = min(found)
            self._held = ""
            return text[: end if self._include_stop else end - len(self.stopped_by)]
        self._searched = max((_overlap(text, stop) for stop in self._stops), default=0)
        certain = len(text) - self._searched
        self._held = text[certain:]
        return text[:certain]


def token_text(tokenizer: Tokenizer | None, token_id: int) -> str:
    """One token for showing; "" without a tokenizer, and for the padding of a vocabulary, which no tokenizer knows."""
    return "" if tokenizer is None or token_id >= tokenizer.vocab_size else tokenizer.token_text(token_id)


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` could be the beginning of `stop`.

    Example: _overlap("one two", "two words") == 3
    """
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
