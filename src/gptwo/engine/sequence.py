"""One text in the making: its tokens, its text, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass, field

from gptwo.engine.output import Choice, FinishReason, TokenLogprob
from gptwo.engine.text import TextAssembler


@dataclass
class Sequence:
    """A sequence of a request, from its prompt on."""

    index: int
    """Which of the request's texts; part of what its random numbers are drawn from."""
    handle: int | None
    """The decoder's number for it; None when it holds no memory there."""
    prompt_ids: tuple[int, ...]
    text: TextAssembler | None
    """None where there is no tokenizer."""
    output_ids: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None

    def pending(self, held: int, window: int) -> tuple[int, list[int]]:
        """What must be fed to the decoder next, which holds `held` tokens: (keep, tokens).

        The decoder's sequence is to be cut to `keep` tokens first. Once the text is longer than the model's `window`
        of positions, that is all of it: learned positions cannot be shifted, so the last window is computed anew.
        """
        length = len(self.prompt_ids) + len(self.output_ids)
        if length > window:
            return 0, self._slice(length - window)
        # A step that was interrupted after its forward pass is done again: the last token is always fed.
        held = min(held, length - 1)
        return held, self._slice(held)

    def _slice(self, start: int) -> list[int]:
        prompt = len(self.prompt_ids)
        if start >= prompt:
            return self.output_ids[start - prompt :]
        return [*self.prompt_ids[start:], *self.output_ids]

    def to_choice(self, index: int, *, with_logprobs: bool) -> Choice:
        """The finished text, as number `index` of its completion."""
        assert self.finish_reason is not None
        return Choice(
            index=index,
            text="".join(self.pieces),
            token_ids=tuple(self.output_ids),
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            logprobs=tuple(self.logprobs) if with_logprobs else None,
            cumulative_logprob=sum(token.logprob for token in self.logprobs) if with_logprobs else None,
        )
