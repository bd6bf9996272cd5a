"""The face of gptwo: a model and its tokenizer, and all that one asks of them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from gptwo.config import GPTConfig
from gptwo.decoder.protocol import Decoder, Floats
from gptwo.engine import Completion, Engine, Likelihood, Piece, Scored
from gptwo.engine.request import KeepLogits, check_token_ids
from gptwo.engine.text import token_text
from gptwo.errors import DecoderError, InvalidRequestError
from gptwo.loading import OpenModel, Prompt, check_list, open_model
from gptwo.options import is_integer, shown
from gptwo.sampling import BeamParams, SamplingParams
from gptwo.sampling.native import token_logprobs
from gptwo.scoring import Score, make_score, windows
from gptwo.shared_engine import SharedEngine
from gptwo.tokenizer import Tokenizer

Params = SamplingParams | BeamParams
Progress = Callable[[float], None]
# So many scored texts are under way beside the one that is waited for: more than a step has room for.
QUESTIONS_AHEAD = 64


def load(
    name: str | Path,
    *,
    weights: str = "auto",
    backend: str = "auto",
    cache: str = "auto",
    threads: int | None = None,
    device: str = "cpu",
    revision: str | None = None,
    tokenizer: Tokenizer | str | Path | None = None,
    progress: bool = False,
) -> LanguageModel:
    """Load a model: an embedded name (`shakespeare`), else a local directory or file, else a name on the hub.

    weights: the type they are held in: `f32`, `bf16`, and in the core `int8` or `int4`; `auto` keeps what the file
    holds. backend: `native` (the compiled core), `reference` (PyTorch) or `auto`, the core on a CPU. cache: the type
    of keys and values in the core, `f32`, `bf16` or `auto`: f32 beside f32 weights, else bf16. threads: None leaves the
    choice to the backend. device: a PyTorch device. revision: a branch, tag or commit on the hub.
    tokenizer: one to use in place of the checkpoint's own, or a directory or file that holds it. progress: show a bar
    while downloading.

    Raises ModelNotFoundError, DownloadError, CheckpointError, ConfigError, TokenizerError, MissingDependencyError,
    NumericalError, OutOfMemoryError or InvalidRequestError, each with one sentence that says what to do.
    """
    model = open_model(
        name,
        weights=weights,
        backend=backend,
        cache=cache,
        threads=threads,
        device=device,
        revision=revision,
        tokenizer=tokenizer,
        progress=progress,
    )
    return LanguageModel(model.decoder, model.tokenizer, name=model.name)


class LanguageModel:
    """A loaded model. Its methods may be called from several threads; they share one engine and so one batch.

    Whoever waits for an answer runs the engine's steps, in turn with all others who wait. If one of them is
    interrupted, by Ctrl-C say, its requests are dropped and the others go on; only a request whose token was being
    chosen at that moment ends, with a DecoderError.

    A process that is forked has the model too. If another thread had a turn at that moment, nothing is under way in it.
    """

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer | None, *, name: str = "model") -> None:
        self.name = name
        self.tokenizer = tokenizer
        self._model = OpenModel(name, decoder, tokenizer)
        self._shared = SharedEngine(Engine(decoder, tokenizer), name)

    @property
    def config(self) -> GPTConfig:
        """The model's configuration."""
        return self._model.config

    @property
    def weights(self) -> str:
        """The format that the weights are held in: f32, bf16, int8 or int4."""
        return str(getattr(self._model.decoder, "weights", "f32"))

    def __repr__(self) -> str:
        return f"<LanguageModel {self.name}: {self.config.parameter_count:,} parameters>"

    @overload
    def generate(  # type: ignore[overload-overlap]  # to the type checker a text is a sequence of texts
        self, prompts: Prompt, params: Params | None = None
    ) -> Completion: ...

    @overload
    def generate(
        self, prompts: Sequence[Prompt], params: Params | Sequence[Params] | None = None
    ) -> list[Completion]: ...

    def generate(
        self, prompts: Prompt | Sequence[Prompt], params: Params | Sequence[Params] | None = None
    ) -> Completion | list[Completion]:
        """Continue a prompt, or each of a list of prompts, which the engine works on together.

        prompts: text, token ids, or a list of either. The empty text begins a new one (`<|endoftext|>`); an empty list
        is an empty batch.
        params: one for all prompts, or a list with one for each; None is SamplingParams(), which makes 16 tokens.
        Raises InvalidRequestError or ContextLengthError before any work for what can never be answered.
        """
        alone = _is_one_prompt(prompts)
        batch: Sequence[Prompt] = [prompts] if alone else prompts  # type: ignore[list-item, assignment]
        requests = self._add_all(batch, _one_for_each(params, len(batch)))
        completions = self._complete(requests)
        return completions[0] if alone else completions

    def stream(self, prompt: Prompt, params: Params | None = None) -> Iterator[Piece]:
        """Continue a prompt, piece by piece as the tokens are made; n texts come interleaved, told apart by `index`.

        Arguments and errors as in `generate`; they are checked at once. The work is done as pieces are asked for. A
        stream that is closed or forgotten before its end is cancelled.
        """
        if not _is_one_prompt(prompt):
            raise InvalidRequestError("stream takes one prompt: text, or a list of token ids", param="prompt")
        (request,) = self._add_all([prompt], _one_for_each(params, 1), streamed=True)
        pieces = self._stream(request)
        next(pieces)  # only a generator that has begun cleans up when it is closed
        return pieces

    @overload
    def score(  # type: ignore[overload-overlap]
        self, texts: Prompt, *, stride: int | None = None, progress: Progress | None = None
    ) -> Score: ...

    @overload
    def score(
        self, texts: Sequence[Prompt], *, stride: int | None = None, progress: Progress | None = None
    ) -> list[Score]: ...

    def score(
        self, texts: Prompt | Sequence[Prompt], *, stride: int | None = None, progress: Progress | None = None
    ) -> Score | list[Score]:
        """The log-probability of each token of a text, or of several texts, given the tokens before it.

        A text longer than the model's positions is read in windows, and each token is scored where it has most before
        it. stride: tokens from the beginning of a window to that of the next; None is half of the positions.
        progress: called with the share of a text that is done. Raises InvalidRequestError for a text without tokens, or
        a stride that is not 1 to the model's positions.
        """
        if not _is_one_prompt(texts):
            return [self._score(text, stride, progress) for text in texts]  # type: ignore[arg-type]
        return self._score(texts, stride, progress)  # type: ignore[arg-type]

    def likelihoods(
        self, questions: Iterable[tuple[Sequence[int], Sequence[Sequence[int]]]], *, shares: bool = True
    ) -> Iterator[tuple[Likelihood, ...]]:
        """How likely continuations of texts are: for each (context, continuations) one Likelihood per continuation.

        questions: token ids, at least one in the context and in each continuation; a context is computed once for all
        that follow it, and only tokens of continuations cost logits. They are taken as answers are asked for, in order,
        some ahead so that the engine's batches are full. shares: whether contexts begin alike, so that it pays to hold
        their beginnings. Raises InvalidRequestError or ContextLengthError when it comes to a wrong question.
        """
        pending: deque[int] = deque()
        try:
            for context, continuations in questions:
                self._shared.ask(context, continuations, shares, pending)
                if len(pending) > QUESTIONS_AHEAD:
                    yield self._scored(pending[0])
                    self._shared.drop([pending.popleft()])
            while pending:
                yield self._scored(pending[0])
                self._shared.drop([pending.popleft()])
        finally:
            self._shared.drop(pending)

    def top(self, prompt: Prompt, k: int = 5) -> list[tuple[str, int, float]]:
        """The k likeliest next tokens as (text, token id, probability), likeliest first."""
        if not is_integer(k) or not 1 <= k <= self.config.vocab_size:
            raise InvalidRequestError(f"k is {shown(k)}, expected 1 to {self.config.vocab_size}", param="k")
        top = token_logprobs(self._logits(self._model.encode(prompt), "last")[-1], 0, k).top
        return [(token_text(self.tokenizer, token), token, math.exp(value)) for token, value in top]

    def logits(self, prompt: Prompt) -> Floats:
        """The logits of the token after each position: float32 (T, V)."""
        ids = self._model.encode(prompt)
        if not ids:
            raise InvalidRequestError("logits need at least one token", param="prompt")
        return self._logits(ids, "all")

    def close(self) -> None:
        """Drop every request, so that a stream that is still open ends there, and what is held of earlier texts."""
        self._shared.clear()

    def __enter__(self) -> LanguageModel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ---- requests

    def _add_all(
        self, prompts: Sequence[Prompt], params: Sequence[Params], *, keep: KeepLogits = "none", streamed: bool = False
    ) -> list[int]:
        """Queue requests, all or none."""
        encoded = [
            self._model.encode(prompt, endless=isinstance(wanted, SamplingParams) and wanted.overflow == "slide")
            for prompt, wanted in zip(prompts, params, strict=True)
        ]
        return self._shared.add(encoded, params, keep=keep, streamed=streamed)

    def _stream(self, request: int) -> Generator[Piece]:
        try:
            yield Piece(request, 0, "")  # for `stream`, which takes it to begin
            for event in self._shared.events(request):
                if not isinstance(event, Piece):
                    return
                yield event
        finally:
            self._shared.drop([request])

    def _complete(self, requests: list[int]) -> list[Completion]:
        try:
            return [self._completion(request) for request in requests]
        finally:
            self._shared.drop(requests)

    def _completion(self, request: int) -> Completion:
        for event in self._shared.events(request):
            if isinstance(event, Completion):
                return event
        raise DecoderError(f"{self.name} was closed before the answer was complete")

    # ---- scoring

    def _score(self, text: Prompt, stride: int | None, progress: Progress | None) -> Score:
        ids = check_token_ids(self._model.encode(text, endless=True), self.config.vocab_size)
        logprobs: list[float | None] = [None]
        parts = windows(len(ids), self.config.n_positions, stride)
        cuts = ((part.start, part.end - part.fresh, part.end) for part in parts)
        questions = ((ids[start:cut], [ids[cut:end]]) for start, cut, end in cuts)
        for (likelihood,) in self.likelihoods(questions, shares=False):
            logprobs.extend(likelihood.logprobs)
            if progress is not None:
                progress(len(logprobs) / len(ids))
        return make_score(ids, logprobs, self.tokenizer)

    def _scored(self, request: int) -> tuple[Likelihood, ...]:
        for event in self._shared.events(request):
            if isinstance(event, Scored):
                return event.likelihoods
        raise DecoderError(f"{self.name} was closed before the answer was complete")

    def _logits(self, ids: Sequence[int], keep: KeepLogits) -> Floats:
        (completion,) = self._complete(self._add_all([ids], [SamplingParams(max_tokens=0)], keep=keep))
        assert completion.prompt_logits is not None
        return completion.prompt_logits


def _is_one_prompt(prompts: object) -> bool:
    """Whether this is one prompt (text or token ids), not a list of them. Raises InvalidRequestError for neither."""
    if isinstance(prompts, str):
        return True
    several = [isinstance(item, (str, Sequence, np.ndarray)) for item in check_list(prompts)]
    if any(several) and not all(several):
        raise InvalidRequestError("the prompts mix token ids with texts: a prompt is a text or a list", param="prompt")
    return not any(several) and len(several) > 0  # an empty list is an empty batch


def _one_for_each(params: Params | Sequence[Params] | None, count: int) -> list[Params]:
    if params is None:
        return [SamplingParams()] * count
    if isinstance(params, (SamplingParams, BeamParams)):
        return [params] * count
    for item in params if isinstance(params, Sequence) else [params]:
        if not isinstance(item, (SamplingParams, BeamParams)):
            raise InvalidRequestError(f"params is {shown(item)}, expected SamplingParams or BeamParams", param="params")
    if len(params) != count:
        raise InvalidRequestError(f"{count} prompts but {len(params)} params: give one, or one each", param="params")
    return list(params)
