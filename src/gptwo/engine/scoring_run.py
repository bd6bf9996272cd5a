"""A request that asks how likely continuations of a text are: the text is computed once, and each goes on from it."""

from __future__ import annotations

from dataclasses import dataclass, field

from gptwo.decoder.protocol import Floats
from gptwo.engine.output import Event, Likelihood, Scored
from gptwo.engine.past import Past
from gptwo.engine.request import ScoringRequest
from gptwo.engine.run import Feed, Resources, Room
from gptwo.sampling.native import token_logprobs


@dataclass(eq=False)
class _Line:
    """The context and one continuation of it, as far as they are computed."""

    past: Past
    continuation: tuple[int, ...]
    logprobs: list[float] = field(default_factory=list)
    greedy: list[bool] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return len(self.logprobs) == len(self.continuation)

    def take(self, logits: Floats) -> None:
        """The logits (V,) before the next token of the continuation."""
        token = self.continuation[len(self.logprobs)]
        found = token_logprobs(logits, token, 1)
        assert found.logprob is not None
        self.logprobs.append(found.logprob)
        self.greedy.append(found.top[0][0] == token)
        if self.done:
            self.past.close()


class ScoringRun:
    """See `run.Run`. Logits are computed only where a continuation's token is predicted.

    With a decoder that is exact the continuations share the context's memory; with another, each is computed whole, in
    one pass, since parts would change bits.
    """

    def __init__(self, request: ScoringRequest, resources: Resources) -> None:
        self.request, self.done, self.waits = request, False, False
        self.width = request.width
        self._resources = resources
        self._context = list(request.context_ids)
        self._first: Past | None = None
        self._lines: list[_Line] = []  # empty until the context is computed
        self._fed: list[tuple[_Line | None, Feed]] = []  # None for the context
        if resources.exact:
            self._first = Past(resources, shares=request.shares)
        else:
            self._lines = [_Line(Past(resources, shares=False), ids) for ids in request.continuations]

    def feeds(self, room: Room) -> list[Feed]:
        """The context; later what is left of each continuation. Its last token is predicted, and not fed."""
        self._fed = []
        if self._first is not None:
            feed = self._first.feed(self._context, room)
            self._fed += [] if feed is None else [(None, feed)]
        for line in self._lines if self._first is None else ():
            if not line.done:
                feed = line.past.feed(self._text(line), room, rows_from=len(self._context) - 1)
                self._fed += [] if feed is None else [(line, feed)]
        self.waits = not any(feed.complete for _, feed in self._fed)
        return [feed for _, feed in self._fed]

    def accept(self, logits: list[Floats]) -> list[Event]:
        """Take the log-probabilities of the tokens that stand behind those that were computed."""
        for (line, feed), rows in zip(self._fed, logits, strict=True):
            if line is None:
                assert self._first is not None
                self._first.commit(feed, self._context)
                if feed.complete:
                    self._go_on(self._first, rows[-1])
                continue
            line.past.commit(feed, self._text(line))
            for row in rows:
                line.take(row)
        self.done = bool(self._lines) and all(line.done for line in self._lines)
        if not self.done:
            return []
        found = tuple(Likelihood(tuple(line.logprobs), tuple(line.greedy)) for line in self._lines)
        return [Scored(self.request.id, found)]

    def release(self) -> None:
        """Close what is open."""
        for past in [self._first, *(line.past for line in self._lines)]:
            if past is not None:
                past.close()

    def _text(self, line: _Line) -> list[int]:
        return [*self._context, *line.continuation[:-1]]

    def _go_on(self, context: Past, logits: Floats) -> None:
        """The context is computed, and `logits` (V,) say what comes next: let each continuation go on from there."""
        first, *others = self.request.continuations
        self._lines.append(_Line(context, first))
        for ids in others:
            # What is one token long is predicted already, and needs no memory.
            past = context.fork() if len(ids) > 1 else Past(self._resources, shares=False)
            self._lines.append(_Line(past, ids))
        self._first = None
        for line in self._lines:
            line.take(logits)
