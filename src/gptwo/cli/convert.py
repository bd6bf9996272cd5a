"""`gptwo convert`: a model in another program's format."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from gptwo.cli.loading import as_path
from gptwo.cli.terminal import as_size, bar, write, write_json
from gptwo.errors import InvalidRequestError

# Those of gptwo.conversion, which is not imported to print a page of help.
TARGETS = ("hf", "nanogpt", "llmc", "raw", "gguf")
DTYPES = ("auto", "f32", "f16", "bf16", "q8_0", "q4_0")

OPTIONS: list[click.Parameter] = [
    click.Argument(["source"], metavar="SRC"),
    click.Argument(["target"], metavar="DST"),
    click.Option(["--to"], type=click.Choice(TARGETS), required=True, help="The format of DST."),
    click.Option(
        ["--dtype"],
        type=click.Choice(DTYPES, case_sensitive=False),
        default="auto",
        show_default=True,
        help="Type of the matrices; `auto` is SRC's where the format has it, else f32.",
    ),
    click.Option(["--tokenizer"], metavar="PATH", help="A tokenizer's directory or file, instead of the model's own."),
    click.Option(["--no-tokenizer"], is_flag=True, help="Leave the tokenizer out; gguf wants one or this."),
    click.Option(["--any-gelu"], is_flag=True, help="Take GELU and its approximation by tanh for the same."),
    click.Option(["--force"], is_flag=True, help="Replace a checkpoint that is at DST."),
    click.Option(["--revision"], help="A branch, tag or commit on the hub."),
    click.Option(["as_json", "--json"], is_flag=True, help="One JSON object."),
]


@click.command(params=OPTIONS)
def command(source: str, target: str, no_tokenizer: bool, as_json: bool, **options: Any) -> None:
    """Write the model SRC (an embedded name, a path, or a name on the hub) as DST, in another program's format.

    hf: a transformers directory. nanogpt: a directory with ckpt.pt. llmc: a directory with model.bin and
    gpt2_tokenizer.bin. raw: a directory with the tensors as float32 one after another and a list of them. gguf: one
    file for llama.cpp. SRC may be any of these, or one of OpenAI's TensorFlow checkpoints.

    What a format cannot say is refused, not left out. DST appears when it is whole. docs/convert.md says what each
    format keeps and loses.
    """
    if no_tokenizer and options["tokenizer"] is not None:
        raise click.UsageError("--tokenizer names a tokenizer, and --no-tokenizer leaves it out")
    from gptwo.conversion import convert

    try:
        with bar("converting") as advance:
            result = convert(
                source,
                as_path(target),
                with_tokenizer=not no_tokenizer,
                on_progress=lambda share: advance(share, ""),
                **options,
            )
    except InvalidRequestError as error:
        if error.param not in ("target", "dtype"):
            raise
        raise click.UsageError(str(error)) from error
    if as_json:
        write_json({**dataclasses.asdict(result), "path": str(result.path)})
        return
    rows = {
        "path": str(result.path),
        "format": f"{result.source} -> {result.target}, {result.dtype}",
        "size": f"{as_size(result.bytes)}, {result.tensors} tensors, {result.parameters:,} parameters",
        "tokenizer": "with the model" if result.tokenizer else "none",
        "activation": _activation(result.activation, result.source_activation),
    }
    write("".join(f"{name:<12}{value}\n" for name, value in rows.items()))


def _activation(written: str, read: str) -> str:
    """What the model computes now. A word where it is exact GELU, with which the weights may not have been made."""
    if written != read:
        return f"{written}, for {read}, as --any-gelu says"
    return "gelu, the exact one; GPT-2's own is gelu_new" if written == "gelu" else written
