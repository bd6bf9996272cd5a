"""`gptwo top`: the likeliest next tokens."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import click

from gptwo.cli.loading import load_model, model_options
from gptwo.cli.parameters import SectionedCommand
from gptwo.cli.terminal import print_table, shown_token, write_json
from gptwo.cli.text_input import read_prompt

OPTIONS: list[click.Parameter] = [
    click.Argument(["prompts"], nargs=-1, required=True, metavar="PROMPT..."),
    click.Option(["-k"], type=click.IntRange(min=1), default=5, show_default=True, help="Tokens to show."),
    click.Option(["as_json", "--json"], is_flag=True, help="One JSON object for each prompt, on a line."),
]


@click.command(cls=SectionedCommand, params=[*OPTIONS, *model_options()])
def command(prompts: tuple[str, ...], k: int, as_json: bool, **options: Any) -> None:
    """Show the likeliest next tokens after each PROMPT, with their ids and probabilities; `-` is standard input."""
    texts = [read_prompt(prompt) for prompt in prompts]
    with closing(load_model(options)) as model:
        for text in texts:
            found = model.top(text, k=k)
            if as_json:
                top = [{"text": token, "token_id": i, "probability": probability} for token, i, probability in found]
                write_json({"prompt": text, "top": top})
            else:
                rows = [(shown_token(model.tokenizer, i), str(i), f"{100 * share:.2f}%") for _, i, share in found]
                print_table(("token", "id", "probability"), rows, title=repr(text), right=("id", "probability"))
