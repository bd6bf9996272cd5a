"""Parts answered on a Ray cluster, by Ray Data: actors that hold a model each, and a stream of parts through them.

The nodes read the input themselves, so it lies where all of them see it by the same path; so does the model, unless it
is embedded or on the hub. Answers come back to this process, which writes each part: what is done and what is not is
as without Ray, and a run that was begun with it may go on without, or the other way round.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gptwo.batch.answering import Answer, Answering, open_batch_model, summary
from gptwo.batch.parts import Parts, part_of, write_part
from gptwo.batch.settings import BatchSettings, Work
from gptwo.batch.source import Part, Source, check_unchanged, read_part
from gptwo.errors import DataError, GptwoError, MissingDependencyError, class_named, one_line

# Names of Ray's loggers that tell how a data set is executed, which is not what the user asked for.
TALKATIVE = ("ray.data",)


def answer_on_ray(
    settings: BatchSettings, work: Work, source: Source, parts: Parts, missing: Sequence[Part]
) -> Iterator[Mapping[str, Any]]:
    """As `pool.answer_in_processes`, with actors of a Ray cluster; `processes` is the most of them.

    Raises MissingDependencyError without Ray, DataError if the cluster cannot be had or gives up.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependencyError("--ray needs Ray: pip install '.[ray]' in gptwo's checkout") from error
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    ours = not ray.is_initialized()
    try:
        if ours:
            ray.init(settings.ray_address, log_to_driver=False, logging_level=logging.WARNING)
        ray.data.DataContext.get_current().enable_progress_bars = False
        cpus = int(ray.cluster_resources().get("CPU", 1))
        processes = min(settings.processes, len(missing))
        threads = settings.threads or max(1, cpus // processes)
        # Parts that an actor has at a time: enough to keep its engine busy.
        together = min(-(-2 * settings.max_sequences // source.part_lines), -(-len(missing) // processes))
        items = [{"parts": json.dumps([vars(part) for part in group])} for group in _groups(missing, together)]
        answered = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _Actor,
            fn_constructor_args=(work.to_json(), str(source.path), source.stamp, threads, settings.max_sequences),
            batch_size=1,
            num_cpus=threads,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=processes),
        )
        for row in answered.iter_rows():
            if row["kind"]:
                raise class_named(row["kind"], DataError)(row["failed"])
            check_unchanged(source.path, source.stamp)
            write_part(parts.directory, parts.key, row["number"], row["data"])
            yield json.loads(row["summary"])
    except (ray.exceptions.RayError, ConnectionError, RuntimeError) as error:
        raise DataError(
            f"Ray gave up ({one_line(error)}); parts that are done are kept, and the same command goes on"
        ) from error
    finally:
        if ours:
            ray.shutdown()


def _groups(parts: Sequence[Part], size: int) -> Iterator[Sequence[Part]]:
    return (parts[start : start + size] for start in range(0, len(parts), size))


class _Actor:
    """A model on some node of the cluster."""

    def __init__(
        self, work: Mapping[str, Any], source: str, stamp: tuple[int, int, int], threads: int, max_sequences: int
    ) -> None:
        self._source, self._size = Path(source), stamp[0]
        self._failed: GptwoError | None = None
        try:
            made = Work.from_json(work)
            self._answering = Answering(open_batch_model(made, threads), made, max_sequences)
        except GptwoError as error:  # told when a part is asked for: Ray would try again and again
            self._failed = error

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """A row for each part of each group, or one that says why there is none."""
        rows: list[dict[str, Any]] = []
        for group in batch["parts"]:
            try:
                if self._failed is not None:
                    raise self._failed
                rows.extend(self._answer([Part(**part) for part in json.loads(group)]))
            except GptwoError as error:
                failed = {"number": -1, "data": b"", "summary": "", "failed": str(error), "kind": type(error).__name__}
                rows.append(failed)
        return {name: [row[name] for row in rows] for name in ("number", "data", "summary", "failed", "kind")}

    def _answer(self, parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
        if self._source.is_file() and self._source.stat().st_size != self._size:
            raise DataError(f"{self._source}: is another file on a node of the cluster; put it where all nodes see it")
        answers: dict[int, Answer] = {}
        lines = itertools.chain.from_iterable(read_part(self._source, part) for part in parts)
        left = True
        while left or self._answering.busy:
            while self._answering.has_room:
                line = next(lines, None)
                if line is None:
                    left = False
                    break
                self._answering.add(line)
            answers.update((answer.index, answer) for answer in self._answering.step())
        for part in parts:
            own = [answers[index] for index in range(part.first, part.first + part.lines)]
            told = json.dumps(summary(own))
            yield {"number": part.number, "data": part_of(own), "summary": told, "failed": "", "kind": ""}
