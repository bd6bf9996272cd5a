"""Tiny models and decoders for the tests of all that runs a model."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gptwo.checkpoint import StoredTensor
from gptwo.checkpoint.canonical import expected_shapes
from gptwo.config import GPTConfig
from gptwo.decoder.reference import ReferenceDecoder
from gptwo.engine import Completion, Engine, Event, Failure
from gptwo.engine.request import make_request
from gptwo.errors import DecoderError, GptwoError, NumericalError
from gptwo.sampling import BeamParams, SamplingParams
from gptwo.sampling.counter_random import uniform
from gptwo.sampling.sampler import choose, process_logits
from gptwo.tokenizer import Tokenizer

TEXT = "First Citizen: Before we proceed any further, hear me speak. All: Speak, speak. We know't! é 😀 ," * 4
VOCABULARY = 300


def tiny_tokenizer() -> Tokenizer:
    """256 bytes, 43 merges, and the end of text as id 299."""
    return Tokenizer.train([TEXT], VOCABULARY)


TOKENIZER = tiny_tokenizer()


def tiny_config(**changes: object) -> GPTConfig:
    """Two layers that fit `tiny_tokenizer`."""
    values = {
        "vocab_size": VOCABULARY,
        "n_positions": 64,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "bos_token_id": VOCABULARY - 1,
        "eos_token_id": VOCABULARY - 1,
    }
    return GPTConfig(**{**values, **changes})


def random_arrays(config: GPTConfig, seed: int = 0, deviation: float = 0.2) -> dict[str, np.ndarray]:
    """Weights far larger than a new model's, so that what it says depends on all that it read."""
    draw = np.random.default_rng(seed)
    arrays = {}
    for name, shape in expected_shapes(config):
        mean = 1.0 if ".ln_" in f".{name}" and name.endswith("weight") else 0.0
        arrays[name] = draw.normal(mean, deviation, shape).astype(np.float32)
    return arrays


def reference_decoder(config: GPTConfig, seed: int = 0, deviation: float = 0.2, **options: object) -> ReferenceDecoder:
    """A ReferenceDecoder with random weights, on one thread: sharing so little work only costs time."""
    arrays = random_arrays(config, seed, deviation)
    stored = {name: StoredTensor(name, Path("FILE"), "F32", array) for name, array in arrays.items()}
    return ReferenceDecoder(config, stored, **{"threads": 1, **options})


def logits_of(ids: Sequence[int], vocab_size: int = VOCABULARY) -> np.ndarray:
    """Logits that depend on every token and its position and on nothing else: float32 (V,)."""
    seed = zlib.crc32(np.asarray(ids, np.int64).tobytes())
    return np.random.default_rng(seed).normal(0.0, 3.0, vocab_size).astype(np.float32)


