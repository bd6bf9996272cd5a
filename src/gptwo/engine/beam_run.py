"""A request that searches: beams are forks of one prefill."""

from __future__ import annotations

import contextlib

import numpy as np

from gptwo.decoder.protocol import Floats
from gptwo.engine.output import Choice, Completion, Event, Piece
from gptwo.engine.past import Past
from gptwo.engine.request import Request
from gptwo.engine.run import Feed, Resources, Room
from gptwo.errors import DecoderError
from gptwo.sampling import BeamParams
from gptwo.sampling.beam import BeamSearch


class BeamRun:
    """See `run.Run`."""

    def __init__(self, request: Request, resources: Resources) -> None:
        assert isinstance(request.params, BeamParams)
        self.request, self.width = request, request.width
        self._decoder, self._tokenizer = resources.decoder, resources.tokenizer
        tokenizer = resources.tokenizer
        self._search = BeamSearch(
            request.params,
            request.prompt_ids,
            request.stop_ids,
            request.bad_words,
            None if tokenizer is None else tokenizer.vocab_size,
            request.max_tokens,
        )
        self.done = self.waits = False
        self._prompt = Past(resources)
        self._prompt_feed: Feed | None = None
        self._handles: list[int] = []  # empty until the prompt is computed
        self._next_tokens: list[int] = []
        self._position = len(request.prompt_ids)  # of these tokens, the same for every beam

    def feeds(self, room: Room) -> list[Feed]:
        """The prompt; later the last token of each beam."""
        if self._handles:
            tokens = zip(self._handles, self._next_tokens, strict=True)
            return [Feed(handle, self._position, [token], 0, range(1), True) for handle, token in tokens]
        feed = self._prompt_feed = self._prompt.feed(self.request.prompt_ids, room)
        self.waits = feed is None or not feed.complete
        return [] if feed is None else [feed]

    def accept(self, logits: list[Floats]) -> list[Event]:
        """Advance the search; pieces and the completion come once it is done."""
        if self._handles:
            self._position += 1
        else:
            assert self._prompt_feed is not None
            self._prompt.commit(self._prompt_feed, self.request.prompt_ids)
            if not self._prompt_feed.complete:
                return []
            self._handles = [self._prompt_feed.handle]
            self._prompt.handle = None
        if not self._search.done:
            steps = self._search.advance(np.concatenate([rows[-1:] for rows in logits]))
            self._continue([row for row, _ in steps])
            self._next_tokens = [token_id for _, token_id in steps]
        if not self._search.done:
            return []
        self.done = True
        self.release()
        return self._complete()

    def release(self) -> None:
        """Close what is open."""
        self._prompt.close()
        for handle in self._handles:
            with contextlib.suppress(DecoderError):  # closed already, if an interruption kept that from being noted
                self._decoder.close(handle)
        self._handles = []

    def _continue(self, rows: list[int]) -> None:
        """Let the new beams take over the sequences of the rows they continue, forking what several continue.

        Example: rows [0, 0, 2] of sequences a, b, c give a, a fork of a, c; b is closed.
        """
        taken: list[int] = []
        for row in rows:
            handle = self._handles[row]
            if handle in taken:
                handle = self._decoder.fork(handle)
                self._handles.append(handle)  # at once, so that it is closed whatever happens next
            taken.append(handle)
        for handle in set(self._handles).difference(taken):
            self._decoder.close(handle)
        self._handles = taken

    def _complete(self) -> list[Event]:
        choices = []
        for index, found in enumerate(self._search.best()):
            text_ids = found.token_ids[:-1] if found.finish_reason == "stop" else found.token_ids
            text = "" if self._tokenizer is None else self._tokenizer.decode(text_ids, skip_special=True)
            explicit = found.finish_reason == "stop" and found.token_ids[-1] in self.request.params.stop_token_ids
            choices.append(
                Choice(
                    index=index,
                    text=text,
                    token_ids=found.token_ids,
                    finish_reason=found.finish_reason,
                    stop_reason=found.token_ids[-1] if explicit else None,
                    score=found.score,
                )
            )
        pieces = [
            Piece(self.request.id, c.index, c.text, c.token_ids, None, c.finish_reason, c.stop_reason) for c in choices
        ]
        return [*pieces, Completion(self.request.id, self.request.prompt_ids, tuple(choices))]
