"""Which model or tokenizer a command works with: its options, and the loading of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gptwo.cli.parameters import SectionOption
from gptwo.errors import TokenizerError
from gptwo.options import MOST_THREADS

if TYPE_CHECKING:
    from gptwo.language_model import LanguageModel
    from gptwo.tokenizer import Tokenizer

SECTION = "Model"
# Those of `gptwo.decoder`, which is not imported to print a page of help.
WEIGHTS = ("auto", "f32", "bf16", "int8", "int4")
BACKENDS = ("auto", "native", "reference")


def tokenizer_options() -> list[click.Parameter]:
    """The options of `load_tokenizer`."""
    return [
        SectionOption(
            ["-m", "--model"],
            SECTION,
            default="shakespeare",
            envvar="GPTWO_MODEL",
            show_default=True,
            show_envvar=True,
            metavar="NAME|PATH",
            help="An embedded model, a local path, or a name on the hub.",
        ),
        SectionOption(
            ["--tokenizer"],
            SECTION,
            metavar="PATH",
            help="A tokenizer's directory or file, instead of the model's own.",
        ),
        SectionOption(["--revision"], SECTION, help="A branch, tag or commit on the hub."),
    ]


def threads_option() -> click.Parameter:
    """`--threads`, for every command that computes with a model."""
    return SectionOption(
        ["--threads"],
        SECTION,
        type=click.IntRange(1, MOST_THREADS),
        help="Threads to compute with; as many as cores unless given.",
    )


def model_options() -> list[click.Parameter]:
    """The options of `load_model`."""
    return [
        *tokenizer_options(),
        threads_option(),
        SectionOption(
            ["--weights"],
            SECTION,
            type=click.Choice(WEIGHTS),
            default="auto",
            show_default=True,
            help="Format of the weights in memory; `auto` keeps the file's.",
        ),
        SectionOption(
            ["--backend"],
            SECTION,
            type=click.Choice(BACKENDS),
            default="auto",
            show_default=True,
            help="What computes the model; `auto` is the compiled core on a CPU.",
        ),
        SectionOption(["--device"], SECTION, default="cpu", show_default=True, help="Where it is computed."),
    ]


def load_model(options: dict[str, Any]) -> LanguageModel:
    """The model that the options of `model_options` name."""
    import gptwo

    return gptwo.load(
        options["model"],
        weights=options["weights"],
        backend=options["backend"],
        threads=options["threads"],
        device=options["device"],
        revision=options["revision"],
        tokenizer=options["tokenizer"],
        progress=True,
    )


def load_tokenizer(options: dict[str, Any]) -> Tokenizer:
    """The tokenizer that the options of `tokenizer_options` name, without reading any weights."""
    from gptwo.tokenizer import GGUF_SUFFIX, Tokenizer

    if options["tokenizer"] is not None:
        return Tokenizer.load(options["tokenizer"])
    from gptwo.checkpoint import resolve

    path = resolve(options["model"], revision=options["revision"], progress=True, weights=False)
    directory = path if path.is_dir() or path.name.endswith(GGUF_SUFFIX) else path.parent
    if not Tokenizer.exists(directory):
        raise TokenizerError(f"model {options['model']} brings no tokenizer; name one with --tokenizer")
    return Tokenizer.load(directory)


def as_path(text: str) -> Path:
    """A path that a person typed, `~` and all. Raises UsageError for none, which pathlib takes for `.`."""
    if not text:
        raise click.UsageError("a path is empty; is a variable of the shell not set?")
    return Path(os.path.expanduser(text))  # pathlib raises for a user that there is not
