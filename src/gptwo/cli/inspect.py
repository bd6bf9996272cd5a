"""`gptwo inspect`: what a checkpoint is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from gptwo.cli.terminal import as_size, bar, note, write, write_json
from gptwo.errors import one_line

if TYPE_CHECKING:
    from gptwo.config import GPTConfig
    from gptwo.inspection.parameters import Inventory

OPTIONS: list[click.Parameter] = [
    click.Argument(["model"]),
    click.Option(
        ["--norms/--no-norms"],
        default=None,
        help="Read every number for the norms.  [default: up to 1 GB of weights]",
    ),
    click.Option(["--revision"], help="A branch, tag or commit on the hub."),
    click.Option(["as_json", "--json"], is_flag=True, help="One JSON object."),
]

_MADE_BY = {
    **dict.fromkeys(("f32", "f16"), "gptwo convert --to hf"),
    **dict.fromkeys(("bf16", "int8", "int4"), "gptwo quantize; vectors and positions stay f32"),
    **dict.fromkeys(("q8_0", "q4_0"), "gptwo convert --to gguf; vectors and positions stay f32"),
}


@click.command(params=OPTIONS)
def command(model: str, norms: bool | None, revision: str | None, as_json: bool) -> None:
    """Show what MODEL (an embedded name, a path, or a name on the hub) is made of.

    Its configuration, its modules and their shapes, the totals of its parts, what its weights would weigh in each
    format, and every tensor: name, shape, type, bytes and norm (the square root of the sum of squares). Only the norms
    read the weights; without them a file of many gigabytes is shown at once.
    """
    from gptwo.inspection.parameters import take_inventory

    with bar("reading") as advance:
        inventory = take_inventory(
            model, norms=norms, revision=revision, progress=True, on_read=lambda share: advance(share, "")
        )
    if as_json:
        write_json(_as_json(inventory))
        return
    _show(inventory)
    if not inventory.norms_read and norms is None:
        note(f"norms are left out of {as_size(inventory.bytes)}; --norms reads them")


def _as_json(inventory: Inventory) -> dict[str, Any]:
    from gptwo.inspection.parameters import module_tree

    return {
        "path": str(inventory.path),
        "format": inventory.format,
        "config": inventory.config.to_dict(),
        "parameters": inventory.config.parameter_count,
        "bytes": inventory.bytes,
        "modules": module_tree(inventory.config),
        "parts": {part: {"parameters": count, "bytes": size} for part, (count, size) in inventory.parts.items()},
        "formats": dict(inventory.formats),
        "tensors": [dataclasses.asdict(parameter) for parameter in inventory.parameters],
    }


def _show(inventory: Inventory) -> None:
    config = inventory.config
    write(
        f"{inventory.path}: {inventory.format}, {config.parameter_count:,} parameters, {as_size(inventory.bytes)}\n\n"
    )
    for name, value in config.to_dict().items():
        if name not in config.extra:
            write(f"{name:<33}{value}\n")
    if config.extra:
        write(f"{'other keys':<33}{one_line(', '.join(sorted(config.extra)), 1000)}\n")
    write("\n" + "".join(line + "\n" for line in tree_lines(config)) + "\n")
    _table(
        ("part", "parameters", "share", "size"),
        [
            (part, f"{count:,}", f"{count / config.parameter_count:.1%}", as_size(size))
            if part != "head" or count
            else (part, "tied to wte", "", "")
            for part, (count, size) in inventory.parts.items()
        ],
    )
    _table(
        ("format", "weights", "made by"),
        [(name, "-" if size is None else as_size(size), _MADE_BY[name]) for name, size in inventory.formats.items()],
    )
    _table(
        ("tensor", "shape", "type", "bytes", "norm"),
        [
            (one.name, _shape(one.shape), one.dtype, f"{one.bytes:,}", "-" if one.norm is None else f"{one.norm:.4f}")
            for one in inventory.parameters
        ],
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table; numbers are aligned to the right. (rich's takes a second for the tensors of GPT-2 XL.)"""
    right = [name in ("parameters", "share", "size", "weights", "bytes", "norm") for name in columns]
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    for cells in (columns, *rows):
        line = "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(cells, widths, right, strict=True)
        )
        write(line.rstrip() + "\n")
    write("\n")


def tree_lines(config: GPTConfig) -> list[str]:
    """The module tree, a line each, with its parameters' shapes; the blocks, which are all alike, once."""
    from gptwo.inspection.parameters import module_tree

    tree = {}
    for name, module in module_tree(config).items():
        many = f"h.0 to h.{config.n_layer - 1}" if config.n_layer > 1 else "h.0"
        tree.update({many: module["0"]} if name == "h" else {name: module})
    if config.tie_word_embeddings:
        tree["lm_head"] = "tied to wte"
    return [f"GPT2  {config.parameter_count:,} parameters", *_branches(tree, "")]


def _branches(tree: dict[str, Any], indent: str) -> list[str]:
    """The lines of what is in a module; one that holds nothing but parameters is a line itself."""
    lines = []
    for place, (name, node) in enumerate(tree.items(), 1):
        corner, below = ("└─ ", "   ") if place == len(tree) else ("├─ ", "│  ")
        leaf = not isinstance(node, dict) or all(isinstance(inner, tuple) for inner in node.values())
        lines.append(f"{indent}{corner}{name}" + (f"  {_parameters(node)}" if leaf else ""))
        if not leaf:
            lines += _branches(node, indent + below)
    return lines


def _parameters(module: Any) -> str:
    """What a module of parameters only holds: `weight 768 x 2304, bias 2304`."""
    if isinstance(module, str):
        return module
    return ", ".join(f"{name} {_shape(shape)}" for name, shape in module.items())


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
