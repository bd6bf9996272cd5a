"""A request that draws its tokens: one prefill, then n texts that share it."""

from __future__ import annotations

import itertools

import numpy as np

from gptwo.decoder.protocol import Floats
from gptwo.engine.output import Choice, Completion, Event, Piece, TokenLogprob, TopToken
from gptwo.engine.past import Past
from gptwo.engine.request import Request
from gptwo.engine.run import Feed, Resources, Room
from gptwo.engine.sequence import Sequence
from gptwo.engine.speculation import Speculator
from gptwo.engine.text import TextAssembler, token_text
from gptwo.errors import OutOfMemoryError
from gptwo.sampling import SamplingParams
from gptwo.sampling.native import Chosen, Sampler, token_logprobs


class SamplingRun:
    """See `run.Run`."""

    def __init__(self, request: Request, resources: Resources) -> None:
        assert isinstance(request.params, SamplingParams)
        self.request, self.done, self.waits = request, False, False
        self._params = request.params
        self.width = request.width
        self._resources, self._tokenizer = resources, resources.tokenizer
        self._window = resources.decoder.config.n_positions
        self._chooses_best = self.width > self._params.n
        self._sampler = Sampler(
            self._params,
            request.prompt_ids,
            seed=request.seed,
            bad_words=request.bad_words,
            stop_ids=request.stop_ids,
            vocab_size=None if self._tokenizer is None else self._tokenizer.vocab_size,
            logprobs=0 if self._params.logprobs is None and self._chooses_best else self._params.logprobs,
        )
        # Where the logits of the whole prompt are wanted all of it is computed, and its blocks are not held either:
        # what is scored is seldom gone on from.
        self._every_row = self._params.prompt_logprobs is not None or request.keep_logits == "all"
        self._first = self._new_sequence(0, Past(resources, shares=not self._every_row))
        self._sequences: list[Sequence] = []  # empty until the prompt is computed
        self._fed: list[tuple[Sequence, Feed]] = []
        self._prompt_logprobs: list[TokenLogprob | None] = [None]
        self._prompt_logits: Floats | None = None

    def feeds(self, room: Room) -> list[Feed]:
        """The prompt; later the last token of each text that goes on, and guesses behind it."""
        self._fed = []
        for sequence in self._turns():
            drafts, every_row = self._drafts(sequence, room), self._every_row and not self._sequences
            feed = sequence.past.feed(sequence.ids, room, drafts, rows_from=0 if every_row else None)
            if feed is not None:
                room.drafts -= feed.drafts
                self._fed.append((sequence, feed))
        self.waits = not any(feed.complete for _, feed in self._fed)
        return [feed for _, feed in self._fed]

    def accept(self, logits: list[Floats]) -> list[Event]:
        """Choose tokens for the texts that were computed to their ends."""
        pieces: list[Piece] = []
        for (sequence, feed), rows in zip(self._fed, logits, strict=True):
            if self._sequences:
                chosen = self._advance(sequence, feed, rows) if feed.complete else []
                sequence.past.commit(feed, sequence.ids, accepted=max(0, len(chosen) - 1))
                pieces.extend(chosen)
                continue
            sequence.past.commit(feed, sequence.ids)
            self._keep_prompt(feed, rows)
            if feed.complete:
                self._start_texts()
                pieces.extend(self._choose(text, rows[-1]) for text in self._sequences)
        for sequence in self._sequences:
            if sequence.finish_reason is not None:
                sequence.past.close()
        self.done = bool(self._sequences) and not self._active()
        events: list[Event] = [] if self._chooses_best else [*pieces]
        return [*events, *self._complete()] if self.done else events

    def release(self) -> None:
        """Close what is open."""
        for sequence in self._sequences or [self._first]:
            sequence.past.close()

    def _active(self) -> list[Sequence]:
        return [sequence for sequence in self._sequences if sequence.finish_reason is None]

    def _turns(self) -> list[Sequence]:
        """The texts to compute, in the order in which they get room."""
        if not self._sequences:
            return [self._first]
        if self._params.overflow == "slide":  # which needs room for each token
            return sorted(self._active(), key=lambda sequence: len(sequence.output_ids))
        return self._active()

    def _new_sequence(self, index: int, past: Past) -> Sequence:
        text, speculator = None, None
        if self._tokenizer is not None:
            text = TextAssembler(
                self._tokenizer.stream(skip_special=True),
                self._params.stop_strings,
                include_stop=self._params.include_stop_str_in_output,
            )
        # Drafts must not change a bit, which only an exact decoder promises.
        if self._params.speculate and self._resources.exact:
            speculator = Speculator(self._params.speculate)
        constraint = None if self.request.constraint is None else self.request.constraint.copy()
        return Sequence(index, past, list(self.request.prompt_ids), text, speculator, constraint)

    def _start_texts(self) -> None:
        """The prompt is computed: let the other texts go on from it."""
        self._sequences = [self._first]
        for index in range(1, self.width):
            self._sequences.append(self._new_sequence(index, self._first.past.fork()))

    def _drafts(self, sequence: Sequence, room: Room) -> list[int]:
        """Guesses that a step has room for, that the model has positions for, and that can all be used."""
        if sequence.speculator is None or not self._sequences:
            return []
        left = self.request.max_tokens - len(sequence.output_ids) - 1
        most = min(room.drafts, left, self._window - len(sequence.ids))
        if sequence.constraint is None:
            return sequence.speculator.draft(sequence.ids, most)
        drafts = sequence.constraint.forced(most) or sequence.speculator.draft(sequence.ids, most)
        return drafts[: sequence.constraint.usable(drafts)]

    def _keep_prompt(self, feed: Feed, logits: Floats) -> None:
        """Keep what was asked of the logits (rows, V) of a part of the prompt."""
        count = self._params.prompt_logprobs
        if count is not None:
            following = self.request.prompt_ids[feed.keep + 1 : feed.keep + 1 + len(logits)]
            for token, row in zip(following, logits, strict=False):  # nothing follows the last
                self._prompt_logprobs.append(self._describe(token_logprobs(row, token, count)))
        if self.request.keep_logits == "all":
            if self._prompt_logits is None:
                length = min(len(self.request.prompt_ids), self._window)
                try:
                    self._prompt_logits = np.empty((length, logits.shape[1]), dtype=np.float32)
                except MemoryError as error:
                    raise OutOfMemoryError(f"there is not enough memory for the logits of {length} tokens") from error
            self._prompt_logits[feed.keep : feed.keep + len(logits)] = logits
        elif self.request.keep_logits == "last" and feed.complete:
            self._prompt_logits = logits[-1:].copy()

    def _advance(self, sequence: Sequence, feed: Feed, logits: Floats) -> list[Piece]:
        """Choose the next token of a text, and one more behind each draft that turns out to be right.

        logits: (1 + drafts, V).
        """
        drafts = feed.token_ids[len(feed.token_ids) - feed.drafts :]
        pieces: list[Piece] = []
        for row, draft in itertools.zip_longest(logits, drafts):
            pieces.append(self._choose(sequence, row))
            if sequence.finish_reason is not None or sequence.output_ids[-1] != draft:
                break
        if sequence.speculator is not None and drafts:
            sequence.speculator.settle(len(drafts), len(pieces) - 1, len(sequence.ids))
            self._resources.statistics.drafted_tokens += len(drafts)
            self._resources.statistics.accepted_tokens += len(pieces) - 1
        return pieces

    def _choose(self, sequence: Sequence, logits: Floats) -> Piece:
        request, params, constraint = self.request, self._params, sequence.constraint
        complete = constraint is not None and constraint.ended  # the empty text is all that is allowed
        if complete or request.max_tokens == 0:
            sequence.finish_reason = "stop" if complete else "length"
            return Piece(
                request.id,
                sequence.index,
                "",
                logprobs=None if params.logprobs is None else (),
                finish_reason=sequence.finish_reason,
            )
        mask = None if constraint is None else constraint.mask
        chosen = self._sampler.choose(logits, sequence.index, sequence.output_ids, mask)
        token_id = chosen.token_id
        described: tuple[TokenLogprob, ...] | None = None
        if chosen.logprob is not None:
            described = (self._describe(chosen),)
            sequence.logprobs.extend(described)
        text = self._append(sequence, token_id)
        sequence.pieces.append(text)
        return Piece(
            request.id,
            sequence.index,
            text,
            (token_id,),
            described,
            sequence.finish_reason,
            sequence.stop_reason,
        )

    def _append(self, sequence: Sequence, token_id: int) -> str:
        """Add a token to a text and decide whether it ends; the piece of text that is certain now."""
        params, text, constraint = self._params, sequence.text, sequence.constraint
        sequence.append(token_id)
        count = len(sequence.output_ids)
        may_stop = count > params.min_tokens
        stops = token_id in self.request.stop_ids
        if constraint is not None and not stops:
            constraint.accept(token_id)
        if stops:
            sequence.finish_reason = "stop"
            sequence.stop_reason = token_id if token_id in params.stop_token_ids else None
        elif constraint is not None and constraint.ended:
            sequence.finish_reason = "stop"
        elif count >= self.request.max_tokens:
            sequence.finish_reason = "length"
        if text is None:
            return ""
        piece = ""
        if not stops or params.include_stop_str_in_output:
            piece = text.push(token_id, may_stop=may_stop)
        if sequence.finish_reason is not None and text.stopped_by is None:
            piece += text.flush(may_stop=may_stop)
        if text.stopped_by is not None:
            sequence.finish_reason, sequence.stop_reason = "stop", text.stopped_by
        return piece

    def _describe(self, chosen: Chosen) -> TokenLogprob:
        assert chosen.logprob is not None
        known = self._tokenizer
        top = tuple(TopToken(other, token_text(known, other), value) for other, value in chosen.top)
        return TokenLogprob(chosen.token_id, token_text(known, chosen.token_id), chosen.logprob, top)

    def _complete(self) -> list[Event]:
        """The completion, and before it, where the best of many were chosen, their texts in one piece each."""
        chosen = self._sequences
        if self._chooses_best:
            chosen = sorted(chosen, key=_mean_logprob, reverse=True)[: self._params.n]
        with_logprobs = self._params.logprobs is not None
        choices = tuple(s.to_choice(i, with_logprobs=with_logprobs) for i, s in enumerate(chosen))
        pieces = [_whole_piece(self.request.id, choice) for choice in choices] if self._chooses_best else []
        completion = Completion(
            request_id=self.request.id,
            prompt_token_ids=self.request.prompt_ids,
            choices=choices,
            seed=self.request.seed,
            prompt_logprobs=None if self._params.prompt_logprobs is None else tuple(self._prompt_logprobs),
            prompt_logits=self._prompt_logits,
        )
        return [*pieces, completion]


def _mean_logprob(sequence: Sequence) -> float:
    """OpenAI's measure of the best: the highest log-probability per token."""
    return sum(token.logprob for token in sequence.logprobs) / max(1, len(sequence.logprobs))


def _whole_piece(request_id: int, choice: Choice) -> Piece:
    return Piece(
        request_id,
        choice.index,
        choice.text,
        choice.token_ids,
        choice.logprobs,
        choice.finish_reason,
        choice.stop_reason,
    )
