"""A request that draws its tokens: one prefill, then n texts that share it."""

from __future__ import annotations

from gptwo.decoder.protocol import Decoder, Floats
from gptwo.engine.output import Choice, Completion, Event, Piece, TokenLogprob, TopToken
from gptwo.engine.request import Request
from gptwo.engine.run import Feed
from gptwo.engine.sequence import Sequence
from gptwo.engine.text import TextAssembler, token_text
from gptwo.sampling import SamplingParams
from gptwo.sampling.native import Chosen, Sampler, token_logprobs
from gptwo.tokenizer import Tokenizer


class SamplingRun:
    """See `run.Run`."""

    def __init__(self, request: Request, decoder: Decoder, tokenizer: Tokenizer | None) -> None:
        assert isinstance(request.params, SamplingParams)
        self.request, self.done = request, False
        self._params = request.params
        self.width = self._params.best_of or self._params.n
        self._decoder, self._tokenizer = decoder, tokenizer
        self._chooses_best = self.width > self._params.n
        self._sampler = Sampler(
            self._params,
            request.prompt_ids,
            seed=request.seed,
            bad_words=request.bad_words,
            stop_ids=request.stop_ids,
            vocab_size=None if tokenizer is None else tokenizer.vocab_size,
            logprobs=0 if self._params.logprobs is None and self._chooses_best else self._params.logprobs,
        )
        self._sequences: list[Sequence] = []  # empty until the prompt is prefilled
        self._first = self._new_sequence(0)
        self._prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
        self._prompt_logits: Floats | None = None

    def feeds(self) -> list[Feed]:
        """The prompt; later the last token of each text that goes on."""
        if not self._sequences:
            if self._first.handle is None:
                self._first.handle = self._decoder.open()
            return [self._feed(self._first)]
        return [self._feed(sequence) for sequence in self._active()]

    def accept(self, logits: list[Floats]) -> list[Event]:
        """Choose a token for each text."""
        events: list[Event] = []
        if not self._sequences:
            rows = [self._finish_prefill(logits[0])] * self.width
            self._sequences = [self._first]
            for index in range(1, self.width):
                self._sequences.append(self._fork(index))
        else:
            rows = [row[-1] for row in logits]
        for sequence, row in zip(self._active(), rows, strict=True):
            if self.request.max_tokens == 0:
                sequence.finish_reason = "length"
                described = None if self._params.logprobs is None else ()
                piece = Piece(self.request.id, sequence.index, "", logprobs=described, finish_reason="length")
            else:
                piece = self._choose(sequence, row)
            if not self._chooses_best:
                events.append(piece)
            if sequence.finish_reason is not None:
                self._close(sequence)
        if not self._active():
            self.done = True
            events.extend(self._complete())
        return events

    def release(self) -> None:
        """Close what is open."""
        for sequence in self._sequences or [self._first]:
            self._close(sequence)

    def _active(self) -> list[Sequence]:
        return [sequence for sequence in self._sequences if sequence.finish_reason is None]

    def _new_sequence(self, index: int) -> Sequence:
        text = None
        if self._tokenizer is not None:
            text = TextAssembler(
                self._tokenizer.stream(skip_special=True),
                self._params.stop_strings,
                include_stop=self._params.include_stop_str_in_output,
            )
        return Sequence(index=index, handle=None, prompt_ids=self.request.prompt_ids, text=text)

    def _fork(self, index: int) -> Sequence:
        sequence = self._new_sequence(index)
        assert self._first.handle is not None
        sequence.handle = self._decoder.fork(self._first.handle)
        return sequence

    def _close(self, sequence: Sequence) -> None:
        if sequence.handle is not None:
            self._decoder.close(sequence.handle)
            sequence.handle = None

    def _feed(self, sequence: Sequence) -> Feed:
        assert sequence.handle is not None
        prefill = not self._sequences
        # A prefill that was interrupted behind its forward pass begins again, for rows that may be wanted.
        held = 0 if prefill else self._decoder.length(sequence.handle)
        keep, token_ids = sequence.pending(held, self._decoder.config.n_positions)
        everything = prefill and (self._params.prompt_logprobs is not None or self.request.keep_logits == "all")
        rows = range(0 if everything else len(token_ids) - 1, len(token_ids))
        return Feed(sequence.handle, keep, token_ids, rows)

    def _finish_prefill(self, logits: Floats) -> Floats:
        """Keep what was asked of the prompt's logits (rows, V); the row that the first token is drawn from."""
        if self._params.prompt_logprobs is not None:
            count = self._params.prompt_logprobs
            pairs = zip(self.request.prompt_ids[1:], logits[:-1], strict=True)
            described = [self._describe(token_logprobs(row, token, count)) for token, row in pairs]
            self._prompt_logprobs = (None, *described)
        if self.request.keep_logits != "none":
            self._prompt_logits = logits if self.request.keep_logits == "all" else logits[-1:]
        last: Floats = logits[-1]
        return last

    def _choose(self, sequence: Sequence, logits: Floats) -> Piece:
        chosen = self._sampler.choose(logits, sequence.index, sequence.output_ids)
        token_id = chosen.token_id
        described: tuple[TokenLogprob, ...] | None = None
        if chosen.logprob is not None:
            described = (self._describe(chosen),)
            sequence.logprobs.extend(described)
        text = self._append(sequence, token_id)
        sequence.pieces.append(text)
        return Piece(
            self.request.id,
            sequence.index,
            text,
            (token_id,),
            described,
            sequence.finish_reason,
            sequence.stop_reason,
        )

    def _append(self, sequence: Sequence, token_id: int) -> str:
        """Add a token to a text and decide whether it ends; the piece of text that is certain now."""
        params, text = self._params, sequence.text
        sequence.output_ids.append(token_id)
        count = len(sequence.output_ids)
        may_stop = count > params.min_tokens
        stops = token_id in self.request.stop_ids
        if stops:
            sequence.finish_reason = "stop"
            sequence.stop_reason = token_id if token_id in params.stop_token_ids else None
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
            prompt_logprobs=self._prompt_logprobs,
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