class ToyDecoder:
    """The decoder protocol, kept to the letter, over a function from tokens to logits.

    It counts what is open and what it was asked, and fails where a test wants it to.
    """

    def __init__(
        self,
        config: GPTConfig | None = None,
        logits: Callable[[list[int]], np.ndarray] | None = None,
        *,
        exact: bool = True,
    ):
        self.exact = exact
        self.config = tiny_config() if config is None else config
        self.logits = (lambda ids: logits_of(ids, self.config.vocab_size)) if logits is None else logits
        self.held: dict[int, list[int]] = {}
        self.opened = 0
        self.most_open = 0
        self.batches: list[list[tuple[int, int, int]]] = []  # of (sequence, first position, tokens)
        self.poison: int | None = None  # a token that makes logits NaN
        self.forks_left: int | None = None  # until one fails
        self.interrupt: tuple[int, str] | None = None  # (number of the forward pass, "before" or "after")

    def open(self) -> int:
        self.opened += 1
        self.held[self.opened] = []
        self.most_open = max(self.most_open, len(self.held))
        return self.opened

    def close(self, sequence: int) -> None:
        self._ids(sequence)
        del self.held[sequence]

    def fork(self, sequence: int) -> int:
        ids = self._ids(sequence)
        if self.forks_left is not None:
            self.forks_left -= 1
            if self.forks_left < 0:
                raise DecoderError("no memory is left for a fork")
        copy = self.open()
        self.held[copy] = list(ids)
        return copy

    def truncate(self, sequence: int, length: int) -> None:
        ids = self._ids(sequence)
        if not 0 <= length <= len(ids):
            raise DecoderError("truncated to more than there is")
        del ids[length:]

    def length(self, sequence: int) -> int:
        return len(self._ids(sequence))

    def forward(self, token_ids, sequence, positions, rows):
        columns = (token_ids, sequence, positions, rows)
        assert all(column.dtype == np.int64 and column.ndim == 1 for column in columns)
        self._interrupt("before")
        held = {number: list(ids) for number, ids in self.held.items()}
        logits = np.empty((len(rows), self.config.vocab_size), np.float32)
        batch: list[tuple[int, int, int]] = []
        wanted = {int(row): place for place, row in enumerate(rows)}
        assert list(wanted) == sorted(wanted)
        for row, (token, number, position) in enumerate(zip(*map(np.ndarray.tolist, columns[:3]), strict=True)):
            self._ids(number)
            if position != len(held[number]) or position >= self.config.n_positions:
                raise DecoderError(f"position {position} of sequence {number}, which has {len(held[number])}")
            if not batch or batch[-1][0] != number:
                if number in [other for other, _, _ in batch]:
                    raise DecoderError("the tokens of one sequence must lie together")
                batch.append((number, position, 0))
            batch[-1] = (number, batch[-1][1], batch[-1][2] + 1)
            held[number].append(token)
            if row in wanted:
                logits[wanted[row]] = self.logits(held[number])
            if token == self.poison:
                raise NumericalError("the logits are not finite")
        self.held = held
        self.batches.append(batch)
        self._interrupt("after")
        return logits

    def _interrupt(self, moment: str) -> None:
        if self.interrupt == (len(self.batches) + (moment == "before"), moment):
            self.interrupt = None
            raise KeyboardInterrupt

    def _ids(self, sequence: int) -> list[int]:
        if sequence not in self.held:
            raise DecoderError(f"sequence {sequence} is not open")
        return self.held[sequence]


def script(ids: Sequence[int], prompt: int = 1, vocab_size: int = VOCABULARY) -> Callable[[list[int]], np.ndarray]:
    """Logits that make one token after another all but certain behind a prompt of so many tokens; then token 0."""

    def logits(held: list[int]) -> np.ndarray:
        place = len(held) - prompt
        row = np.zeros(vocab_size, np.float32)
        row[ids[place] if 0 <= place < len(ids) else 0] = 50.0
        return row

    return logits


def finish(engine: Engine, events: list[Event] | None = None) -> list[Event]:
    """Run an engine until nothing is left; all that it said."""
    said = [] if events is None else events
    for _ in range(100_000):
        if not engine.has_work():
            return said
        said.extend(engine.step())
    raise AssertionError("the engine does not come to an end")


def answer(engine: Engine, request: int) -> Completion:
    """Run an engine until one request is answered: its completion, or its error raised."""
    for event in finish(engine):
        if event.request_id == request and isinstance(event, Failure):
            raise event.error
        if event.request_id == request and isinstance(event, Completion):
            return event
    raise GptwoError("there was no answer")


def say(prompt: list[int], params: SamplingParams | BeamParams | None = None, **values: Any) -> Completion:
    """A request answered with the toy decoder; keywords are parameters."""
    return said_by(ToyDecoder(), prompt, SamplingParams(**values) if params is None else params)


def said_by(
    decoder: Any, prompt: list[int], params: SamplingParams | BeamParams, tokenizer: Tokenizer | None = TOKENIZER
) -> Completion:
    """A request answered with any decoder."""
    engine = Engine(decoder, tokenizer)
    return answer(engine, engine.add(prompt, params))


def plain_loop(prompt: list[int], params: SamplingParams, index: int = 0, window: int = 64) -> list[int]:
    """The token ids of text number `index`: every token from logits over all that can be seen, computed anew."""
    request = make_request(0, prompt, params, config=tiny_config(), tokenizer=TOKENIZER)
    output: list[int] = []
    while len(output) < request.max_tokens:
        logits = logits_of([*prompt, *output][-window:])
        processed = process_logits(
            logits,
            params,
            prompt,
            output,
            bad_words=request.bad_words,
            stop_ids=request.stop_ids,
            vocab_size=VOCABULARY,
        )
        output.append(choose(processed, params, uniform(request.seed, index, len(prompt) + len(output))))
        if output[-1] in request.stop_ids:
            break
    return output
