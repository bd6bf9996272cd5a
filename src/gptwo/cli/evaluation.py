"""What `gptwo evaluate` measures of a model in one format of its weights."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from gptwo.cli.loading import as_path
from gptwo.cli.terminal import bar
from gptwo.errors import DataError, TokenizerError

if TYPE_CHECKING:
    from gptwo.evaluation.data_files import DataFile
    from gptwo.evaluation.report import Entry
    from gptwo.evaluation.tasks import Data, Outcome
    from gptwo.language_model import LanguageModel
    from gptwo.training.prepared import PreparedData


def evaluate(
    lm: LanguageModel,
    texts: list[DataFile],
    prepared: list[PreparedData],
    data: list[Data],
    foreign: list[str],
    model: str | None,
    options: dict[str, Any],
) -> Iterator[Entry]:
    """All that was asked for, as it is found.

    foreign: the tasks of lm-eval. model: which of the published models it is, if one, whose figures stand beside its.
    """
    from gptwo.evaluation import perplexity, validation_loss
    from gptwo.evaluation.published import published
    from gptwo.evaluation.report import Entry
    from gptwo.unencodable import placed

    stride, limit = options["stride"], options["limit"]
    for made in prepared:  # before what may take hours
        _check_fits(lm, made)
    for text in texts:
        work = functools.partial(perplexity, lm, text.text, stride=stride, limit=limit)
        try:
            outcome, seconds = _timed(text.name, lm, work)
        except TokenizerError as error:
            raise placed(error, text.name, lm.tokenizer, text.text) from error
        yield Entry(text.name, lm.weights, outcome.measures(), _counts(outcome), text.sha256, seconds)
    for made in prepared:
        name, characters = f"{made.directory} (validation)", made.val.characters
        validate = functools.partial(validation_loss, lm, made.val, characters=characters, stride=stride, limit=limit)
        found, seconds = _timed(name, lm, validate)
        yield Entry(name, lm.weights, found.measures(), _counts(found), made.val.sha256, seconds)
    for one in data:
        outcome, seconds = _timed(one.task.name, lm, functools.partial(one.run, lm, stride=stride))
        measures, counts = outcome.measures(), {"left_out": one.left_out, **_counts(outcome)}
        figures = [
            figure
            for measure in measures
            if one.is_released(outcome)
            for figure in published(model, one.task.name, measure, counts.get("stride"))
        ]
        yield Entry(one.task.name, lm.weights, measures, counts, one.file.sha256, seconds, tuple(figures))
    if foreign:
        from gptwo.evaluation.harness import run_tasks

        include = options["include_path"]
        found, seconds = _timed(
            "lm-eval",
            lm,
            functools.partial(
                run_tasks,
                lm,
                foreign,
                include_path=None if include is None else as_path(include),
                num_fewshot=options["num_fewshot"],
                limit=limit,
            ),
        )
        for name, figures in found.items():
            yield Entry(f"lm-eval:{name}", lm.weights, figures, {}, None, seconds)


def _timed(name: str, lm: LanguageModel, work: Callable[..., Any]) -> tuple[Any, float]:
    """What `work(progress=)` gives, under a bar, and the seconds that it took."""
    began = time.perf_counter()
    with bar(f"{name}, {lm.weights}") as show:
        outcome = work(progress=lambda share: show(share, ""))
    return outcome, time.perf_counter() - began


def _counts(outcome: Outcome) -> dict[str, Any]:
    """The fields of an outcome that are no measures themselves."""
    fields = dataclasses.asdict(outcome)  # type: ignore[call-overload]
    return {name: value for name, value in fields.items() if name not in outcome.measures() and value is not None}


def _check_fits(lm: LanguageModel, made: PreparedData) -> None:
    """Raise DataError for data that was made with another tokenizer than the model's."""
    if lm.tokenizer is not None and lm.tokenizer.fingerprint != made.tokenizer.fingerprint:
        raise DataError(f"{made.directory}: was not made with the tokenizer of {lm.name}")
