"""`gptwo prepare`: texts to token shards."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import click

from gptwo.cli.loading import as_path
from gptwo.cli.terminal import bar, write
from gptwo.errors import InvalidRequestError


@click.command()
@click.argument("texts", nargs=-1, required=True)
@click.option("--out", required=True, metavar="DIR", help="Where the data goes.")
@click.option(
    "--tokenizer",
    default="gpt2",
    show_default=True,
    metavar="NAME",
    help="gpt2, char (a token for each character), bpe:SIZE (trained on the texts), or a model or directory with one.",
)
@click.option("--val-fraction", type=float, default=0.1, show_default=True, help="Share kept for validation.")
def command(texts: tuple[str, ...], out: str, tokenizer: str, val_fraction: float) -> None:
    """Turn TEXTS (files in UTF-8) into data for `gptwo train`.

    The last part of the texts, by characters, is for validation. Between two texts stands <|endoftext|>.
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
                [as_path(text) for text in texts],
                as_path(out),
                tokenizer=tokenizer,
                val_fraction=val_fraction,
                progress=progress,
            )
        except InvalidRequestError as error:
            raise click.UsageError(str(error)) from error
    for name, header in (("train", made.train), ("val", made.val)):
        write(f"{name:<6} {header.count:>12,} tokens  {header.characters:>13,} characters\n")
    write(f"vocabulary of {made.train.vocab_size:,} tokens; data in {made.directory}\n")
