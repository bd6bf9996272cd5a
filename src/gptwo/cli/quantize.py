"""`gptwo quantize`: a model with its weights packed, beside a report of what that costs."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gptwo.cli.loading import as_path, threads_option
from gptwo.cli.terminal import as_size, bar, note, write, write_json
from gptwo.cli.text_input import read_text
from gptwo.errors import CheckpointError, InvalidRequestError

if TYPE_CHECKING:
    from gptwo.checkpoint import Checkpoint, Packed
    from gptwo.decoder.native import NativeDecoder
    from gptwo.evaluation.comparison import Comparison
    from gptwo.tokenizer import Tokenizer

FORMATS = ("int8", "int4", "bf16")

# Compared on where no text is given: plain prose of our own, enough to see a model that has lost its mind.
SAMPLE = """\
The harbour was quiet in the early morning, and the boats lay close together along the wall. An old man walked down the
steps with a basket on his arm, looked at the sky for a while, and said that it would rain before noon. Nobody answered
him. The fishermen were already out beyond the lighthouse, where the water is deep and cold, and their families were
asleep in the white houses on the hill.

At eight o'clock the market opened. There was bread from the bakery, cheese from the farms in the valley, apples,
onions, honey and dried herbs. A girl of about ten years sold flowers which she had picked the evening before. "How much
are the yellow ones?" asked a woman in a green coat. "Two for a penny," said the girl, "or three if you take the blue
ones as well." The woman laughed and took them all.

