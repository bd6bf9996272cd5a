"""What `gptwo bench` measures of our own engine, each case a line of its output.

Decoding, batches and contexts are the core's step and the choice of the likeliest token, nothing else; `engine` is the
same decoding as a user meets it, with sampling and all of Python around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from gptwo.bench.timing import Times, timed
from gptwo.bench.traffic import pass_operations, step_bytes
from gptwo.config import GPTConfig
from gptwo.decoder.protocol import Decoder
from gptwo.engine import Engine
from gptwo.sampling import SamplingParams

MEASURES: Final = ("decode", "engine", "prefill", "batch", "context", "threads")
PROMPT: Final = 16  # tokens before the first that is decoded, unless the context is what is measured
SAMPLINGS: Final = {
    "greedy": SamplingParams(temperature=0.0, ignore_eos=True),
    "top-k 50, top-p 0.95": SamplingParams(temperature=1.0, top_k=50, top_p=0.95, seed=0, ignore_eos=True),
}


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    measure: str
    """One of MEASURES."""
    weights: str
    """f32, bf16, int8 or int4."""
    threads: int
    context: int = PROMPT
    """Positions before the first new token; for `prefill`, the tokens of the prompt."""
    sequences: int = 1
    sampling: str = ""
    """For `engine`, a name in SAMPLINGS."""

    @property
    def label(self) -> str:
        """The beginning of the case's line: `batch 8 int8`."""
        detail = {
            "prefill": f" {self.context}",
            "batch": f" {self.sequences}",
            "context": f" {self.context}",
            "threads": f" {self.threads}",
        }.get(self.measure, "")
        return f"{self.measure}{detail} {self.weights}" + (f" {self.sampling}" if self.sampling else "")


@dataclass(frozen=True)
class Result:
    """What a case came to. Times are seconds of one step; for `prefill`, of the whole prompt."""

    case: Case
    times: Times
    bytes_read: int
    """What a step must read, see `traffic`."""
    operations: int
    """Of a prefill; 0 otherwise."""
    read_bandwidth: float
    """What the machine can read in a second with as many threads."""

    @property
    def tokens(self) -> int:
        """The tokens that a step takes in."""
        return self.case.context if self.case.measure == "prefill" else self.case.sequences

    @property
    def tokens_per_second(self) -> float:
        """At the fastest repetition."""
        return self.tokens / self.times.minimum

    @property
    def bytes_per_second(self) -> float:
        """What was read at the fastest repetition."""
        return self.bytes_read / self.times.minimum

    def line(self) -> str:
        """For example `decode int8  2.81 ms/token  356 tokens/s  46.6 GB/s  (84% of read bandwidth)`."""
        unit = {"prefill": "ms", "batch": "ms/step"}.get(self.case.measure, "ms/token")
        share = 100.0 * self.bytes_per_second / self.read_bandwidth
        words = [
            self.case.label,
            f"{1e3 * self.times.minimum:.2f} {unit}",
            f"{self.tokens_per_second:.0f} tokens/s",
            f"{self.bytes_per_second / 1e9:.1f} GB/s",
            f"({share:.0f}% of read bandwidth)",
        ]
        if self.operations:
            words.append(f"{self.operations / self.times.minimum / 1e9:.0f} GFLOP/s")
        words.append(f"median {1e3 * self.times.median:.2f}")
        return "  ".join(words)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "measure": self.case.measure,
            "weights": self.case.weights,
            "threads": self.case.threads,
            "context": self.case.context,
            "sequences": self.case.sequences,
            "sampling": self.case.sampling or None,
            "ms": 1e3 * self.times.minimum,
            "ms_median": 1e3 * self.times.median,
            "ms_all": [1e3 * seconds for seconds in self.times.seconds],
            "tokens_per_second": self.tokens_per_second,
            "gigabytes_per_second": self.bytes_per_second / 1e9,
            "share_of_read_bandwidth": self.bytes_per_second / self.read_bandwidth,
            "gigaflops": self.operations / self.times.minimum / 1e9 if self.operations else None,
        }


def cases(
    config: GPTConfig,
    measures: Sequence[str],
    formats: Sequence[str],
    threads: int,
    *,
    quick: bool = False,
) -> list[Case]:
    """The cases of the chosen measures, in the order of MEASURES, formats within. What a model is too short for is left
    out.

    threads: of all cases but those of `threads`, which go from 1 up to that many. quick: fewer of each.
    """
    chosen: list[Case] = []
    for measure in (measure for measure in MEASURES if measure in measures):
        for weights in formats:
            chosen += _cases_of(measure, weights, threads, quick)
    return [case for case in chosen if case.context + (case.measure != "prefill") <= config.n_positions]


