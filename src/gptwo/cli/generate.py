"""`gptwo generate`: continue a prompt as it is typed, or a file of prompts."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from gptwo.cli.generation import (
    BEAMS,
    SAMPLING,
    Params,
    Timings,
    generation_options,
    is_streamed,
    make_params,
    misplaced,
    streamed,
    with_length,
    without_length,
)
from gptwo.cli.loading import load_model, model_options
from gptwo.cli.parameters import SectionedCommand, given
from gptwo.cli.structured import option_name, structured_options, structured_values
from gptwo.cli.terminal import is_terminal, note, progress, write, write_json, write_prompt
from gptwo.cli.text_input import PromptLine, read_prompt, read_prompts
from gptwo.errors import GptwoError, InvalidRequestError, TokenizerError

if TYPE_CHECKING:
    from gptwo.engine import Completion, Piece
    from gptwo.engine.output import TokenLogprob
    from gptwo.language_model import LanguageModel

# Prompts that are handed to the engine at once: enough to keep it busy, few enough to show that it moves.
CHUNK = 32

OPTIONS: list[click.Parameter] = [
    click.Argument(["prompt"], required=False),
    click.Option(["-f", "--file"], metavar="FILE", help="Prompts, one a line, or objects a line in a .jsonl file."),
    click.Option(["as_json", "--json"], is_flag=True, help="One JSON object for each prompt, on a line."),
    click.Option(["--stats"], is_flag=True, help="Load time, time to first token, speed and seed, on standard error."),
    click.Option(
        ["--echo/--no-echo"], default=None, help="Write the prompt before its continuation.  [default: on a terminal]"
    ),
]


@click.command(cls=SectionedCommand, params=[*OPTIONS, *model_options(), *generation_options(), *structured_options()])
def command(prompt: str | None, file: str | None, **options: Any) -> None:
    r"""Continue PROMPT, or standard input if it is `-`, and write the text as it is generated.

    On a terminal the prompt stands before its continuation; into a pipe or a file goes the continuation alone, and a
    line end after it. Standard input loses one line end at its end. Of several texts, each has a line above it.
    Arguments are taken as they are typed: a line end is $'\n' in most shells.

    A file of prompts holds one a line. In a .jsonl file each line is an object with "prompt" (text or token ids) and,
    if it likes, any of the parameters below, with underscores: {"prompt": "Once", "max_tokens": 5}.
    """
    if (prompt is None) == (file is None):
        raise click.UsageError(
            "expected a PROMPT, `-` for standard input, or --file FILE" + (", not both" * bool(file))
        )
    values = given(click.get_current_context(), SAMPLING.keys() | BEAMS.keys())
    wrong = misplaced(values)
    structured = structured_values(options)
    if structured is not None:
        if "num_beams" in values:
            wrong = wrong or f"{option_name(structured)} is for sampling, and --beams searches instead"
        values["structured_outputs"] = structured
    if wrong is not None:
        raise click.UsageError(wrong)
    for name in ("logprobs", "prompt_logprobs"):
        if name in values and not options["as_json"]:
            raise click.UsageError(f"--{name.replace('_', '-')} shows in --json only")
    try:
        make_params(without_length(values))  # a wrong value is told before a model is loaded
    except InvalidRequestError as error:
        raise click.UsageError(str(error)) from error
    lines = read_prompts(file) if file is not None else [PromptLine(read_prompt(prompt or ""))]
    for line in lines:
        _params(values, line, without_length)
    if options["stats"] and len(lines) == 1 and values.keys().isdisjoint({"seed", "num_beams"}):
        values["seed"] = secrets.randbits(63)  # chosen here, so that it can be told
    began = time.perf_counter()
    with closing(load_model(options)) as model:
        timings = Timings(load=time.perf_counter() - began)
        echo = options["echo"] if options["echo"] is not None else is_terminal(sys.stdout)
        show = _show_json if options["as_json"] else _show_text
        show(model, lines, values, timings, echo)
        if options["stats"]:
            seed = f"  seed {values['seed']}" if "seed" in values else ""
            note(timings.line() + seed)


def _params(values: dict[str, Any], line: PromptLine, adjust: Callable[[dict[str, Any]], dict[str, Any]]) -> Params:
    """The parameters of one prompt: its own, then those of the command line."""
    merged = {**values, **line.parameters}
    try:
        wrong = misplaced(merged.keys() & (SAMPLING.keys() | BEAMS.keys())) if line.parameters else None
        if wrong is not None:
            raise InvalidRequestError(wrong)
        return make_params(adjust(merged))
    except InvalidRequestError as error:
        if not line.place or not line.parameters:
            raise
        raise InvalidRequestError(f"{line.place}: {error}", param=error.param) from error


def _params_for(model: LanguageModel, values: dict[str, Any], line: PromptLine) -> Params:
    return _params(values, line, lambda merged: with_length(merged, model, line.prompt))


def _completions(
    model: LanguageModel, lines: list[PromptLine], values: dict[str, Any], timings: Timings
) -> Iterator[tuple[PromptLine, Completion]]:
    with progress(len(lines), "prompts") as advance:
        for start in range(0, len(lines), CHUNK):
            chunk = lines[start : start + CHUNK]
            params = [_params_for(model, values, line) for line in chunk]
            try:
                completions = model.generate([line.prompt for line in chunk], params)
            except (InvalidRequestError, TokenizerError) as error:
                raise _placed(error, model, chunk, params) from error
            for line, completion in zip(chunk, completions, strict=True):
                timings.count_at_once(sum(len(choice.token_ids) for choice in completion.choices))
                yield line, completion
            advance(len(chunk))


def _placed(error: GptwoError, model: LanguageModel, chunk: list[PromptLine], params: list[Params]) -> GptwoError:
    """The error with the place of the prompt that it is about; such errors come before any work."""
    for line, wanted in zip(chunk, params, strict=True):
        try:
            model.stream(line.prompt, wanted)
        except GptwoError as found:
            return InvalidRequestError(f"{line.place}: {found}") if line.place else found
    return error


def _show_json(
    model: LanguageModel, lines: list[PromptLine], values: dict[str, Any], timings: Timings, echo: bool
) -> None:
    for line, completion in _completions(model, lines, values, timings):
        write_json(_as_json(line.prompt, completion))


def _show_text(
    model: LanguageModel, lines: list[PromptLine], values: dict[str, Any], timings: Timings, echo: bool
) -> None:
    params = _params_for(model, values, lines[0]) if len(lines) == 1 else None
    if params is not None and is_streamed(params):
        prompt = _prompt_text(model, lines[0].prompt) if echo else ""
        try:
            with streamed(model, lines[0].prompt, params) as pieces:
                write_stream(timings.watch(pieces), params.n, prompt)
        except (InvalidRequestError, TokenizerError) as error:
            raise _placed(error, model, lines, [params]) from error
        return
    for i, (line, completion) in enumerate(_completions(model, lines, values, timings), 1):
        number = f"prompt {i} of {len(lines)}" if len(lines) > 1 else ""
        write_texts(completion, _prompt_text(model, line.prompt) if echo else "", number)


def write_texts(completion: Completion, prompt: str = "", number: str = "") -> None:
    """Write the texts of a completion, each after the prompt, and under a heading if there are several."""
    several = len(completion.choices) > 1
    for choice in completion.choices:
        names = [number] * bool(number) + [f"text {choice.index + 1} of {len(completion.choices)}"] * several
        if names:
            write(f"==> {', '.join(names)} <==\n")
        write_prompt(prompt)
        write(choice.text + "\n")


def write_stream(pieces: Iterator[Piece], n: int, prompt: str = "") -> None:
    """Write pieces as they come, after the prompt. Of n texts that are made side by side the first is written at once
    and the others wait for their turn; each has a heading.
    """
    current = 0
    waiting: dict[int, list[str]] = {index: [] for index in range(n)}
    ended: set[int] = set()
    if n > 1:
        write(f"==> text 1 of {n} <==\n")
    write_prompt(prompt)
    for piece in pieces:
        if piece.index == current:
            write(piece.text)
        else:
            waiting[piece.index].append(piece.text)
        if piece.finish_reason is not None:
            ended.add(piece.index)
        while current in ended and current + 1 < n:
            current += 1
            write(f"\n==> text {current + 1} of {n} <==\n")
            write_prompt(prompt)
            write("".join(waiting.pop(current)))
    write("\n")


def _prompt_text(model: LanguageModel, prompt: str | list[int]) -> str:
    if isinstance(prompt, str):
        return prompt
    return model.tokenizer.decode(prompt) if model.tokenizer is not None else " ".join(map(str, prompt))


def _as_json(prompt: str | list[int], completion: Completion) -> dict[str, Any]:
    choices = []
    for choice in completion.choices:
        shown: dict[str, Any] = {
            "index": choice.index,
            "text": choice.text,
            "token_ids": list(choice.token_ids),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }
        if choice.logprobs is not None:
            shown["logprobs"] = [_logprob(entry) for entry in choice.logprobs]
            shown["cumulative_logprob"] = choice.cumulative_logprob
        if choice.score is not None:
            shown["score"] = choice.score
        choices.append(shown)
    best = {name: value for name, value in choices[0].items() if name != "index"}
    whole = {"prompt": prompt, **best, "seed": completion.seed, "prompt_token_ids": list(completion.prompt_token_ids)}
    if completion.prompt_logprobs is not None:
        whole["prompt_logprobs"] = [None if entry is None else _logprob(entry) for entry in completion.prompt_logprobs]
    return whole | {"choices": choices}


def _logprob(entry: TokenLogprob) -> dict[str, Any]:
    plain = {"token_id": entry.token_id, "text": entry.text, "logprob": entry.logprob}
    return plain | {"top": [{"token_id": t.token_id, "text": t.text, "logprob": t.logprob} for t in entry.top]}
