"""`gptwo score`: how well a model predicts a text."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import click

from gptwo.cli.loading import load_model, model_options
from gptwo.cli.parameters import SectionedCommand
from gptwo.cli.terminal import shown_token, write, write_json
from gptwo.cli.text_input import read_text

OPTIONS: list[click.Parameter] = [
    click.Argument(["file"]),
    click.Option(["--tokens"], is_flag=True, help="List each token with its log-probability first."),
    click.Option(["as_json", "--json"], is_flag=True, help="One JSON object."),
]


@click.command(cls=SectionedCommand, params=[*OPTIONS, *model_options()])
def command(file: str, tokens: bool, as_json: bool, **options: Any) -> None:
    """Measure how well the model predicts the text of FILE, or standard input if it is `-`.

    Shows the number of tokens, their total log-probability in nats, the perplexity, and the bits that each byte of the
    text would cost. The text is taken whole, line ends and all.
    """
    text = read_text(file)
    with closing(load_model(options)) as model:
        score = model.score(text)
        tokenizer = model.tokenizer
    if as_json:
        whole: dict[str, Any] = {
            "tokens": len(score.token_ids),
            "log_probability": score.total,
            "perplexity": score.perplexity,
            "bits_per_byte": score.bits_per_byte,
        }
        if tokens:
            assert tokenizer is not None  # it encoded the text
            whole["token_logprobs"] = [
                {"token_id": token_id, "text": tokenizer.token_text(token_id), "logprob": logprob}
                for token_id, logprob in zip(score.token_ids, score.logprobs, strict=True)
            ]
        write_json(whole)
        return
    for token_id, logprob in zip(score.token_ids, score.logprobs, strict=True) if tokens else ():
        number = "" if logprob is None else f"{logprob:.4f}"
        write(f"{number:>10} {token_id:>6}  {shown_token(tokenizer, token_id)}\n")
    write(f"tokens           {len(score.token_ids):,}\n")
    write(f"log-probability  {score.total:.4f} nats\n")
    write(f"perplexity       {score.perplexity:.4f}\n")
    if score.bits_per_byte is not None:
        write(f"bits per byte    {score.bits_per_byte:.4f}\n")
