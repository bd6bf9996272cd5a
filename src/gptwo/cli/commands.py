"""The table of commands. A command's module is imported when the command is called, and only then."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence

import click

from gptwo.errors import nearest_name
from gptwo.version import __version__

# A name, the module whose `command` it is, and the line that `gptwo --help` shows.
COMMANDS = {
    "generate": ("gptwo.cli.generate", "Continue a prompt, or a file of prompts."),
    "interactive": ("gptwo.cli.interactive", "Continue prompt after prompt with one model."),
    "models": ("gptwo.cli.models", "List the models that are here, and the published ones."),
    "inspect": ("gptwo.cli.inspect", "Show what a checkpoint is made of."),
    "tokenize": ("gptwo.cli.tokenize", "Turn text into token ids, or ids into text."),
    "top": ("gptwo.cli.top", "Show the likeliest next tokens after each prompt."),
    "explain": ("gptwo.cli.explain", "Make a page of what a model makes of a prompt."),
    "score": ("gptwo.cli.score", "Measure how well a model predicts a text."),
    "evaluate": ("gptwo.cli.evaluate", "Measure how good a model is: perplexity, LAMBADA and others."),
    "serve": ("gptwo.cli.serve", "Serve a model to OpenAI's clients and the browser."),
    "batch": ("gptwo.cli.batch", "Answer a file of prompts; it goes on after any interruption."),
    "quantize": ("gptwo.cli.quantize", "Pack a model's weights: smaller and faster."),
    "convert": ("gptwo.cli.convert", "Write a model in another program's format."),
    "export": ("gptwo.cli.export", "Write a model for other engines: ONNX, Core ML, libtorch."),
    "bench": ("gptwo.cli.bench", "Measure speed: ours, step by step, and other engines."),
    "prepare": ("gptwo.cli.prepare", "Turn texts into data for training."),
    "train": ("gptwo.cli.train", "Train a model, or go on with a run."),
}


class Program(click.Group):
    """`gptwo`: it knows its commands' names and one line of each without importing them."""

    def list_commands(self, context: click.Context) -> list[str]:
        """The names, in the table's order."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import a command's module; None for an unknown name."""
        if name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[name][0]).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest name for an unknown one."""
        name = arguments[0]
        if name not in COMMANDS and not name.startswith("-"):
            context.fail(f"no command {name!r}{nearest_name(name, COMMANDS)}")
        return super().resolve_command(context, arguments)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table into the help text."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def run(self, arguments: Sequence[str]) -> int:
        """Run one command line; what it raises is the caller's."""
        if "_GPTWO_COMPLETE" in os.environ:  # a shell asks for completions
            self.main(args=list(arguments), prog_name="gptwo")
        try:
            with self.make_context("gptwo", list(arguments)) as context:
                self.invoke(context)
        except click.NoSuchOption as error:
            raise _with_near_options(error) from error
        except click.exceptions.Exit as end:
            return end.exit_code
        return 0


def _with_near_options(error: click.NoSuchOption) -> click.NoSuchOption:
    """The error with options whose names are near without their dashes, which are alike in all."""
    import difflib

    options = {option.lstrip("-"): option for option in error.possibilities or ()}
    near = difflib.get_close_matches(error.option_name.lstrip("-"), options, cutoff=0.6)
    return click.NoSuchOption(error.option_name, error.message, [options[name] for name in near], error.ctx)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="gptwo", message="%(prog)s %(version)s")
def program() -> None:
    """The GPT-2 family, whole: load, generate, score, train and understand any GPT-2 checkpoint.

    `gptwo COMMAND --help` says more about a command.
    """
