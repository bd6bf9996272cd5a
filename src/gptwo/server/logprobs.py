"""Log-probabilities in OpenAI's shape: parallel lists of tokens, their values, alternatives and places in the text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from gptwo.engine import TokenLogprob
from gptwo.tokenizer import IncrementalDecoder, Tokenizer


class Described(NamedTuple):
    """A token, and what is known of it: None for the first of a prompt, which nothing precedes."""

    token_id: int
    logprob: TokenLogprob | None


class LogprobLists:
    r"""Fills the lists for one text, in order and in as many parts as it is streamed in.

    A token that is part of a character is named by its bytes, `bytes:\xe2\x80`, so that two of them differ; a token
    without a text, and all of them with `as_ids`, by `token_id:ID`. Offsets count characters of the text.
    """

    def __init__(self, tokenizer: Tokenizer | None, *, as_ids: bool = False) -> None:
        """tokenizer: None names every token by its id."""
        self._tokenizer, self._as_ids = tokenizer, as_ids
        self._offset = 0
        self._decoder: IncrementalDecoder | None = None
        self.begin(0, skip_special=True)

    def begin(self, offset: int, *, skip_special: bool) -> None:
        """What follows is another text's tokens, which begin at this character. skip_special: they have no text."""
        self._offset = offset
        self._decoder = None if self._tokenizer is None else self._tokenizer.stream(skip_special=skip_special)

    def lists(self, tokens: Iterable[Described]) -> dict[str, Any]:
        """The lists for the next tokens."""
        names: list[str] = []
        values: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        offsets: list[int] = []
        for token_id, found in tokens:
            name = self.name(token_id)
            names.append(name)
            offsets.append(self._place(token_id))
            values.append(None if found is None else found.logprob)
            tops.append(None if found is None else self._alternatives(name, found))
        return {"tokens": names, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}

    def name(self, token_id: int) -> str:
        """A token as the lists have it."""
        if self._as_ids or self._tokenizer is None or not self._known(token_id):
            return f"token_id:{token_id}"
        return token_name(self._tokenizer, token_id)

    def _place(self, token_id: int) -> int:
        """Where a token begins; for a part of a character, where that does."""
        begin = self._offset
        if self._decoder is None or self._tokenizer is None or not self._known(token_id):
            return begin
        added = self._decoder.push(token_id)
        self._offset += len(added)
        own = self._tokenizer.token_text(token_id)
        # What was held back of bytes before it, and is no character after all, stands before it.
        return self._offset - len(own) if own and added.endswith(own) else begin

    def _alternatives(self, name: str, found: TokenLogprob) -> dict[str, float]:
        """The likeliest tokens, likeliest first, and the token itself if it is none of them."""
        top: dict[str, float] = {}
        for other in found.top:
            top.setdefault(self.name(other.token_id), other.logprob)
        top.setdefault(name, found.logprob)
        return top

    def _known(self, token_id: int) -> bool:
        return self._tokenizer is not None and token_id < self._tokenizer.vocab_size


def token_name(tokenizer: Tokenizer, token_id: int) -> str:
    r"""A token's text, or its bytes in OpenAI's way of writing them where they are part of a character.

    Example: the second half of an `é` is "bytes:\xa9", with the backslash as a character.
    """
    data = tokenizer.token_bytes(token_id)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def prompt_tokens(ids: Sequence[int], logprobs: Sequence[TokenLogprob | None]) -> list[Described]:
    """A prompt's tokens with what the model thought of them."""
    return [Described(token_id, found) for token_id, found in zip(ids, logprobs, strict=True)]


def vllm_prompt_logprobs(lists: LogprobLists, logprobs: Sequence[TokenLogprob | None]) -> list[Any]:
    """vLLM's shape: for each token of a prompt, what is known of it and of the likeliest, by token id.

    rank: from 1, and None where the token is none of the likeliest that were asked for.
    """
    shown: list[Any] = []
    for found in logprobs:
        if found is None:
            shown.append(None)
            continue
        entries: dict[str, dict[str, Any]] = {
            str(other.token_id): {"logprob": other.logprob, "rank": rank, "decoded_token": lists.name(other.token_id)}
            for rank, other in enumerate(found.top, 1)
        }
        own = {"logprob": found.logprob, "rank": None, "decoded_token": lists.name(found.token_id)}
        entries.setdefault(str(found.token_id), own)
        shown.append(entries)
    return shown
