"""`gptwo evaluate`: how good a model is, and what a format of its weights costs."""

from __future__ import annotations

import dataclasses
import json
import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gptwo.cli.evaluation import evaluate
from gptwo.cli.loading import BACKENDS, WEIGHTS, as_path, threads_option
from gptwo.cli.parameters import SectionedCommand, SectionOption
from gptwo.cli.terminal import finite, note, print_table, write, write_json
from gptwo.cli.text_input import read_bytes, shown_place
from gptwo.errors import DataError, MissingDependencyError, nearest_name
from gptwo.options import shown

if TYPE_CHECKING:
    from gptwo.checkpoint import Checkpoint
    from gptwo.evaluation.data_files import DataFile
    from gptwo.evaluation.report import Report
    from gptwo.language_model import LanguageModel
    from gptwo.training.prepared import PreparedData

MODEL = "Model"
LM_EVAL = "Tasks of lm-eval (extra `eval`)"
NAMES = ("lambada", "hellaswag", "cbt-cn", "cbt-ne", "wikitext2")
RECORDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")

OPTIONS: list[click.Parameter] = [
    click.Argument(["model"]),
    click.Option(
        ["texts", "--text"], multiple=True, metavar="FILE", help="A text whose perplexity is taken; may be given again."
    ),
    click.Option(
        ["--prepared"],
        multiple=True,
        metavar="DIR",
        help="What 'gptwo prepare' made: the loss on its validation tokens; may be given again.",
    ),
    click.Option(
        ["--tasks"],
        multiple=True,
        metavar="NAME,...",
        help=f"{', '.join(NAMES)}, or any task of lm-eval; one of these names as lm-eval has it is lm-eval:NAME.",
    ),
    click.Option(
        ["--data"], multiple=True, metavar="[NAME=]FILE", help="The file with a task's data; may be given again."
    ),
    click.Option(
        ["--stride"],
        type=click.IntRange(1),
        help="Tokens from the beginning of a window to that of the next, in perplexities.  [default: half the context; "
        "all of it with --prepared]",
    ),
    click.Option(
        ["--limit"],
        type=click.IntRange(1),
        help="Only the first so many examples of a task, or windows of a text: for a first look.",
    ),
    click.Option(["as_json", "--json"], is_flag=True, help="One JSON object."),
    click.Option(
        ["--out"],
        metavar="FILE",
        help="Write the JSON to a file too, as far as it is known, after each task of each format.",
    ),
    SectionOption(
        ["formats", "--weights"],
        MODEL,
        multiple=True,
        type=click.Choice(WEIGHTS),
        help="Format of the weights; each that is given is a column.  [default: auto, which keeps the file's]",
    ),
    SectionOption(["--tokenizer"], MODEL, metavar="PATH", help="A tokenizer instead of the model's own."),
    SectionOption(["--revision"], MODEL, help="A branch, tag or commit on the hub."),
    threads_option(),
    SectionOption(["--backend"], MODEL, type=click.Choice(BACKENDS), default="auto", help="What computes the model."),
    SectionOption(["--device"], MODEL, default="cpu", show_default=True, help="Where it is computed."),
    SectionOption(["--include-path"], LM_EVAL, metavar="DIR", help="A directory with tasks of yours."),
    SectionOption(["--num-fewshot"], LM_EVAL, type=click.IntRange(0), help="Examples before each question."),
]


@click.command(cls=SectionedCommand, params=OPTIONS)
def command(model: str, as_json: bool, out: str | None, **options: Any) -> None:
    """Evaluate MODEL (an embedded name, a path, or a name on the hub).

    With --text it takes the perplexity of a text, per token and per word, bits per byte and nats per character; with
    --prepared the loss on the validation tokens that 'gptwo prepare' made. With --tasks it runs LAMBADA, HellaSwag, the
    Children's Book Test or WikiText-2, or a task of lm-eval. Published figures stand beside those that are about the
    same model, data and measure; docs/evaluation.md says what each means.
    """
    if not options["texts"] and not options["tasks"] and not options["prepared"]:
        raise click.UsageError("name a text with --text, prepared data with --prepared, or tasks with --tasks")
    target = None if out is None else as_path(out)
    if target is not None:
        _check_writable(target)
    own, foreign = _split_tasks(options["tasks"])
    if not (options["texts"] or options["prepared"] or own or foreign):
        raise click.UsageError("--tasks names no task")
    if foreign:
        _check_harness(foreign)
    elif options["include_path"] or options["num_fewshot"] is not None:
        raise click.UsageError("--include-path and --num-fewshot are for tasks of lm-eval")
    files = _data_files(options["data"], own)
    from gptwo.checkpoint import load_checkpoint
    from gptwo.evaluation.identity import identify
    from gptwo.evaluation.report import Report
    from gptwo.evaluation.tasks import TASKS

    texts = _texts(options["texts"])
    prepared = _prepared(options["prepared"], options["tokenizer"])
    data = [TASKS[name].load(files.get(name), limit=options["limit"], progress=True) for name in own]
    checkpoint = load_checkpoint(model, revision=options["revision"], progress=True)
    identity = identify(checkpoint)
    published = _published_name(model, options["revision"])
    report = Report(
        model=model,
        parameters=checkpoint.config.parameter_count,
        checkpoint=identity,
        tokenizer=None,
        settings={
            "positions": checkpoint.config.n_positions,
            **{name: options[name] for name in ("stride", "limit", "num_fewshot", "backend", "device", "revision")},
        },
    )
    for weights in dict.fromkeys(options["formats"] or ("auto",)):
        with closing(_load(checkpoint, weights, options)) as lm:
            fingerprint = None if lm.tokenizer is None else lm.tokenizer.fingerprint
            for entry in evaluate(lm, texts, prepared, data, foreign, published, options):
                report = dataclasses.replace(report, tokenizer=fingerprint, entries=(*report.entries, entry))
                _keep(report, target)
    report = dataclasses.replace(report, complete=True)
    _keep(report, target)
    _show(report, as_json)


