"""`gptwo tokenize`: text to token ids and back. It reads no weights and needs no PyTorch."""

from __future__ import annotations

from typing import Any

import click

from gptwo.cli.loading import load_tokenizer, tokenizer_options
from gptwo.cli.parameters import SectionedCommand
from gptwo.cli.terminal import shown_token, write, write_json
from gptwo.cli.text_input import read_prompt, read_text
from gptwo.errors import DataError

OPTIONS: list[click.Parameter] = [
    click.Argument(["text"], required=False),
    click.Option(["-f", "--file"], metavar="FILE", help="Read the text from a file, all of it."),
    click.Option(["--ids"], is_flag=True, help="Only the ids, on one line."),
    click.Option(["--count"], is_flag=True, help="Only the number of tokens."),
    click.Option(["as_json", "--json"], is_flag=True, help="One JSON object."),
    click.Option(["--decode"], is_flag=True, help="Turn ids into text; between them stand spaces or commas."),
    click.Option(["--special"], is_flag=True, help="Take <|endoftext|> in the text for the special token."),
]


@click.command(cls=SectionedCommand, params=[*OPTIONS, *tokenizer_options()])
def command(text: str | None, file: str | None, **options: Any) -> None:
    """Show the tokens of TEXT, or of standard input if it is `-`: the id of each, and its text in quotes.

    Standard input loses one line end at its end; a file is taken whole.
    """
    if (text is None) == (file is None):
        raise click.UsageError("expected a TEXT, `-` for standard input, or --file FILE" + (", not both" * bool(file)))
    if sum(bool(options[name]) for name in ("ids", "count", "as_json", "decode")) > 1:
        raise click.UsageError("expected at most one of --ids, --count, --json and --decode")
    source = read_text(file) if file is not None else read_prompt(text or "")
    tokenizer = load_tokenizer(options)
    if options["decode"]:
        write(tokenizer.decode(_ids(source)) + "\n")
        return
    ids = tokenizer.encode(source, allow_special=options["special"])
    if options["ids"]:
        write(" ".join(map(str, ids)) + "\n")
    elif options["count"]:
        write(f"{len(ids)}\n")
    elif options["as_json"]:
        write_json({"ids": ids, "tokens": [tokenizer.token_text(token_id) for token_id in ids]})
    else:
        write("".join(f"{token_id:>6}  {shown_token(tokenizer, token_id)}\n" for token_id in ids))


def _ids(text: str) -> list[int]:
    ids = []
    for word in text.replace(",", " ").split():
        if not (word.isascii() and word.isdigit()) or len(word) > 10:
            raise DataError(f"{word[:60]!r} is not a token id; expected numbers with spaces or commas between them")
        ids.append(int(word))
    return ids
