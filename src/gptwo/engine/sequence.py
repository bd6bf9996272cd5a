"""One text in the making: its tokens, its text, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gptwo.engine.output import Choice, FinishReason, TokenLogprob
from gptwo.engine.past import Past
from gptwo.engine.speculation import Speculator
from gptwo.engine.text import TextAssembler

if TYPE_CHECKING:
    from gptwo.sampling.grammar import Constraint


@dataclass
class Sequence:
    """A sequence of a request, from its prompt on."""

    index: int
    """Which of the request's texts; part of what its random numbers are drawn from."""
    past: Past
    ids: list[int]
    """Prompt and output."""
    text: TextAssembler | None
    """None where there is no tokenizer."""
    speculator: Speculator | None = None
    """None where nothing is guessed."""
    constraint: Constraint | None = None
    """None where the text may be anything."""
    output_ids: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None

    def append(self, token_id: int) -> None:
        """Add a token to the output."""
        self.ids.append(token_id)
        self.output_ids.append(token_id)

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
