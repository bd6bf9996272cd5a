"""Beam search as a state machine that knows nothing of models.

Whoever owns the model feeds it the logits of the running beams and continues the sequences that it names:

    search = BeamSearch(params, prompt_ids, stop_ids={50256}, bad_words=(), vocab_size=None, max_length=20)
    logits = model(prompt)                          # (1, V)
    while not search.done:
        steps = search.advance(logits)              # [(row that is continued, token appended to it), ...]
        logits = model(those continuations)         # (len(steps), V)
    search.best()

The rules are those of transformers' `generate(num_beams=..., do_sample=False)`, which are in use as a standard:

- The score of a running beam is the sum of its log-probabilities. Biases, penalties and masks act on each beam's
  log-probabilities, with its own history, and are not normalised again.
- At each step all continuations of all beams compete. A continuation by a stop token, or one of the full length, is
  complete; it is taken up only if it is among the best num_beams of all continuations. The best num_beams of the others
  run on.
- A complete text scores its sum over length ** length_penalty, where the length counts generated tokens, the stop
  token among them. The best num_beams complete texts are kept.
- With fewer than num_beams complete texts the search goes on. From then on early_stopping=True ends it; False ends it
  when the best running beam, scored at its present length, does not beat the worst text kept; "never" does the same,
  but scores that beam at the full length if length_penalty is above 0, so that long texts get their chance.

Equal continuations are ordered by row, then by token id.

Where masks leave fewer than num_beams continuations, fewer beams run (transformers fills up with copies of probability
0); where no beam can go on, what is complete is the result.

R running beams, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gptwo.errors import InvalidRequestError
from gptwo.sampling.native import log_softmax
from gptwo.sampling.params import BeamParams
from gptwo.sampling.processors import Logits, largest
from gptwo.sampling.sampler import apply_options


@dataclass(frozen=True)
class Hypothesis:
    """A complete text: its tokens without the prompt but with the stop token, and its score."""

    token_ids: tuple[int, ...]
    score: float
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True)
class _Beam:
    token_ids: tuple[int, ...]
    logprob: float


class BeamSearch:
    """One search; see the module for the rules.

    stop_ids: tokens that complete a text. bad_words: the bad words as token ids. vocab_size: ids from there on are
    padding and never chosen. max_length: most tokens to generate, which params.max_tokens and the context allow; 0 is
    done at once, with one empty text.
    """

    done: bool

    def __init__(
        self,
        params: BeamParams,
        prompt_ids: Sequence[int],
        stop_ids: Collection[int],
        bad_words: Sequence[Sequence[int]],
        vocab_size: int | None,
        max_length: int,
    ) -> None:
        self._params = params
        self._prompt_ids = list(prompt_ids)
        self._stop_ids = frozenset(stop_ids)
        self._bad_words = bad_words
        self._vocab_size = vocab_size
        self._max_length = max_length
        self._running = [_Beam((), 0.0)]
        self._complete: list[Hypothesis] = []  # best first, at most num_beams
        self.done = max_length <= 0
        if self.done:
            self._complete.append(Hypothesis((), 0.0, "length"))

    def advance(self, logits: Logits) -> list[tuple[int, int]]:
        """Take the logits that follow each running beam, float32 (R, V), and choose the beams that run on.

        Returns (row of `logits` that is continued, token id appended to it) for each of them, best first: the rows that
        the next call expects. At the first call R is 1, later it is num_beams, or fewer where masks leave fewer. A row
        may be continued by several beams or by none. Empty once the search is done.

        Raises InvalidRequestError if the masks leave no beam to continue and no text is complete, NumericalError if the
        logits hold NaN or +inf, ValueError if the search is done or the number of rows is not R.
        """
        if self.done or len(logits) != len(self._running):
            raise ValueError(
                f"advance got {len(logits)} rows of logits, expected {0 if self.done else len(self._running)}"
            )
        scores = np.stack([self._scores(beam, row) for beam, row in zip(self._running, logits, strict=True)])  # (R, V)
        length = len(self._running[0].token_ids) + 1
        width = self._params.num_beams
        # So many contain num_beams that don't stop: a row has no more continuations that stop than there are stop ids.
        candidates = largest(scores.ravel(), width * (1 + len(self._stop_ids)))

        running: list[_Beam] = []
        steps: list[tuple[int, int]] = []
        for rank, index in enumerate(candidates):
            row, token_id = divmod(int(index), scores.shape[1])
            logprob = float(scores[row, token_id])
            if logprob == -np.inf:
                break
            token_ids = (*self._running[row].token_ids, token_id)
            stops = token_id in self._stop_ids
            if stops or length == self._max_length:
                if rank < width:
                    self._complete.append(Hypothesis(token_ids, self._score(logprob, length), _reason(stops)))
            elif len(running) < width:
                running.append(_Beam(token_ids, logprob))
                steps.append((row, token_id))
        self._complete = sorted(self._complete, key=lambda text: -text.score)[:width]
        if not running and not self._complete:
            raise InvalidRequestError(
                f"no beam can go on after {length - 1} tokens; "
                "loosen allowed_token_ids, bad_words, no_repeat_ngram_size or min_tokens"
            )
        self.done = not running or self._cannot_improve(running[0].logprob, length)
        self._running = [] if self.done else running
        return [] if self.done else steps

    def best(self) -> list[Hypothesis]:
        """The best num_return_sequences texts that are complete, best first; all there will be once `done`.

        Fewer where masks left fewer texts to be found.
        """
        return self._complete[: self._params.num_return_sequences]

    def _scores(self, beam: _Beam, logits: Logits) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """What each continuation of a beam scores while it runs: (V,)."""
        logprobs = apply_options(
            log_softmax(logits),
            self._params,
            self._prompt_ids,
            beam.token_ids,
            bad_words=self._bad_words,
            stop_ids=self._stop_ids,
            vocab_size=self._vocab_size,
        )
        return beam.logprob + logprobs.astype(np.float64)

    def _score(self, logprob: float, length: int) -> float:
        """The score of a text of that length: Wu et al. 2016, section 7, in the simpler form that transformers has."""
        return logprob / float(length**self._params.length_penalty)

    def _cannot_improve(self, best_running: float, length: int) -> bool:
        if len(self._complete) < self._params.num_beams:
            return False
        if self._params.early_stopping is True:
            return True
        if self._params.early_stopping == "never" and self._params.length_penalty > 0.0:
            length = self._max_length
        return self._score(best_running, length) <= self._complete[-1].score


def _reason(stops: bool) -> Literal["stop", "length"]:
    return "stop" if stops else "length"
