"""The engine: the only place where tokens are made.

Requests come in at any time; every `step()` runs one ragged batch of all that are under way through the decoder,
chooses tokens, and says what is new. Requests are admitted in the order in which they came, as soon as there is room,
and prompts computed in that order, in chunks, so that nobody waits for more than a chunk of another's.
An engine is used from one thread at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from gptwo.config import GPTConfig
from gptwo.decoder.protocol import Decoder, Floats
from gptwo.engine.beam_run import BeamRun
from gptwo.engine.output import Event, Failure
from gptwo.engine.prefix_cache import BLOCK, PrefixCache
from gptwo.engine.request import KeepLogits, Request, ScoringRequest, make_request, make_scoring_request
from gptwo.engine.run import Feed, Resources, Room, Run
from gptwo.engine.sampling_run import SamplingRun
from gptwo.engine.scoring_run import ScoringRun
from gptwo.engine.statistics import Statistics
from gptwo.errors import DecoderError, GptwoError, InvalidRequestError, OutOfMemoryError, one_line
from gptwo.options import integer
from gptwo.sampling import BeamParams, SamplingParams
from gptwo.tokenizer import Tokenizer

PREFIX_BYTES = 256 * 2**20
# Beyond so many rows a step takes longer by about what each costs, and guesses have nothing to gain.
DRAFT_ROWS = 16


class Engine:
    """Continuous batching over one decoder.

    max_sequences: the most sequences under way at a time; a request that is wider is run when nothing else is.
    chunk_tokens: the most prompt tokens that a step computes beside the last token of each text under way. A longer
    prompt goes on in the next step.
    prefix_blocks: how many blocks of 64 tokens are held for prompts that begin like earlier texts; 0 holds none. None
    is what 256 MiB hold, and one whole context at least.
    max_blocks: how many blocks the texts under way may come to hold; a request beyond that waits, and one that never
    has room is refused. None has no bound.

    A decoder that does not promise exactness (see the protocol) has its prompts computed whole, nothing reused and
    nothing drafted, since each would change bits.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer | None = None,
        *,
        max_sequences: int = 256,
        chunk_tokens: int = 256,
        prefix_blocks: int | None = None,
        max_blocks: int | None = None,
    ) -> None:
        """Raises InvalidRequestError for a number out of range."""
        integer(1)("max_sequences", max_sequences)
        integer(1)("chunk_tokens", chunk_tokens)
        integer(0, optional=True)("prefix_blocks", prefix_blocks)
        integer(1, optional=True)("max_blocks", max_blocks)
        self._positions, self._max_blocks = decoder.config.n_positions, max_blocks
        self._decoder, self._tokenizer = decoder, tokenizer
        self._max_sequences, self._chunk_tokens = max_sequences, chunk_tokens
        self._exact = bool(getattr(decoder, "exact", False))
        most_blocks = _default_blocks(decoder.config) if prefix_blocks is None else prefix_blocks
        self._most_blocks = most_blocks
        self._prefixes = PrefixCache(decoder, most_blocks if self._exact else 0)
        self._statistics = Statistics()
        self._resources = Resources(decoder, tokenizer, self._prefixes, self._statistics, self._exact)
        self._waiting: deque[Run] = deque()
        self._running: list[Run] = []
        self._accepting: Run | None = None  # the one that takes its logits now, or was interrupted at it
        self._said: list[Event] = []  # and not handed out yet
        self._numbers = itertools.count()

    def add(
        self, prompt_ids: Sequence[int], params: SamplingParams | BeamParams, *, keep_logits: KeepLogits = "none"
    ) -> int:
        """Queue a request and return its number, which every event about it carries.

        Raises InvalidRequestError or ContextLengthError, before any work, for what can never be answered.
        """
        request = self.prepare(prompt_ids, params, keep_logits=keep_logits)
        self.submit(request)
        return request.id

    def prepare(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams | BeamParams,
        *,
        keep_logits: KeepLogits = "none",
        like: Request | None = None,
    ) -> Request:
        """A request with a number of its own, checked and not queued. Any thread may call this at any time.

        like: another request that this engine has prepared, perhaps with the same parameters, which saves work.

        Raises InvalidRequestError or ContextLengthError for what can never be answered.
        """
        request = make_request(
            next(self._numbers),
            prompt_ids,
            params,
            config=self._decoder.config,
            tokenizer=self._tokenizer,
            keep_logits=keep_logits,
            like=like,
        )
        self._check_memory(request)
        return request

    def prepare_scoring(
        self, context_ids: Sequence[int], continuations: Sequence[Sequence[int]], *, shares: bool = True
    ) -> ScoringRequest:
        """A request to say how likely continuations of a text are, with a number of its own; it is answered by Scored.

        context_ids: at least one token. continuations: one or several, each at least one token long; the context is
        computed once for all of them. shares: whether other requests begin with the same tokens, as with examples that
        all tasks have before them. Raises InvalidRequestError or ContextLengthError.
        """
        number, config = next(self._numbers), self._decoder.config
        request = make_scoring_request(number, context_ids, continuations, config=config, shares=shares)
        self._check_memory(request)
        return request

    def _check_memory(self, request: Request | ScoringRequest) -> None:
        blocks = request.blocks(self._positions)
        if self._max_blocks is not None and blocks > self._max_blocks:
            raise InvalidRequestError(
                f"the request's texts may come to hold {blocks} blocks of {BLOCK} tokens, and there is memory for "
                f"{self._max_blocks}; ask for fewer texts (n, best_of) or fewer tokens (max_tokens)",
                param="max_tokens",
            )

    def submit(self, request: Request | ScoringRequest) -> None:
        """Queue a request that this engine has prepared; once, since its number tells its events from others'."""
        self._waiting.append(self._run(request))

    def _run(self, request: Request | ScoringRequest) -> Run:
        if isinstance(request, ScoringRequest):
            return ScoringRun(request, self._resources)
        kind = BeamRun if isinstance(request.params, BeamParams) else SamplingRun
        return kind(request, self._resources)

    def cancel(self, request_id: int) -> None:
        """Drop a request and free its memory; nothing more is said of it. A number that is done or unknown is none."""
        self._settle()
        for run in [*self._running, *self._waiting]:
            if run.request.id == request_id:
                run.release()
        self._said = [event for event in self._said if event.request_id != request_id]
        self._running = [run for run in self._running if run.request.id != request_id]
        self._waiting = deque(run for run in self._waiting if run.request.id != request_id)

    def close(self) -> None:
        """Drop every request, as `cancel` does, and free what is held for prompts to come."""
        self._settle()
        for run in [*self._running, *self._waiting]:
            run.release()
        self._running.clear()
        self._waiting.clear()
        self._said.clear()
        self.clear_prefixes()

    def renewed(self) -> Engine:
        """One like this that has nothing to do, in place of this one: for a process that was forked in the middle of a
        step of a thread that is not there. Numbers go on, so that none means two requests.
        """
        other = Engine(
            self._decoder,
            self._tokenizer,
            max_sequences=self._max_sequences,
            chunk_tokens=self._chunk_tokens,
            prefix_blocks=self._most_blocks,
            max_blocks=self._max_blocks,
        )
        other._numbers = self._numbers
        with contextlib.suppress(GptwoError):  # the decoder has forgotten its sequences if that thread was in it
            self.close()
        return other

    @property
    def waiting(self) -> int:
        """Requests that are not begun. They are begun in the order in which they came."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that are under way."""
        return len(self._running)

    @property
    def prefix_blocks(self) -> int:
        """Blocks of 64 tokens that are held for prompts to come."""
        return len(self._prefixes)

    @property
    def cache_blocks(self) -> int | None:
        """Blocks of 64 positions in use, a shared one counted once; None for a decoder that does not count them."""
        return getattr(self._decoder, "cache_blocks", None)

    @property
    def statistics(self) -> Statistics:
        """What was counted so far."""
        return dataclasses.replace(self._statistics)

    def clear_prefixes(self) -> None:
        """Free what is held for prompts to come; requests that are under way go on."""
        self._prefixes.clear()

    def has_work(self) -> bool:
        """Whether `step` would do anything."""
        return bool(self._waiting or self._running or self._said)

    def knows(self, request_id: int) -> bool:
        """Whether there is more to say of a request: it is not done, or its last events are not handed out."""
        runs = itertools.chain(self._running, self._waiting)
        return any(run.request.id == request_id for run in runs) or any(
            event.request_id == request_id for event in self._said
        )

    def step(self) -> list[Event]:
        """One forward pass for all that are under way, and what came of it.

        A request that fails, with whatever exception, ends with a Failure and does not disturb the others. A step may
        be interrupted, by Ctrl-C say, and no event is lost: requests whose tokens were not chosen yet are as they were
        before, and have their work done by a later step; what was said of the others comes from the next step, at once
        and without a forward pass. Only a request that is interrupted while its own tokens are chosen ends, with a
        Failure.
        """
        self._settle()
        if not self._said:
            try:
                batch = self._batch()
                answers = self._answers([feeds for _, feeds in batch]) if batch else []
                for (run, _), answer in zip(batch, answers, strict=True):
                    self._accept(run, answer)
            finally:
                self._settle()
        # Python handles signals at calls and at jumps backwards, so there is no loss between here and the caller.
        said, self._said = self._said, []
        return said

    def _accept(self, run: Run, answer: list[Floats] | GptwoError) -> None:
        try:
            self._accepting = run
            if isinstance(answer, GptwoError):
                raise answer
            self._said += run.accept(answer)  # and no call from here on, so that this is done wholly or not at all
            self._accepting = None
        except Exception as error:  # noqa: BLE001  # whatever it is, the others go on
            self._settle(_reported(error))

    def _settle(self, error: GptwoError | None = None) -> None:
        """End the request that was about to take its logits, if there is one, and forget those that are done.

        It may be interrupted too: whatever it did not come to, it does when it is called the next time.
        """
        run = self._accepting
        if run is not None:
            run.done = True
            run.release()
            if error is None:
                error = DecoderError("the engine was interrupted while it chose this request's tokens; ask again")
            failure = Failure(run.request.id, error)
            self._said += [failure]
            self._accepting = None
        # In the order of their turns for room: whoever has had one stands behind those who wait.
        self._running = sorted((run for run in self._running if not run.done), key=lambda run: not run.waits)

    def _batch(self) -> list[tuple[Run, list[Feed]]]:
        """Who takes part in the next step, and with what; new requests too, as long as there is room.

        Who waits for room has it first, then new requests. A text that slides needs room for each of its tokens: after
        each it comes last and then waits like others, so that it keeps nobody from room and is not kept from it.
        """
        if self._waiting and self._waiting[0] in self._running:
            self._waiting.popleft()  # an interruption came between the two lines below
        held = sum(run.width for run in self._running)
        blocks = sum(run.request.blocks(self._positions) for run in self._running) if self._waiting else 0
        room = Room(self._chunk_tokens, DRAFT_ROWS - held, cuts=self._exact)
        self._prefixes.begin_step()
        waiting = [run for run in self._running if run.waits]
        others = [run for run in self._running if not run.waits]
        batch = [(run, self._feeds(run, room)) for run in waiting]
        while self._waiting and room.tokens:
            width = self._waiting[0].width
            more = self._waiting[0].request.blocks(self._positions)
            if held and (held + width > self._max_sequences or blocks + more > (self._max_blocks or math.inf)):
                break
            self._running.append(self._waiting[0])
            self._waiting.popleft()
            held, blocks = held + width, blocks + more
            batch.append((self._running[-1], self._feeds(self._running[-1], room)))
        batch.extend((run, self._feeds(run, room)) for run in others)
        return [(run, feeds) for run, feeds in batch if feeds]

    def _feeds(self, run: Run, room: Room) -> list[Feed]:
        try:
            return run.feeds(room)
        except Exception as error:  # noqa: BLE001  # whatever it is, the others go on
            self._accepting = run
            self._settle(_reported(error))
            return []

    def _answers(self, groups: list[list[Feed]]) -> list[list[Floats] | GptwoError]:
        """For the feeds of each request, the logits (rows, V) of each feed, or why there are none."""
        try:
            logits = iter(self._forward([feed for feeds in groups for feed in feeds]))
        except (GptwoError, MemoryError) as error:
            if len(groups) == 1:
                return [_reported(error)]
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


def _reported(error: Exception) -> GptwoError:
    """What the one who made the request is told."""
    if isinstance(error, GptwoError):
        return error
    reported: GptwoError
    if isinstance(error, MemoryError):
        reported = OutOfMemoryError("there is not enough memory for this request's step")
    else:
        reported = GptwoError(f"a defect of gptwo ended this request: {type(error).__name__}: {one_line(error)}")
    reported.__cause__ = error
    return reported


def block_bytes(config: GPTConfig) -> int:
    """What a block of 64 positions takes, at most: keys and values in float32."""
    return 2 * 4 * config.n_layer * config.n_embd * BLOCK


def _default_blocks(config: GPTConfig) -> int:
    return max(PREFIX_BYTES // block_bytes(config), -(-config.n_positions // BLOCK))
