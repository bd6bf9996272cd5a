"""`gptwo export`: a model for other engines, beside a report of how it compares."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from gptwo.cli.loading import as_path, threads_option
from gptwo.cli.quantize import SAMPLE
from gptwo.cli.terminal import as_size, bar, write, write_json
from gptwo.errors import InvalidRequestError
from gptwo.export import DTYPES

if TYPE_CHECKING:
    from gptwo.checkpoint import Checkpoint
    from gptwo.decoder.protocol import Decoder, Floats
    from gptwo.export.report import Report
    from gptwo.tokenizer import Tokenizer

OPTIONS: list[click.Parameter] = [
    click.Argument(["model"]),
    click.Argument(["out"]),
    click.Option(["--to"], type=click.Choice(tuple(DTYPES)), required=True, help="Whose files to write."),
    click.Option(
        ["--dtype"],
        help="Type of the weights: "
        + "; ".join(f"{', '.join(dtypes)} ({to})" for to, dtypes in DTYPES.items())
        + ".  [default: the first]",
    ),
    click.Option(
        ["--compile", "compiled"],
        is_flag=True,
        help="torch: a program that AOTInductor compiles for this machine as well; needs a C++ compiler.",
    ),
    click.Option(["--report/--no-report"], default=True, help="Run it and compare.  [default: report]"),
    click.Option(["--force"], is_flag=True, help="Replace an export that is there."),
    click.Option(["--tokenizer"], metavar="PATH", help="A tokenizer's directory or file, instead of the model's own."),
    click.Option(["--revision"], help="A branch, tag or commit on the hub."),
    threads_option(),
    click.Option(["as_json", "--json"], is_flag=True, help="One JSON object."),
]


@click.command(params=OPTIONS)
def command(
    model: str, out: str, to: str, dtype: str | None, report: bool, force: bool, as_json: bool, **options: Any
) -> None:
    """Write MODEL (an embedded name, a path, or a name on the hub) for other engines into the directory OUT.

    OUT holds the model as ONNX, Core ML or TorchScript and torch.export have it, config.json, the tokenizer and
    report.json: the largest difference of a logit from the model here, greedy tokens compared, sizes and speed.
    It appears when all of it is there.
    """
    from gptwo.checkpoint import load_checkpoint
    from gptwo.export.directory import Against, check_target, check_wanted, export_checkpoint
    from gptwo.export.directory import as_json as report_as_json
    from gptwo.tokenizer import Tokenizer

    try:
        check_wanted(to, dtype, compiled=options["compiled"])
    except InvalidRequestError as error:
        raise click.UsageError(str(error)) from error
    target = as_path(out)
    check_target(target, force=force)
    checkpoint = load_checkpoint(model, revision=options["revision"], progress=True)
    source = checkpoint.tokenizer_path if options["tokenizer"] is None else options["tokenizer"]
    tokenizer = None if source is None else Tokenizer.load(source)
    with bar("comparing") as advance:

        def against() -> Against:
            reference = Reference(checkpoint, options["threads"])
            return Against(reference, prompts_for(checkpoint, tokenizer), lambda share: advance(share, ""))

        found = export_checkpoint(
            checkpoint,
            target,
            to=to,
            dtype=dtype,
            tokenizer=tokenizer,
            against=against if report else None,
            force=force,
            compiled=options["compiled"],
            threads=options["threads"],
        )
    if as_json:
        write_json({"path": str(target), **report_as_json(found)})
    else:
        rows = [("path", str(target)), *_rows(found)]
        width = max(17, *(len(name) + 2 for name, _ in rows))
        write("".join(f"{name:<{width}}{value}\n" for name, value in rows))


class Reference:
    """The model here, in float32, as an export is compared with it."""

    def __init__(self, checkpoint: Checkpoint, threads: int | None) -> None:
        from gptwo.decoder import open_decoder

        self.engine = "gptwo f32"
        self._decoder: Decoder = open_decoder(checkpoint, weights="f32", threads=threads)
        self._sequence = self._decoder.open()

    def start(self, token_ids: Sequence[int]) -> Floats:
        """See Runs."""
        self._decoder.truncate(self._sequence, 0)
        return self._feed(token_ids)

    def step(self, token_id: int) -> Floats:
        """See Runs."""
        return np.asarray(self._feed([token_id])[0])

    def _feed(self, token_ids: Sequence[int]) -> Floats:
        rows = np.arange(len(token_ids))
        places = rows + self._decoder.length(self._sequence)
        return self._decoder.forward(np.array(token_ids, np.int64), np.full_like(rows, self._sequence), places, rows)


def prompts_for(checkpoint: Checkpoint, tokenizer: Tokenizer | None) -> list[list[int]]:
    """Ten prompts of up to 20 tokens, from a text of ours, or where that has no tokens ids drawn from a fixed seed."""
    from gptwo.errors import TokenizerError
    from gptwo.export.report import PROMPTS

    config, ids = checkpoint.config, []
    if tokenizer is not None and tokenizer.vocab_size <= config.vocab_size:
        with contextlib.suppress(TokenizerError):  # one of characters may lack some of them
            ids = tokenizer.encode(SAMPLE)
    if not ids:
        ids = np.random.default_rng(0).integers(0, config.vocab_size, 400).tolist()
    stride = len(ids) // PROMPTS
    longest = min(20, config.n_positions - 1)
    return [list(ids[number * stride :][: 1 + 2 * number][:longest]) for number in range(PROMPTS)]


def _rows(report: Report) -> list[tuple[str, str]]:
    rows = [
        ("for", f"{report.to}, {report.dtype}"),
        *((f"  {name}", as_size(size)) for name, size in report.files.items() if size >= 50_000),
        ("size", f"{as_size(report.bytes)}, {report.parameters:,} parameters"),
    ]
    found = report.compared
    if found is None:
        return [*rows, ("not compared", str(report.not_compared))]
    return [
        *rows,
        ("compared", f"{found.engine} with {found.reference}, {found.prompts} prompts"),
        ("logits", f"largest difference {found.largest_difference:.2g}, mean {found.mean_difference:.2g}"),
        (
            "greedy tokens",
            f"{found.equal_tokens} of {found.tokens} equal; {found.equal_texts} of {found.prompts} texts",
        ),
        (
            "speed",
            f"{found.milliseconds_per_token:.2f} ms a token, here; "
            f"{found.reference} {found.reference_milliseconds_per_token:.2f} ms",
        ),
    ]
