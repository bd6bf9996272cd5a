"""Many lines in one engine at once: tasks go in while there is room, rows come out as they are done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gptwo.batch import openai_rows
from gptwo.batch.rows import Row, completion_row, error_row, score_row
from gptwo.batch.settings import Work
from gptwo.batch.source import Line
from gptwo.batch.task import Task, read_task
from gptwo.engine import Completion, Engine, Failure
from gptwo.engine.request import check_token_ids
from gptwo.errors import GptwoError, InvalidRequestError, OutOfMemoryError
from gptwo.loading import OpenModel, open_model
from gptwo.sampling import SamplingParams
from gptwo.scoring import Window, make_score, windows

AHEAD = 4  # lines that wait, so that the engine never looks for one


@dataclass(frozen=True)
class Answer:
    """A line's row, and what it took."""

    index: int
    line_number: int
    row: Row
    error: str | None
    tokens: int
    """That were generated, or scored."""


@dataclass
class _Scoring:
    """A text that is being scored, one window after another."""

    ids: tuple[int, ...]
    left: Iterator[Window]
    fresh: int = 0
    """Tokens of the window at hand that it scores."""
    logprobs: list[float | None] = field(default_factory=lambda: [None])


class Answering:
    """Answers lines with one model. Used from one thread."""

    def __init__(self, model: OpenModel, work: Work, max_sequences: int) -> None:
        """max_sequences: as the engine's; lines beyond that are taken only to have some ready."""
        self._model, self._work, self._most = model, work, max_sequences + AHEAD
        self._engine = Engine(model.decoder, model.tokenizer, max_sequences=max_sequences)
        self._tasks: dict[int, Task] = {}  # by the number of the request
        self._scorings: dict[int, _Scoring] = {}  # by the index of the line
        self._done: list[Answer] = []

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do or to give."""
        return bool(self._tasks or self._done)

    @property
    def has_room(self) -> bool:
        """Whether another line would be worked on soon."""
        return len(self._tasks) + len(self._done) < self._most

    def add(self, line: Line) -> None:
        """Take a line; its answer comes from one of the next steps, whatever is wrong with it."""
        task = read_task(line, self._work)
        if task.error is None:
            try:
                (self._begin_score if self._work.score else self._begin)(task)
            except GptwoError as error:
                task.error = error
        if task.error is not None:
            self._fail(task, task.error)

    def step(self) -> list[Answer]:
        """One step of the engine, and the answers that are complete. Raises OutOfMemoryError, which is no line's."""
        if self._tasks:
            for event in self._engine.step():
                if isinstance(event, Failure):
                    if isinstance(event.error, OutOfMemoryError):
                        raise OutOfMemoryError(
                            f"{event.error}; lines that are done are kept: go on with a lower --max-sequences or "
                            "fewer --processes"
                        ) from event.error
                    self._fail(self._tasks.pop(event.request_id), event.error)
                elif isinstance(event, Completion):
                    self._complete(self._tasks.pop(event.request_id), event)
        done, self._done = self._done, []
        return done

    def _begin(self, task: Task) -> None:
        assert task.prompt is not None
        slides = task.values.get("overflow") == "slide"
        ids = self._model.encode(task.prompt, endless=slides)
        positions = self._model.config.n_positions
        params = task.params(positions if slides else positions - max(1, len(ids)))
        self._tasks[self._engine.add(ids, params)] = task

    def _begin_score(self, task: Task) -> None:
        assert task.prompt is not None
        config = self._model.config
        ids = check_token_ids(self._model.encode(task.prompt, endless=True), config.vocab_size)
        if not ids:
            raise InvalidRequestError("there is nothing to score: the text has no tokens", param="text")
        self._scorings[task.index] = _Scoring(ids, windows(len(ids), config.n_positions))
        self._next_window(task)

    def _next_window(self, task: Task) -> None:
        """Queue what is to be computed next of a text, or answer if all is."""
        scoring = self._scorings[task.index]
        window = next(scoring.left, None)
        if window is None:
            score = make_score(scoring.ids, scoring.logprobs, self._model.tokenizer)
            del self._scorings[task.index]
            row = score_row(task, score, token_ids=self._work.token_ids)
            self._done.append(Answer(task.index, task.line_number, row, None, len(score.token_ids)))
            return
        scoring.fresh = window.fresh
        ids = scoring.ids[window.start : window.end]
        self._tasks[self._engine.add(ids, SamplingParams(max_tokens=0, prompt_logprobs=0))] = task

    def _complete(self, task: Task, completion: Completion) -> None:
        if not self._work.score:
            tokens = sum(len(choice.token_ids) for choice in completion.choices)
            self._done.append(Answer(task.index, task.line_number, self._row(task, completion), None, tokens))
            return
        assert completion.prompt_logprobs is not None
        scoring = self._scorings[task.index]
        fresh = completion.prompt_logprobs[-scoring.fresh :]
        scoring.logprobs.extend(None if token is None else token.logprob for token in fresh)
        self._next_window(task)

    def _row(self, task: Task, completion: Completion) -> Row:
        work = self._work
        if task.openai and work.json_lines:
            return openai_rows.answer(task, completion, self._model.tokenizer, created=work.created)
        return completion_row(task, completion, token_ids=work.token_ids)

    def _fail(self, task: Task, error: GptwoError) -> None:
        self._scorings.pop(task.index, None)
        if task.openai and self._work.json_lines:
            row = openai_rows.refusal(task, error)
        else:
            row = error_row(task, str(error), score=self._work.score)
        self._done.append(Answer(task.index, task.line_number, row, str(error), 0))


def open_batch_model(work: Work, threads: int | None) -> OpenModel:
    """The model that the work is for; errors as `open_model` raises them."""
    model = work.model
    return open_model(
        model.name,
        weights=model.weights,
        backend=model.backend,
        device=model.device,
        revision=model.revision,
        tokenizer=model.tokenizer,
        threads=threads,
    )


def summary(answers: Sequence[Answer]) -> dict[str, Any]:
    """What is reported of answers: {lines, tokens, errors, first_error}, the last one (line number, error) or None."""
    errors = [answer for answer in answers if answer.error is not None]
    return {
        "lines": len(answers),
        "tokens": sum(answer.tokens for answer in answers),
        "errors": len(errors),
        "first_error": (errors[0].line_number, errors[0].error) if errors else None,
    }
