"""`gptwo models`: what is here, and what is published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gptwo.cli.terminal import as_size, print_table, write, write_json
from gptwo.config import PUBLISHED_MODELS, GPTConfig
from gptwo.errors import ConfigError

if TYPE_CHECKING:
    from gptwo.checkpoint import FoundModel

COLUMNS = ("name", "parameters", "width", "layers", "heads", "positions")


@click.command(params=[click.Option(["as_json", "--json"], is_flag=True, help="One JSON object.")])
def command(as_json: bool) -> None:
    """List the models that are embedded in gptwo or cached on this machine, and the published sizes."""
    from gptwo.checkpoint import cached_models, embedded_models

    embedded = [_found(model) for model in embedded_models()]
    cached = [_found(model) for model in cached_models()]
    published = [
        {"name": model.name, **_shape(GPTConfig.published(model.name)), "repository": model.repository}
        for model in PUBLISHED_MODELS
    ]
    if as_json:
        write_json({"embedded": embedded, "cached": cached, "published": published})
        return
    _table("embedded: they load without a download", embedded)
    _table("cached: downloaded before", cached)
    _table("published: downloaded when first asked for", published)


def _found(model: FoundModel) -> dict[str, Any]:
    try:
        shape = _shape(GPTConfig.load(model.path / "config.json"))
    except ConfigError:  # a broken one is still here, and takes its space
        shape = dict.fromkeys(COLUMNS[1:])
    return {"name": model.name, **shape, "bytes": model.size, "path": str(model.path)}


def _shape(config: GPTConfig) -> dict[str, int | None]:
    return {
        "parameters": config.parameter_count,
        "width": config.n_embd,
        "layers": config.n_layer,
        "heads": config.n_head,
        "positions": config.n_positions,
    }


def _table(title: str, models: list[dict[str, Any]]) -> None:
    if not models:
        write(f"{title.partition(':')[0]}: none\n\n")
        return
    last = "repository" if "repository" in models[0] else "size"
    rows = [
        [
            *("?" if model[column] is None else _number(model[column]) for column in COLUMNS),
            model["repository"] if last == "repository" else as_size(model["bytes"]),
        ]
        for model in models
    ]
    right = COLUMNS[1:] if last == "repository" else (*COLUMNS[1:], "size")
    print_table((*COLUMNS, last), rows, title=title, right=right)


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
