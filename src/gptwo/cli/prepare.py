"""`gptwo prepare`: texts to token shards."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import click

from gptwo.cli.loading import as_path
from gptwo.cli.parameters import SectionedCommand, given, parameters_of
from gptwo.cli.terminal import bar, note, write
from gptwo.errors import InvalidRequestError, plural
from gptwo.training.prepare_config import PrepareConfig

SETTINGS = parameters_of(PrepareConfig)


@click.command(
    cls=SectionedCommand,
    params=[
        click.Argument(["texts"], nargs=-1, required=True),
        click.Option(["--out"], required=True, metavar="DIR", help="Where the data goes."),
        click.Option(["--restart"], is_flag=True, help="Make it anew, whatever data was made or begun there."),
        *(parameter.option("Settings") for parameter in SETTINGS.values()),
    ],
)
def command(texts: tuple[str, ...], out: str, restart: bool, **_: Any) -> None:
    """Turn TEXTS into data for `gptwo train`.

    TEXTS are files (text in UTF-8, JSONL, CSV, TSV, Parquet; .gz and .zst too), directories of them, or sets that
    are fetched: tinyshakespeare, tinystories, openwebtext, fineweb-edu. Each text file and each record is a
    document; <|endoftext|> stands between two. Some documents are kept for validation, or of a single one its end.

    Ctrl-C, or whatever else stops it, loses little: the same command goes on from there. Other data that is finished
    in DIR stays, unless --restart is given.
    """
    from gptwo.training.prepare import prepare

    show: Callable[[float, str], None] | None = None
    with ExitStack() as stack:

        def progress(share: float) -> None:
            nonlocal show
            if show is None:  # not before: fetching the tokenizer shows a bar of its own
                show = stack.enter_context(bar("encoding"))
            show(share, "")

        try:
            made = prepare(
                texts,
                as_path(out),
                restart=restart,
                progress=progress,
                notice=note,
                **given(click.get_current_context(), SETTINGS),
            )
        except InvalidRequestError as error:
            raise click.UsageError(str(error)) from error
    counts = made.documents or (0, 0)
    for name, part, count in (("train", made.train, counts[0]), ("val", made.val, counts[1])):
        characters = part.characters or 0
        words = f"{name:<6} {part.count:>12,} {plural(part.count, 'token'):<6}"
        words += f"  {characters:>13,} {plural(characters, 'character'):<10}"
        words += f"  {count:>11,} {plural(count, 'document')}" if sum(counts) > 2 else ""
        write(words.rstrip() + "\n")
    write(f"vocabulary of {made.train.vocab_size:,} tokens; data in {made.directory}\n")
