"""What one evaluation found: a table to read, and the same as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gptwo.evaluation.identity import Identity
from gptwo.evaluation.published import Published
from gptwo.version import __version__


@dataclass(frozen=True)
class Entry:
    """One measure of one format of the weights."""

    task: str
    """The name of a task, or the file of a text."""
    weights: str
    measures: Mapping[str, float]
    """Shares are from 0 to 1."""
    counts: Mapping[str, Any] = field(default_factory=dict)
    """What the measures were taken of: examples, tokens, stride."""
    data_sha256: str | None = None
    seconds: float = 0.0
    published: tuple[Published, ...] = ()


@dataclass(frozen=True)
class Report:
    """An evaluation: of which weights, how, and what was found."""

    model: str
    """As it was asked for."""
    parameters: int
    checkpoint: Identity
    tokenizer: str | None
    """The tokenizer's fingerprint."""
    settings: Mapping[str, Any]
    """What was asked for; `as_dict` adds the stride that was used, if it was the same everywhere."""
    entries: tuple[Entry, ...] = ()
    complete: bool = False
    """Whether nothing is to follow."""

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON has it."""
        strides = {entry.counts["stride"] for entry in self.entries if "stride" in entry.counts}
        settings = {**self.settings, "stride": strides.pop()} if len(strides) == 1 else dict(self.settings)
        return {
            "gptwo": __version__,
            "model": self.model,
            "parameters": self.parameters,
            "checkpoint": {"sha256": self.checkpoint.sha256, "weights_files": self.checkpoint.files},
            "tokenizer": self.tokenizer,
            "settings": settings,
            "complete": self.complete,
            "results": [
                {
                    "task": entry.task,
                    "weights": entry.weights,
                    "data_sha256": entry.data_sha256,
                    **entry.counts,
                    **entry.measures,
                    "seconds": round(entry.seconds, 3),
                    "published": [
                        {key: value for key, value in dataclasses.asdict(figure).items() if value is not None}
                        for figure in entry.published
                    ],
                }
                for entry in self.entries
            ],
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """The names of the columns, and the rows: a measure each, with a column for each format of the weights."""
        formats = list(dict.fromkeys(entry.weights for entry in self.entries))
        by_task: dict[str, dict[str, Entry]] = {}
        for entry in self.entries:
            by_task.setdefault(entry.task, {})[entry.weights] = entry
        rows = []
        for task, found in by_task.items():
            first = next(iter(found.values()))
            for measure in first.measures:
                if measure.endswith("_stderr"):
                    continue
                values = [_shown(measure, found[name].measures[measure]) if name in found else "" for name in formats]
                figures = [figure for figure in first.published if figure.measure == measure]
                said = "; ".join(f"{_shown(measure, figure.value)} ({figure.source})" for figure in figures)
                rows.append([task, measure.replace("_", " "), *values, said])
        columns = ["task", "measure", *formats, "published"]
        if not any(row[-1] for row in rows):
            return columns[:-1], [row[:-1] for row in rows]
        return columns, rows

    def notes(self) -> list[str]:
        """What the figures of each task were taken of, a line each."""
        first: dict[str, Entry] = {}
        for entry in self.entries:
            first.setdefault(entry.task, entry)
        return [f"{task}: {said}" for task, entry in first.items() if (said := ", ".join(self._said(entry)))]

    def _said(self, entry: Entry) -> Iterator[str]:
        counts, limit = entry.counts, self.settings.get("limit")
        name = "examples" if "examples" in counts else "tokens"
        if name in counts:
            left_out = counts.get("left_out", 0)
            by = f" (--limit {limit})" if left_out else ""
            yield f"{counts[name]:,} of {counts[name] + left_out:,} {name}{by}"
        elif limit is not None:  # a task of lm-eval's
            yield f"--limit {limit}"
        if counts.get("not_learned"):
            yield f"{counts['not_learned']:,} more only read"
        if counts.get("cut"):
            yield f"{counts['cut']:,} of them cut to the model's {self.settings['positions']:,} positions"
        if "stride" in counts:
            yield f"stride {counts['stride']:,}"


def _shown(measure: str, value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    if measure.startswith(("acc", "last_token_accuracy")):
        return f"{value:.2%}"
    # Digits without end say nothing of a number that is very large, and four behind the point nothing of a tiny one.
    return f"{value:.2e}" if abs(value) >= 100_000 or 0.0 < abs(value) < 0.001 else f"{value:.4f}"
