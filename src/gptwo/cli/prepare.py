"""`gptwo prepare`: texts to token shards."""

from __future__ import annotations

from pathlib import Path

import click

from gptwo.cli.loading import as_path
from gptwo.cli.terminal import bar, write


@click.command()
@click.argument("texts", nargs=-1, required=True)
@click.option("--out", required=True, metavar="DIR", help="Where the data goes.")
@click.option(
    "--tokenizer",
    default="gpt2",
    show_default=True,
    metavar="NAME",
    help="gpt2, char (a token for each character), bpe:SIZE (trained on the texts), or a directory that holds one.",
)
@click.option("--val-fraction", type=float, default=0.1, show_default=True, help="Share kept for validation.")
def command(texts: tuple[str, ...], out: str, tokenizer: str, val_fraction: float) -> None:
    """Turn TEXTS (files in UTF-8) into data for `gptwo train`.

    The last part of the texts, by characters, is for validation.
    """
    from gptwo.training.prepare import prepare

    paths: list[Path] = [as_path(text) for text in texts]
    with bar("encoding") as show:
        made = prepare(paths, as_path(out), tokenizer=tokenizer, val_fraction=val_fraction, progress=lambda share: show(share, ""))
    for name, header in (("train", made.train), ("val", made.val)):
        write(f"{name:<6} {header.count:>12,} tokens  {header.characters:>13,} characters\n")
    write(f"vocabulary of {made.train.vocab_size:,} tokens; data in {made.directory}\n")