def _texts(names: tuple[str, ...]) -> list[DataFile]:
    """The texts of --text. What looks like records is read all the same, with a note."""
    from gptwo.evaluation.data_files import decode_file

    for name in names:
        if name.lower().endswith(RECORDS):
            note(
                f"{name}: taken as one plain text, with braces, commas and names of fields; for the texts in it "
                "make data with 'gptwo prepare' and name that with --prepared"
            )
    return [decode_file(read_bytes(name), shown_place(name)) for name in names]


def _prepared(names: tuple[str, ...], tokenizer: str | None) -> list[PreparedData]:
    """The data of --prepared."""
    if not names:
        return []
    from gptwo.training.prepared import PreparedData

    return [PreparedData.load(as_path(name), tokenizer=tokenizer) for name in names]


def _check_writable(target: Path) -> None:
    """Raise DataError if a report could not be written; to be known before the hours that it may take."""
    if os.path.isdir(target) or not os.path.isdir(target.parent):
        raise DataError(f"{target}: cannot be written (no such directory, or a directory itself)")
    replaced = os.path.isfile(target) or not os.path.exists(target)  # which a device is not
    if replaced and not os.access(os.path.dirname(os.path.realpath(target)), os.W_OK):
        raise DataError(f"{target}: cannot be written (its directory may not be written to)")


def _split_tasks(given: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The names of our tasks, and those of lm-eval's."""
    names = list(dict.fromkeys(name for group in given for name in (part.strip() for part in group.split(",")) if name))
    foreign = [name.removeprefix("lm-eval:") for name in names if name not in NAMES]
    return [name for name in names if name in NAMES], foreign


def _data_files(given: tuple[str, ...], tasks: list[str]) -> dict[str, Path]:
    """The files of --data, by task."""
    files = {}
    for item in given:
        name, equals, path = item.partition("=")
        if not equals or name not in NAMES:
            if len(tasks) != 1:
                raise click.UsageError(f"--data {item}: say whose data it is, as in --data lambada=FILE")
            name, path = tasks[0], item
        if name not in tasks:
            raise click.UsageError(f"--data {item}: --tasks does not name {name}")
        files[name] = as_path(path)
    return files


def _check_harness(tasks: list[str]) -> None:
    try:
        import gptwo.evaluation.harness  # noqa: F401  # which imports lm-eval
    except ImportError as error:
        hint = nearest_name(tasks[0], NAMES)
        near = hint if hint.startswith("; did") else ""
        raise MissingDependencyError(
            f"task {shown(tasks[0])} is none of {', '.join(NAMES)}{near}; lm-eval's tasks need it: "
            "pip install '.[eval]' in gptwo's checkout"
        ) from error


def _published_name(model: str, revision: str | None) -> str | None:
    """Which of the published models this is: one by its name on the hub, and not a path that is called alike."""
    from gptwo.config import PUBLISHED_MODELS

    if revision is not None or os.path.exists(os.path.expanduser(model)):
        return None
    return next((known.name for known in PUBLISHED_MODELS if model in (known.name, known.repository)), None)


def _load(checkpoint: Checkpoint, weights: str, options: dict[str, Any]) -> LanguageModel:
    import gptwo

    return gptwo.load(
        checkpoint.path,
        weights=weights,
        **{name: options[name] for name in ("backend", "threads", "device", "tokenizer")},
    )


def _keep(report: Report, target: Path | None) -> None:
    """Write the report as far as it is known, so that what took hours outlasts a Ctrl-C."""
    if target is None:
        return
    from gptwo.files import replace_file

    try:
        with replace_file(target) as file:
            file.write(json.dumps(finite(report.as_dict()), indent=2).encode() + b"\n")
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror})") from error


def _show(report: Report, as_json: bool) -> None:
    if as_json:
        write_json(report.as_dict())
        return
    columns, rows = report.table()
    write(f"{report.model}, {report.parameters:,} parameters\nsha256 of the weights {report.checkpoint.sha256}\n")
    print_table(columns, rows, right=columns[2 : 2 + len({entry.weights for entry in report.entries})])
    write("".join(f"{line}\n" for line in report.notes()))
