"""Perplexity of a text, long or short."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from gptwo import scoring
from gptwo.errors import InvalidRequestError
from gptwo.evaluation.questions import Progress, tokenizer_of
from gptwo.language_model import LanguageModel


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text: all of it but its first token, before which nothing stands."""

    tokens: int
    """Predicted."""
    nats: float
    """Negative log-probability of all of them."""
    words: int
    """In what they spell, between white space, unless somebody counted otherwise."""
    characters: int
    bytes: int
    """Of UTF-8."""
    positions: int
    """The longest context."""
    stride: int
    """Tokens from the beginning of a window to that of the next."""
    left_out: int = 0
    """Tokens of the text behind those that were predicted."""

    @property
    def perplexity(self) -> float:
        """exp(nats / tokens)."""
        return scoring.perplexity(self.nats, self.tokens)

    @property
    def word_perplexity(self) -> float:
        """exp(nats / words): comparable between tokenizers."""
        return scoring.perplexity(self.nats, self.words)

    @property
    def bits_per_byte(self) -> float:
        """nats / (ln 2 · bytes): comparable between tokenizers and languages."""
        return self.nats / math.log(2.0) / self.bytes if self.bytes else math.nan

    @property
    def nats_per_character(self) -> float:
        """nats / characters."""
        return self.nats / self.characters if self.characters else math.nan

    def measures(self) -> dict[str, float]:
        """The figures by name."""
        return {
            "perplexity": self.perplexity,
            "word_perplexity": self.word_perplexity,
            "bits_per_byte": self.bits_per_byte,
            "nats_per_character": self.nats_per_character,
        }


def perplexity(
    lm: LanguageModel,
    text: str,
    *,
    stride: int | None = None,
    words: int | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Perplexity:
    """How well a model predicts a text. Windows, stride and errors are those of `LanguageModel.score`.

    words: of the text, if they are to be counted otherwise than between white space. limit: the first so many windows
    only.
    Raises InvalidRequestError for a text without tokens, or of a single one.
    """
    tokenizer = tokenizer_of(lm)
    positions, left_out = lm.config.n_positions, 0
    begin: str | list[int] = text
    if limit is not None:
        ids = tokenizer.encode(text)
        end = len(ids)
        for window in itertools.islice(scoring.windows(len(ids), positions, stride), limit):
            end = window.end
        begin, left_out = ids[:end], len(ids) - end
    score = lm.score(begin, stride=stride, progress=progress)
    if not score.scored:
        raise InvalidRequestError("there is nothing to predict: the text has a single token", param="text")
    known = (token for token in score.token_ids[1:] if token < tokenizer.vocab_size)
    spelled = b"".join(map(tokenizer.token_bytes, known))
    return Perplexity(
        tokens=score.scored,
        nats=-score.total,
        words=len(spelled.decode("utf-8", "replace").split()) if words is None else words,
        characters=sum(byte & 0xC0 != 0x80 for byte in spelled),  # those that begin one
        bytes=len(spelled),
        positions=positions,
        stride=scoring.default_stride(positions) if stride is None else stride,
        left_out=left_out,
    )
