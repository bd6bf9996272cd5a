"""`gptwo explain`: one page with all that can be seen of a prompt inside a model."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gptwo.cli.loading import SECTION, as_path, threads_option, tokenizer_options
from gptwo.cli.parameters import SectionedCommand, SectionOption
from gptwo.cli.terminal import write, write_json
from gptwo.cli.text_input import read_prompt
from gptwo.errors import DataError, TokenizerError

if TYPE_CHECKING:
    from gptwo.checkpoint import Checkpoint

PAGE = "explain.html"
OPTIONS: list[click.Parameter] = [
    click.Argument(["prompt"]),
    click.Option(["-o", "--out"], metavar="FILE", help=f"The page; {PAGE} unless given, and none with --json alone."),
    click.Option(
        ["--png"], metavar="DIR", help="Write each analysis as a picture into this directory too (extra `plot`)."
    ),
    click.Option(["as_json", "--json"], is_flag=True, help="One JSON object with the numbers of the page."),
    *tokenizer_options(),
    threads_option(),
    SectionOption(["--device"], SECTION, default="cpu", show_default=True, help="Where it is computed."),
]


@click.command(cls=SectionedCommand, params=OPTIONS)
def command(prompt: str, out: str | None, png: str | None, as_json: bool, **options: Any) -> None:
    """Write a page that shows what the model makes of PROMPT; `-` is standard input.

    The page is one file for any browser: the likeliest next tokens after each layer (the logit lens), the attention of
    every head, what each head and layer adds to a prediction, the loss of each token, induction scores, and the next
    token under temperature, top-k and top-p. It needs PyTorch (extra `torch`); docs/explain.md says what is on it. A
    model that `gptwo quantize` packed cannot be looked into: explain the one that it was made from.
    """
    text = read_prompt(prompt)
    target = as_path(PAGE if out is None else out) if out is not None or not (as_json or png is not None) else None
    folder = None if png is None else as_path(png)
    if target is not None:
        _check_file(target)
    if folder is not None:
        _check_folder(folder)
    checkpoint = _checkpoint(options)  # before PyTorch is imported for nothing
    from gptwo.inspection import Inspector, explain, page_of

    if folder is not None:
        from gptwo.inspection.plots import check_plotting

        check_plotting()  # before the model is run for nothing
    inspector = Inspector.load(
        checkpoint.path, device=options["device"], threads=options["threads"], tokenizer=options["tokenizer"]
    )
    inspector.name = options["model"]
    found = explain(inspector, text)
    written = []
    if target is not None:
        _write(target, page_of(found).encode())
        written.append(target)
    if folder is not None:
        from gptwo.inspection.plots import draw_all

        written += draw_all(found, folder)
    if as_json:
        write_json(found.as_dict())
        return
    for path in written:
        write(f"{path}\n")


def _check_file(target: Path) -> None:
    """Raise DataError where `_write` would fail, as far as can be told without writing the file."""
    real = Path(os.path.realpath(target))
    if os.path.isdir(real):
        raise DataError(f"{target}: cannot be written (it is a directory)")
    if not os.path.isdir(real.parent):
        raise DataError(f"{target}: cannot be written (no such directory: {target.parent})")
    try:
        if not (real.is_char_device() or real.is_fifo()):
            with tempfile.TemporaryFile(dir=real.parent):
                pass
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror})") from error


def _check_folder(folder: Path) -> None:
    """Raise DataError unless pictures can be written into a directory, which may have to be made."""
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    try:
        with tempfile.TemporaryDirectory(dir=there) as made:
            (Path(made) / folder.relative_to(there)).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: pictures cannot be written there ({error.strerror})") from error


def _checkpoint(options: dict[str, Any]) -> Checkpoint:
    """The model that the options name, if it can be looked into and has a tokenizer."""
    from gptwo.checkpoint import load_checkpoint
    from gptwo.inspection.checks import check_unpacked

    checkpoint = load_checkpoint(options["model"], revision=options["revision"], progress=True)
    check_unpacked(checkpoint)
    if checkpoint.tokenizer_path is None and options["tokenizer"] is None:
        raise TokenizerError(f"model {options['model']} brings no tokenizer; name one with --tokenizer")
    return checkpoint


def _write(target: Path, content: bytes) -> None:
    from gptwo.files import replace_file

    try:
        with replace_file(target) as file:
            file.write(content)
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror})") from error
