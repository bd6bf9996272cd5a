"""Options that say what a text has to be: --json-schema, --regex, --choice and --grammar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from gptwo.cli.loading import as_path
from gptwo.cli.parameters import SectionOption
from gptwo.cli.text_input import read_text

SECTION = "Structured outputs (sampling)"


def structured_options() -> list[click.Parameter]:
    """The four options; at most one of them may be given."""
    return [
        SectionOption(
            ["--json-schema"], SECTION, metavar="FILE|JSON", help="The text is JSON that a schema describes."
        ),
        SectionOption(["--regex"], SECTION, metavar="TEXT", help="The text matches a regular expression, whole."),
        SectionOption(
            ["--choice"], SECTION, metavar="TEXT", multiple=True, help="The text is one of these.  May be given again."
        ),
        SectionOption(
            ["--grammar"], SECTION, metavar="FILE|TEXT", help="The text is what a grammar in Lark's syntax describes."
        ),
    ]


def structured_values(options: Mapping[str, Any]) -> dict[str, Any] | None:
    """What these options come to, as a value of structured_outputs. Raises DataError for a file, click.UsageError."""
    found: dict[str, Any] = {}
    if options["json_schema"] is not None:
        found["json_schema"] = _source(
            options["json_schema"], lambda text: text[:1] == "{" or text in ("true", "false")
        )
    if options["regex"] is not None:
        found["regex"] = options["regex"]
    if options["choice"]:
        found["choice"] = list(options["choice"])
    if options["grammar"] is not None:
        found["grammar"] = _source(options["grammar"], lambda text: ":" in text and not as_path(text).is_file())
    if len(found) > 1:
        names = [f"--{name.replace('_', '-')}" for name in found]
        raise click.UsageError(f"{' and '.join(names)} cannot both be kept: give one of them")
    return found or None


def option_name(structured: Mapping[str, Any]) -> str:
    """The option that a value of `structured_values` came from."""
    return "--" + next(iter(structured)).replace("_", "-")


def _source(text: str, is_source: Any) -> str:
    return text if is_source(text.strip()) else read_text(text)
