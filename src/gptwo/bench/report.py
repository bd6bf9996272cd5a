"""A run as a whole: what the command prints last, and the files that it leaves."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptwo.bench.ladder import Climbed, ladder_json, ladder_lines
from gptwo.bench.machine import Machine
from gptwo.bench.measures import Result
from gptwo.bench.peers.comparison import Contender, Ratio, Sizes, ratios
from gptwo.errors import BenchError


@dataclass
class Report:
    """Everything that one run of `gptwo bench` found."""

    model: str
    parameters: int
    threads: int
    repetitions: int
    machine: Machine
    read_bandwidth: Mapping[int, float]
    """Bytes per second for each number of threads that was used."""
    results: Sequence[Result] = ()
    ladder: Sequence[Climbed] = ()
    ladder_text: str = ""
    """How long a prompt and how many new tokens the ladder had."""
    contenders: Sequence[Contender] = ()
    sizes: Sizes = field(default_factory=Sizes)
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def ratios(self) -> list[Ratio]:
        """Ours against the fastest peer, for each measure and format."""
        return ratios(self.contenders)

    def as_dict(self) -> dict[str, Any]:
        """The line of JSON."""
        return {
            "model": self.model,
            "parameters": self.parameters,
            "threads": self.threads,
            "repetitions": self.repetitions,
            "machine": self.machine.as_dict(),
            "read_gigabytes_per_second": {str(count): speed / 1e9 for count, speed in self.read_bandwidth.items()},
            "results": [result.as_dict() for result in self.results],
            "ladder": ladder_json(self.ladder),
            "peers": [contender.as_dict() for contender in self.contenders],
            "ratios": [
                {"measure": r.measure, "weights": r.weights, "ratio": r.ratio, "fastest_peer": r.fastest}
                for r in self.ratios
            ],
            "skipped": dict(self.skipped),
        }

    def markdown(self) -> str:
        """The page that is kept beside the JSON."""
        speeds = ", ".join(f"{speed / 1e9:.1f} GB/s ({_threads(n)})" for n, speed in self.read_bandwidth.items())
        parts = [
            f"# {self.model}, {self.machine.date[:10]}",
            f"{self.machine}; gptwo {self.machine.gptwo} on `{self.machine.tier}`, {_threads(self.threads)}; "
            f"{self.parameters:,} parameters; minimum and median of {self.repetitions} repetitions, turn by turn; "
            f"load before the run {self.machine.load:.1f}. Read bandwidth: {speeds}.",
        ]
        if self.results:
            rows = [
                [
                    result.case.label,
                    f"{1e3 * result.times.minimum:.2f}",
                    f"{1e3 * result.times.median:.2f}",
                    f"{result.tokens_per_second:.0f}",
                    f"{result.bytes_per_second / 1e9:.1f}",
                    f"{100 * result.bytes_per_second / result.read_bandwidth:.0f}%",
                ]
                for result in self.results
            ]
            head = ("measure", "ms", "median", "tokens/s", "GB/s", "of read bandwidth")
            parts += ["## gptwo", table(head, rows)]
        if self.ladder:
            parts += ["## The ladder", self.ladder_text, "```text\n" + "\n".join(ladder_lines(self.ladder)) + "\n```"]
        if self.contenders:
            parts += ["## Peers", self._peer_words(), *self._peer_tables()]
        if self.ratios:
            parts += ["\n".join(f"- {ratio.line()}" for ratio in self.ratios)]
        if self.skipped:
            parts += ["Skipped:", "\n".join(f"- {name}: {reason}" for name, reason in self.skipped.items())]
        return "\n\n".join(parts) + "\n"

    def _peer_words(self) -> str:
        sizes = self.sizes
        return (
            f"Each engine in its own process, {_threads(self.threads)}, the same weights and prompts, greedy, nothing "
            f"ends a text. Decode: after {sizes.prompt} tokens, {sizes.tokens} more, the prompt's time taken off. "
            f"Prefill: {sizes.prefill} tokens to the first new one. Batch: {sizes.sequences} sequences of "
            f"{sizes.batch_tokens} new tokens at once. Start: from the start of a process, files in the system's "
            "cache, to the first token, and the most memory that it held. Minimum / median. Agrees: how many of the "
            "first 16 greedy tokens are those of gptwo in f32."
        )

    def _peer_tables(self) -> list[str]:
        head = (
            "engine",
            "decode, ms/token",
            f"prefill {self.sizes.prefill}, ms",
            f"{self.sizes.sequences} sequences, tokens/s",
            "start, s",
            "peak, MiB",
            "agrees",
        )
        tables = []
        for weights in dict.fromkeys(contender.weights for contender in self.contenders):
            group = [contender for contender in self.contenders if contender.weights == weights]
            rows = []
            for contender in sorted(group, key=lambda c: c.value("decode") or float("inf")):
                rows.append(
                    [
                        f"{contender.title} ({contender.version})",
                        _times(contender, "decode", 1e3, "{:.2f}"),
                        _times(contender, "prefill", 1e3, "{:.0f}"),
                        _rates(contender),
                        _times(contender, "start", 1.0, "{:.2f}"),
                        f"{contender.peak / 2**20:.0f}" if contender.peak else "–",
                        f"{contender.agreeing}/16",
                    ]
                )
            tables += [f"### {weights}", table(head, rows)]
        return tables

    def save(self, directory: Path) -> Path:
        """Write `<date>-<model>.md` and `.json` into a directory; the path of the first. Raises BenchError."""
        stem = re.sub(r"[^\w.-]+", "-", f"{self.machine.date[:16].replace(':', '')}-{self.model}")
        path = directory / f"{stem}.md"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            path.write_text(self.markdown(), encoding="utf-8")
            path.with_suffix(".json").write_text(json.dumps(self.as_dict(), indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise BenchError(f"{directory}: the results cannot be written ({error.strerror})") from error
        return path


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, all columns but the first to the right.

    Example: table(["a", "b"], [["x", "1"]]) has the lines `| a | b |`, `|---|---:|` and `| x | 1 |`.
    """
    lines = [head, *rows]
    rule = "|---|" + "---:|" * (len(head) - 1)
    text = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([text[0], rule, *text[1:]])


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _times(contender: Contender, measure: str, factor: float, form: str) -> str:
    times = contender.times.get(measure)
    if times is None:
        return "–"
    return f"{form.format(factor * times.minimum)} / {form.format(factor * times.median)}"


def _rates(contender: Contender) -> str:
    times = contender.times.get("batch")
    return f"{1 / times.minimum:.0f} / {1 / times.median:.0f}" if times else "–"