def _cases_of(measure: str, weights: str, threads: int, quick: bool) -> Iterator[Case]:
    if measure == "decode":
        yield Case(measure, weights, threads)
    elif measure == "engine":
        for sampling in SAMPLINGS:
            yield Case(measure, weights, threads, sampling=sampling)
    elif measure == "prefill":
        for length in (128,) if quick else (128, 512):
            yield Case(measure, weights, threads, context=length)
    elif measure == "batch":
        for sequences in (1, 8) if quick else (1, 2, 4, 8, 16, 32):
            yield Case(measure, weights, threads, sequences=sequences)
    elif measure == "context":
        for context in (16, 200) if quick else (16, 256, 512, 1000):
            yield Case(measure, weights, threads, context=context)
    else:
        for count in sorted({1 << i for i in range(threads.bit_length())} | {threads}):
            yield Case(measure, weights, count)


def result(case: Case, config: GPTConfig, times: Times, read_bandwidth: float) -> Result:
    """What a case came to, with what it had to read."""
    prefill = case.measure == "prefill"
    return Result(
        case=case,
        times=times,
        bytes_read=step_bytes(config, case.weights, context=case.context, sequences=case.sequences),
        operations=pass_operations(config, case.context) if prefill else 0,
        read_bandwidth=read_bandwidth,
    )


def task(case: Case, decoder: Decoder, steps: int) -> Callable[[], float]:
    """What takes the measure of a case once: a function that says how many seconds a step took.

    decoder: one with the case's weights and threads. steps: how many to take the mean of; fewer where the context ends.
    """
    steps = max(1, min(steps, decoder.config.n_positions - case.context))
    if case.measure == "prefill":
        return lambda: prefill_seconds(decoder, case.context)
    if case.measure == "engine":
        return lambda: engine_seconds(decoder, case.context, steps, SAMPLINGS[case.sampling])
    return lambda: decode_seconds(decoder, case.context, steps, case.sequences)


def prompt(config: GPTConfig, length: int, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Token ids drawn from the whole vocabulary: int64 (length,)."""
    return np.random.default_rng(seed).integers(0, config.vocab_size, length, dtype=np.int64)


def append(decoder: Decoder, sequences: Sequence[int], token_ids: Sequence[Any]) -> Any:
    """Append to each sequence its tokens; the logits (sequences, V) of the last token of each."""
    counts = [len(ids) for ids in token_ids]
    starts = [decoder.length(sequence) for sequence in sequences]
    positions = [np.arange(start, start + count) for start, count in zip(starts, counts, strict=True)]
    return decoder.forward(
        np.concatenate(token_ids),
        np.repeat(np.asarray(sequences, dtype=np.int64), counts),
        np.concatenate(positions),
        np.cumsum(counts) - 1,
    )


def prefill_seconds(decoder: Decoder, length: int) -> float:
    """Seconds from a prompt of `length` tokens to the logits of its last."""
    ids = prompt(decoder.config, length)
    sequence = decoder.open()
    try:
        return timed(lambda: append(decoder, [sequence], [ids]))
    finally:
        decoder.close(sequence)


def decode_seconds(decoder: Decoder, context: int, steps: int, sequences: int = 1) -> float:
    """Seconds of one step of `sequences` sequences that begin with `context` positions each, greedily."""
    opened = [decoder.open() for _ in range(sequences)]
    try:
        prompts = [prompt(decoder.config, context, seed=number) for number in range(sequences)]
        first = np.concatenate([append(decoder, [one], [ids]) for one, ids in zip(opened, prompts, strict=True)])

        def run() -> None:
            logits = first
            for _ in range(steps):
                logits = append(decoder, opened, logits.argmax(axis=1)[:, None])

        return timed(run) / steps
    finally:
        for sequence in opened:
            decoder.close(sequence)


def engine_seconds(decoder: Decoder, context: int, steps: int, params: SamplingParams) -> float:
    """Seconds for each token of a request that goes through the engine, its first token not counted."""
    engine = Engine(decoder)
    engine.add(prompt(decoder.config, context).tolist(), SamplingParams(**{**_values(params), "max_tokens": steps + 1}))
    engine.step()  # the prompt and the first token

    def run() -> None:
        while engine.has_work():
            engine.step()

    try:
        return timed(run) / steps
    finally:
        engine.clear_prefixes()


def _values(params: SamplingParams) -> dict[str, Any]:
    return {name: getattr(params, name) for name in SamplingParams.__dataclass_fields__}
