"""The comparison: every engine in a process of its own, on the same weights, prompts and threads, turn by turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from gptwo.bench.peers.model_files import ModelFiles
from gptwo.bench.peers.process import PeerProcess, worker_command, worker_environment
from gptwo.bench.peers.table import OURS, Peer
from gptwo.bench.timing import Times, turn_by_turn
from gptwo.errors import BenchError

MEASURES: Final = ("decode", "prefill", "batch", "start")
UNITS: Final = {"decode": "ms/token", "prefill": "ms", "batch": "ms/token", "start": "s"}
REST: Final = 0.3  # seconds before each turn: threads of other engines spin for a while before they sleep
HOPELESS: Final = 8.0  # times the fastest: measured once, since a few such would take up most of the run
CHECKED: Final = 16  # tokens that are compared with ours


@dataclass(frozen=True)
class Sizes:
    """How much of each is measured."""

    prompt: int = 16
    tokens: int = 128
    prefill: int = 512
    sequences: int = 8
    batch_tokens: int = 128


@dataclass
class Contender:
    """One engine in one format, and what was measured of it. Times are seconds: decoding and batches per new token of
    one text, or of all texts together; prefill to the first token; start from the start of the process to it.
    """

    peer: Peer
    weights: str
    version: str = ""
    times: dict[str, Times] = field(default_factory=dict)
    peak: int = 0
    """The most memory of a process that starts and makes one token, in bytes."""
    agreeing: int = 0
    """How many of the first CHECKED greedy tokens are those of gptwo in f32, up to the first that is not."""

    @property
    def title(self) -> str:
        """The engine and its own name for the format."""
        return f"{self.peer.title} {self.peer.formats[self.weights]}"

    def value(self, measure: str) -> float | None:
        """What is compared, less being better: a measure's fastest repetition, or for "memory" the peak."""
        if measure == "memory":
            return float(self.peak) if self.peak else None
        times = self.times.get(measure)
        return times.minimum if times else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "engine": self.peer.name,
            "weights": self.weights,
            "format": self.peer.formats[self.weights],
            "version": self.version,
            "seconds": {name: times.minimum for name, times in self.times.items()},
            "seconds_median": {name: times.median for name, times in self.times.items()},
            "seconds_all": {name: list(times.seconds) for name, times in self.times.items()},
            "peak_bytes": self.peak,
            "agreeing_tokens": self.agreeing,
        }


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the fastest peer ours is."""

    measure: str
    weights: str
    ratio: float
    fastest: str

    def line(self) -> str:
        """For example `decode int8: 1.80 times as fast as the fastest peer, llama.cpp Q8_0`."""
        what = "as little memory as the leanest peer" if self.measure == "memory" else "as fast as the fastest peer"
        return f"{self.measure} {self.weights}: {self.ratio:.2f} times {what}, {self.fastest}"


class Comparison:
    """Runs the engines of one format after another, and remembers what came of it."""

    def __init__(
        self,
        files: ModelFiles,
        interpreters: Mapping[str, str],
        *,
        threads: int,
        repetitions: int,
        sizes: Sizes,
        note: Callable[[str], None] = lambda text: None,
        rest: float = REST,
    ) -> None:
        """interpreters: the Python to run each engine with, by name, `gptwo` among them. note: told what goes on."""
        self.files, self.interpreters = files, interpreters
        self.threads, self.repetitions, self.sizes, self.note, self.rest = threads, repetitions, sizes, note, rest
        self.contenders: list[Contender] = []
        self.skipped: dict[str, str] = {}
        """An engine, or an engine in a format, and why it was not measured."""

    def run(self, peers: Sequence[Peer], formats: Sequence[str]) -> None:
        """Measure the peers that have a format, and ours, for each format."""
        expected = self._expected_tokens()
        for weights in formats:
            processes: dict[int, PeerProcess] = {}
            group = [Contender(peer, weights) for peer in (OURS, *peers) if weights in peer.formats]
            try:
                ready = [contender for contender in group if self._begin(contender, processes, expected)]
                self._measure(ready, processes)
            finally:
                for process in processes.values():
                    process.close()
            self.contenders += [contender for contender in ready if contender.times]

    def _expected_tokens(self) -> tuple[int, ...]:
        try:
            with self._start(Contender(OURS, "f32")) as process:
                return process.generate(self._prompts(0, 1, self.sizes.prompt), CHECKED).tokens[0]
        except BenchError as error:
            raise BenchError(f"gptwo itself cannot be measured: {error}") from error

    def _start(self, contender: Contender) -> PeerProcess:
        python = self.interpreters[contender.peer.name]
        path = self.files.converted(contender.peer, contender.weights, python)
        settings = {"path": str(path), "format": contender.weights, "threads": self.threads}
        command = worker_command(python, contender.peer.name, settings)
        return PeerProcess(contender.title, command, worker_environment(self.threads), self.files.log)

    def _begin(self, contender: Contender, processes: dict[int, PeerProcess], expected: Sequence[int]) -> bool:
        """Start a contender and have it say something; whether it did."""
        self.note(f"{contender.title}: loading")
        try:
            process = processes[id(contender)] = self._start(contender)
            answer = process.generate(self._prompts(0, 1, self.sizes.prompt), CHECKED)
        except BenchError as error:
            self.skipped[contender.title] = str(error)
            self.note(str(error))
            return False
        contender.version = answer.version
        pairs = zip(answer.tokens[0], expected, strict=True)
        contender.agreeing = next((i for i, (mine, theirs) in enumerate(pairs) if mine != theirs), CHECKED)
        return True

    def _measure(self, group: Sequence[Contender], processes: Mapping[int, PeerProcess]) -> None:
        failed: set[int] = set()
        for measure in MEASURES:
            tasks = {i: self._task(measure, c, processes[id(c)], failed) for i, c in enumerate(group)}
            self.note(f"{group[0].weights if group else ''} {measure}: {self.repetitions + 1} rounds")
            for i, times in turn_by_turn(tasks, self.repetitions, pause=self.rest, hopeless=HOPELESS).items():
                if id(group[i]) not in failed:
                    group[i].times[measure] = times
                    self.note(f"  {group[i].title}: {_shown(measure, times.minimum)}")

    def _task(self, measure: str, contender: Contender, process: PeerProcess, failed: set[int]) -> Callable[[], float]:
        """One repetition of a measure. A contender that fails is out from then on, and the others go on."""
        seeds = iter(range(1, 1 << 30))  # the same prompts for every engine, and never the same twice

        def run() -> float:
            if id(contender) in failed:
                return 0.0
            try:
                return self._once(measure, contender, process, next(seeds))
            except BenchError as error:
                failed.add(id(contender))
                self.skipped[f"{contender.title}, {measure}"] = str(error)
                self.note(str(error))
                return 0.0

        return run

    def _once(self, measure: str, contender: Contender, process: PeerProcess, seed: int) -> float:
        sizes = self.sizes
        if measure == "start":
            return self._fresh_start(contender, seed)
        if measure == "prefill":
            return process.generate(self._prompts(seed, 1, sizes.prefill), 1).seconds
        sequences = sizes.sequences if measure == "batch" else 1
        tokens = sizes.batch_tokens if measure == "batch" else sizes.tokens
        # The prompt's own time is taken off, measured with another prompt so that nobody can have kept it.
        long = process.generate(self._prompts(2 * seed, sequences, sizes.prompt), 1 + tokens).seconds
        short = process.generate(self._prompts(2 * seed + 1, sequences, sizes.prompt), 1).seconds
        return (long - short) / (tokens * sequences)

    def _fresh_start(self, contender: Contender, seed: int) -> float:
        with self._start(contender) as process:
            answer = process.generate(self._prompts(seed, 1, self.sizes.prompt), 1)
            seconds = time.perf_counter() - process.started
        contender.peak = min(contender.peak, answer.peak) if contender.peak else answer.peak
        return seconds

    def _prompts(self, seed: int, count: int, length: int) -> list[list[int]]:
        # The last id may be the end of text, which some engines treat as such in a prompt.
        last = self.files.checkpoint.config.vocab_size - 1
        drawn: list[list[int]] = np.random.default_rng(seed).integers(1, last, (count, length)).tolist()
        return drawn


def ratios(contenders: Sequence[Contender]) -> list[Ratio]:
    """For each measure and format, and for the memory of a fresh process, ours against the best peer that has it."""
    found = []
    formats = dict.fromkeys(contender.weights for contender in contenders)
    for measure in (*MEASURES, "memory"):
        for weights in formats:
            group = [contender for contender in contenders if contender.weights == weights]
            values = [(value, c) for c in group if (value := c.value(measure)) is not None]
            ours = [value for value, contender in values if contender.peer is OURS]
            theirs = [(value, contender.title) for value, contender in values if contender.peer is not OURS]
            if ours and theirs:
                best, title = min(theirs)
                found.append(Ratio(measure, weights, best / ours[0], title))
    return found


def _shown(measure: str, seconds: float) -> str:
    if measure == "start":
        return f"{seconds:.2f} s"
    return f"{1e3 * seconds:.2f} {UNITS[measure]}"
