"""The engine: the only place where tokens are made.

Requests come in at any time; every `step()` runs one ragged batch of all that are under way through the decoder,
chooses tokens, and says what is new. Requests are admitted in the order in which they came, as soon as there is room.
An engine is used from one thread at a time.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence

import numpy as np

from gptwo.decoder.protocol import Decoder, Floats
from gptwo.engine.beam_run import BeamRun
from gptwo.engine.output import Event, Failure
from gptwo.engine.request import KeepLogits, make_request
from gptwo.engine.run import Feed, Run
from gptwo.engine.sampling_run import SamplingRun
from gptwo.errors import GptwoError
from gptwo.sampling import BeamParams, SamplingParams
from gptwo.tokenizer import Tokenizer


class Engine:
    """Continuous batching over one decoder.

    max_sequences: the most sequences under way at a time; a request that is wider is run when nothing else is.
    max_prefill_tokens: the prompts that one step begins have at most this many tokens, or are a single one.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer | None = None,
        *,
        max_sequences: int = 256,
        max_prefill_tokens: int = 2048,
    ) -> None:
        self._decoder, self._tokenizer = decoder, tokenizer
        self._max_sequences, self._max_prefill_tokens = max_sequences, max_prefill_tokens
        self._waiting: deque[Run] = deque()
        self._running: list[Run] = []
        self._numbers = itertools.count()

    def add(
        self, prompt_ids: Sequence[int], params: SamplingParams | BeamParams, *, keep_logits: KeepLogits = "none"
    ) -> int:
        """Queue a request and return its number, which every event about it carries.

        Raises InvalidRequestError or ContextLengthError, before any work, for what can never be answered.
        """
        request = make_request(
            next(self._numbers),
            prompt_ids,
            params,
            config=self._decoder.config,
            tokenizer=self._tokenizer,
            keep_logits=keep_logits,
        )
        kind = BeamRun if isinstance(params, BeamParams) else SamplingRun
        self._waiting.append(kind(request, self._decoder, self._tokenizer))
        return request.id

    def cancel(self, request_id: int) -> None:
        """Drop a request and free its memory; nothing more is said of it. A number that is done or unknown is none."""
        for run in [*self._running, *self._waiting]:
            if run.request.id == request_id:
                run.release()
        self._running = [run for run in self._running if run.request.id != request_id]
        self._waiting = deque(run for run in self._waiting if run.request.id != request_id)

    @property
    def waiting(self) -> int:
        """Requests that are not begun."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that are under way."""
        return len(self._running)

    def has_work(self) -> bool:
        """Whether `step` would do anything."""
        return bool(self._waiting or self._running)

    def step(self) -> list[Event]:
        """One forward pass for all that are under way, and what came of it.

        A request that fails ends with a Failure and does not disturb the others. If the forward pass is interrupted, by
        Ctrl-C say, every request is as it was before and the next step does this one's work.
        """
        self._admit()
        if not self._running:
            return []
        answers = self._answers([run.feeds() for run in self._running])
        events: list[Event] = []
        for run, answer in zip(self._running, answers, strict=True):
            try:
                if isinstance(answer, GptwoError):
                    raise answer
                events.extend(run.accept(answer))
            except GptwoError as error:
                run.done = True
                events.append(self._fail(run, error))
        self._running = [run for run in self._running if not run.done]
        return events

    def _admit(self) -> None:
        held = sum(run.width for run in self._running)
        tokens = 0
        while self._waiting:
            run = self._waiting[0]
            length = min(len(run.request.prompt_ids), self._decoder.config.n_positions)
            too_wide = held + run.width > self._max_sequences
            too_long = tokens + length > self._max_prefill_tokens
            if (held and too_wide) or (tokens and too_long):
                return
            self._running.append(self._waiting.popleft())
            held += run.width
            tokens += length

    def _answers(self, groups: list[list[Feed]]) -> list[list[Floats] | GptwoError]:
        """For the feeds of each request, the logits (rows, V) of each feed, or why there are none."""
        try:
            logits = iter(self._forward([feed for feeds in groups for feed in feeds]))
        except GptwoError as error:
            if len(groups) == 1:
                return [error]
            # No sequence has changed, so each request can be run alone, and only the one at fault fails.
            return [answer for feeds in groups for answer in self._answers([feeds])]
        return [list(itertools.islice(logits, len(feeds))) for feeds in groups]

    def _forward(self, feeds: list[Feed]) -> list[Floats]:
        """Run the batch; the logits (rows, V) of each feed."""
        token_ids: list[int] = []
        sequence: list[int] = []
        positions: list[int] = []
        rows: list[int] = []
        for feed in feeds:
            if self._decoder.length(feed.handle) > feed.keep:
                self._decoder.truncate(feed.handle, feed.keep)
            rows.extend(len(token_ids) + row for row in feed.rows)
            token_ids.extend(feed.token_ids)
            sequence.extend([feed.handle] * len(feed.token_ids))
            positions.extend(range(feed.keep, feed.keep + len(feed.token_ids)))
        arrays = (np.array(column, dtype=np.int64) for column in (token_ids, sequence, positions, rows))
        logits = self._decoder.forward(*arrays)
        ends = list(itertools.accumulate(len(feed.rows) for feed in feeds))
        return [logits[end - len(feed.rows) : end] for feed, end in zip(feeds, ends, strict=True)]

    def _fail(self, run: Run, error: GptwoError) -> Failure:
        run.release()
        return Failure(run.request.id, error)