By the afternoon the old man had been proved right. The rain came in from the west, first a few drops and then a heavy
shower that drove everyone under the roofs of the stalls. It did not last long. When the sun returned, the first sails
were seen on the horizon, and people went down to the water to count them: seven, as many as had left in the night.
"""


OPTIONS: list[click.Parameter] = [
    click.Argument(["model"]),
    click.Argument(["out"]),
    click.Option(
        ["--weights"], type=click.Choice(FORMATS), default="int8", show_default=True, help="Format of the matrices."
    ),
    click.Option(["--text"], metavar="FILE", help="A text to compare on; a short one of ours unless given."),
    click.Option(["--report/--no-report"], default=True, help="Compare with f32.  [default: report]"),
    click.Option(["--tokenizer"], metavar="PATH", help="A tokenizer's directory or file, instead of the model's own."),
    click.Option(["--revision"], help="A branch, tag or commit on the hub."),
    threads_option(),
    click.Option(["as_json", "--json"], is_flag=True, help="One JSON object."),
]


@dataclass(frozen=True)
class Result:
    """What was packed, and how it compares; sizes are those of the weights, in bytes."""

    weights: str
    layout: int
    parameters: int
    bytes_before: int
    bytes: int
    text: str
    """What it was compared on, or why it was not."""
    against_f32: Comparison | None


@click.command(params=OPTIONS)
def command(model: str, out: str, text: str | None, report: bool, as_json: bool, **options: Any) -> None:
    """Pack the weights of MODEL (an embedded name, a path, or a name on the hub) into the directory OUT.

    OUT holds the weights as the compiled core reads them, the configuration, the tokenizer and a card. It loads like
    any model and sooner than others: its file is mapped into memory and nothing is copied. Shown are its size, and how
    far it is from f32 on a text: the differences of the logits, and the perplexity.

    An OUT that is there is replaced if it comes from this command; until the new one is whole, the old one stays.
    """
    from gptwo.checkpoint import load_checkpoint, save_packed
    from gptwo.tokenizer import Tokenizer

    if text is not None and not report:
        raise click.UsageError("--text is for the report, which --no-report leaves out")
    words = SAMPLE if text is None else read_text(text)
    target = as_path(out)
    checkpoint = load_checkpoint(model, revision=options["revision"], progress=True)
    if checkpoint.packed is not None:
        raise InvalidRequestError(f"model {model} is packed already, as {checkpoint.packed.weights}", param="model")
    _check_target(target)
    source = options["tokenizer"] or checkpoint.tokenizer_path
    tokenizer = None if source is None else Tokenizer.load(source)

    decoder, packed = _pack(checkpoint, options["weights"], options["threads"])
    comparison, on = None, "not compared with f32"
    if report and tokenizer is None:
        on += ": the model brings no tokenizer to read a text with; name one with --tokenizer"
    elif report and tokenizer is not None:
        comparison = _compare(checkpoint, decoder, tokenizer, words, options["threads"])
        on = {None: "a sample text", "-": "standard input"}.get(text) or Path(text or "").name
    result = Result(
        weights=packed.weights,
        layout=packed.layout,
        parameters=checkpoint.config.parameter_count,
        bytes_before=sum(tensor.raw.nbytes for tensor in checkpoint.tensors.values()),
        bytes=decoder.weight_bytes,
        text=on,
        against_f32=comparison,
    )
    tensors = decoder.packed_tensors(checkpoint.tensors)
    save_packed(target, checkpoint.config, tensors, packed, tokenizer, card=_card(model, result))
    if as_json:
        write_json({"path": str(target), **dataclasses.asdict(result)})
    else:
        write("".join(f"{name:<17}{value}\n" for name, value in (("path", str(target)), *_rows(result))))
        if text is None and comparison is not None:
            note("the sample is plain English prose; --text FILE names what the model is for")


def _pack(checkpoint: Checkpoint, weights: str, threads: int | None) -> tuple[NativeDecoder, Packed]:
    from gptwo.checkpoint import Packed
    from gptwo.decoder import open_decoder
    from gptwo.decoder.native import LAYOUT_VERSION, NativeDecoder

    decoder = open_decoder(checkpoint, backend="native", weights=weights, threads=threads)
    assert isinstance(decoder, NativeDecoder)
    return decoder, Packed(weights, LAYOUT_VERSION)


def _check_target(target: Path) -> None:
    """Refuse to replace weights that are not packed: they could not be had back from packed ones."""
    from gptwo.checkpoint import check_replaceable
    from gptwo.checkpoint.packed_format import WEIGHTS_FILE

    real = Path(os.path.realpath(target))
    check_replaceable(real)
    for name in sorted(os.listdir(real)) if real.is_dir() else ():
        if name.endswith((".safetensors", ".bin", ".index.json")) and name != WEIGHTS_FILE:
            raise CheckpointError(
                f"checkpoint {target}: cannot be saved there: the directory holds weights that are not packed, "
                f"{name!a}; choose another directory"
            )


def _compare(
    checkpoint: Checkpoint, packed: NativeDecoder, tokenizer: Tokenizer, words: str, threads: int | None
) -> Comparison:
    from gptwo.decoder import open_decoder
    from gptwo.evaluation.comparison import compare

    exact = open_decoder(checkpoint, backend="native", weights="f32", threads=threads)
    with bar("comparing with f32") as advance:
        return compare(exact, packed, tokenizer.encode(words), lambda share: advance(share, ""))


def _rows(result: Result) -> list[tuple[str, str]]:
    share = f"{result.bytes / result.bytes_before:.0%}"
    rows = [
        ("weights", f"{result.weights}, layout {result.layout}"),
        (
            "size",
            f"{as_size(result.bytes_before)} -> {as_size(result.bytes)} ({share} of the file before)",
        ),
    ]
    found = result.against_f32
    if found is None:
        return [*rows, ("report", result.text)]
    change = found.other_perplexity / found.perplexity - 1.0
    return [
        *rows,
        ("compared on", f"{result.text}, {found.tokens:,} tokens"),
        ("logits", f"mean difference {found.mean_difference:.5f}, worst {found.worst_difference:.5f}"),
        ("perplexity", f"{found.perplexity:.4f} -> {found.other_perplexity:.4f} ({change:+.3%})"),
    ]


def _card(model: str, result: Result) -> str:
    lines = [
        "---",
        "tags:",
        "- gpt2",
        "- gptwo",
        "---",
        f"# {Path(model).name}, {result.parameters:,} parameters, packed as {result.weights}",
        "",
        "Made by `gptwo quantize`; its weights lie as gptwo's compiled core reads them, and only that does.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in _rows(result)),
        "",
        "Differences and perplexity are against the same model in f32. Load it by the path of this directory:",
        "",
        "```sh",
        "gptwo generate 'Once upon a time' --model .",
        "```",
        "",
    ]
    return "\n".join(lines)
