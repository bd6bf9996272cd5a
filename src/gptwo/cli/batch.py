"""`gptwo batch`: a file of prompts in, a file of answers out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from gptwo.cli.generation import BEAMS, SAMPLING, generation_options, misplaced
from gptwo.cli.loading import as_path, model_options
from gptwo.cli.parameters import SectionedCommand, given
from gptwo.cli.structured import option_name, structured_options, structured_values
from gptwo.cli.terminal import bar, note, write
from gptwo.errors import InvalidRequestError

if TYPE_CHECKING:
    from gptwo.batch import BatchResult, Progress

OPTIONS: list[click.Parameter] = [
    click.Argument(["source"], metavar="IN.jsonl"),
    click.Argument(["out"], metavar="OUT"),
    click.Option(["--score"], is_flag=True, help="Score the text of each line instead of continuing its prompt."),
    click.Option(["--token-ids"], is_flag=True, help="Give the token ids of prompts and texts too."),
    click.Option(
        ["--processes"],
        type=click.IntRange(1, 256),
        default=1,
        show_default=True,
        help="Processes, each with a model and threads of its own; packed weights are in memory once.",
    ),
    click.Option(
        ["--max-sequences"],
        type=click.IntRange(1),
        default=64,
        show_default=True,
        help="Texts that a process works on at a time.",
    ),
    click.Option(["--strict"], is_flag=True, help="Stop at the first line with an error."),
    click.Option(["--overwrite"], is_flag=True, help="Replace OUT if it is there already, once all is done."),
    click.Option(["--restart"], is_flag=True, help="Start afresh, not where an earlier run was ended."),
    click.Option(["--ray"], is_flag=True, help="Run on a Ray cluster instead of processes of this machine."),
    click.Option(["--ray-address"], metavar="HOST:PORT", help="The cluster's, if it is not found by itself."),
]


@click.command(cls=SectionedCommand, params=[*OPTIONS, *model_options(), *generation_options(), *structured_options()])
def command(source: str, out: str, **options: Any) -> None:
    """Answer every line of a file, and go on where an earlier run was ended.

    Each line of IN.jsonl is an object with "prompt" (text or token ids), perhaps an "id", and any of the parameters
    below, with underscores, which come before those of the command line. With --score it has a "text". Lines of
    OpenAI's batch files, {"custom_id", "method", "url", "body"}, are taken too, and in *.jsonl answered in their shape.

    OUT is *.parquet (which needs the extra `batch`) or *.jsonl, and has a row for each line, in their order. A line
    that cannot be answered has an "error" in its row; the exit code is 1 if none could be. OUT appears when it is
    whole; until then OUT.parts holds what is done, and the same command goes on from there, after Ctrl-C, `kill -9` or
    a power cut.

    Each line's seed comes from --seed and the line's place, and is in its row.
    """
    values = given(click.get_current_context(), SAMPLING.keys() | BEAMS.keys())
    wrong = misplaced(values)
    structured = structured_values(options)
    if structured is not None:
        values["structured_outputs"] = structured
        if "num_beams" in values:
            wrong = wrong or f"{option_name(structured)} is for sampling, and --beams searches instead"
    if wrong is not None:
        raise click.UsageError(wrong)
    from gptwo.batch import BatchModel, BatchSettings, parts_of, run_batch

    try:
        settings = BatchSettings(
            source=as_path(source),
            out=as_path(out),
            model=BatchModel(
                name=options["model"],
                **{name: options[name] for name in ("weights", "backend", "device", "revision", "tokenizer")},
            ),
            seed=values.pop("seed", None),
            parameters=values,
            **{
                name: options[name]
                for name in ("score", "token_ids", "processes", "threads", "max_sequences", "strict", "overwrite")
            },
            **{name: options[name] for name in ("restart", "ray", "ray_address")},
        )
    except InvalidRequestError as error:
        raise click.UsageError(str(error)) from error
    began = time.perf_counter()
    latest: Progress | None = None

    with bar("scoring" if settings.score else "generating") as show:

        def on_progress(progress: Progress) -> None:
            nonlocal latest
            latest = progress
            share = progress.done / progress.lines if progress.lines else 1.0
            speed = progress.tokens / (time.perf_counter() - began)
            errors = f"  {progress.errors:,} with errors" if progress.errors else ""
            show(share, f"{progress.done:,} of {progress.lines:,} lines  {speed:,.0f} tokens/s{errors}")

        try:
            result = run_batch(settings, on_progress)
        except KeyboardInterrupt:
            kept = parts_of(settings.out)
            if latest is not None and kept.exists():
                note(f"stopped; what is done is in {kept}, and the same command goes on from there")
            else:
                note("stopped before the first part was whole; the same command begins afresh")
            raise
    write(_summary(result))
    if result.lines and result.errors == result.lines:
        note("no line could be answered; the column `error` says why")
        click.get_current_context().exit(1)


def _summary(result: BatchResult) -> str:
    parts = [f"{result.lines:,} line{'s' * (result.lines != 1)} in {result.out}"]
    if result.resumed:
        parts.append(f"{result.resumed:,} of them were there before")
    if result.errors:
        parts.append(f"{result.errors:,} with an error")
    return ", ".join(parts) + "\n"
