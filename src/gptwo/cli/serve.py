"""`gptwo serve`: a model as a service that OpenAI's clients can use."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import click

from gptwo.cli.loading import model_options
from gptwo.cli.parameters import SectionedCommand, given, parameters_of
from gptwo.cli.terminal import note, write
from gptwo.errors import InvalidRequestError, MissingDependencyError
from gptwo.server.settings import ServerSettings

PREFIX = "GPTWO_"
SECTIONS = {
    "Address": ("host", "port", "workers", "root_path", "served_model_name", "playground", "cors_origins"),
    "Access": ("api_key_file", "max_concurrent", "allowed_hosts"),
    "Queue and engine": (
        "max_queue",
        "max_wait",
        "max_sequences",
        "chunk_tokens",
        "prefix_blocks",
        "max_blocks",
        "cache",
    ),
    "Limits": (
        "max_body",
        "body_timeout",
        "max_prompts",
        "max_n",
        "max_best_of",
        "max_tokens",
        "max_stop",
        "max_logprobs",
        "max_request_tokens",
        "max_score_tokens",
        "max_inspect_tokens",
    ),
    "Running": ("drain_timeout", "keep_alive_interval", "log_level", "log_format", "log_prompts"),
}


def server_options() -> list[click.Parameter]:
    """An option for each setting, with its environment variable."""
    parameters = parameters_of(ServerSettings)
    options: list[click.Parameter] = [
        _with_variable(parameters[name].option(section)) for section, names in SECTIONS.items() for name in names
    ]
    return options + [_with_variable(option) for option in model_options()]


def _with_variable(option: click.Parameter) -> click.Parameter:
    assert isinstance(option, click.Option)
    option.envvar, option.show_envvar = PREFIX + str(option.name).upper(), True
    return option


def slips(environment: Iterable[str]) -> Iterator[str]:
    """A sentence about each variable that sets nothing and is nearly the name of one that does."""
    known = {PREFIX + str(option.name).upper() for option in server_options()}
    known |= {PREFIX + name for name in ("API_KEY", "API_KEYS", "ISA")}
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known:
            for near in difflib.get_close_matches(name, known, n=1, cutoff=0.85):
                yield f"the environment variable {name} sets nothing; did you mean {near}?"


@click.command(
    cls=SectionedCommand, params=[click.Argument(["served"], required=False, metavar="[MODEL]"), *server_options()]
)
def command(served: str | None, **_: Any) -> None:
    """Serve MODEL over HTTP: OpenAI's completions, scores, tokens, and a playground for the browser.

    MODEL is what --model takes. The address is printed once the server listens; it answers 503 until the model is
    loaded. Ctrl-C or SIGTERM lets running requests end, for --drain-timeout seconds at most, and a second one ends it
    at once. A setting may also come from the environment variable beside it; the option on the command line wins. Only
    this machine can reach the server unless --host says otherwise.
    """
    context = click.get_current_context()
    settings = given(context, [*parameters_of(ServerSettings)])
    if served is not None:
        if context.get_parameter_source("model") is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError("the model is named twice, as MODEL and with --model")
        settings["model"] = served
    try:
        whole = ServerSettings(**settings)
    except InvalidRequestError as error:
        raise click.UsageError(str(error)) from error
    for sentence in slips(os.environ):
        note(f"gptwo: warning: {sentence}")
    from gptwo.checkpoint import find_here

    find_here(whole.model)  # a slip in a path is told before the server listens
    try:
        if whole.workers > 1:
            from gptwo.server.workers import serve_with_workers as serve
        else:
            from gptwo.server.process import serve
    except ImportError as error:
        raise MissingDependencyError(
            f"serving needs {error.name}: pip install '.[server]' in gptwo's checkout"
        ) from error

    serve(whole, announce=lambda address: write(f"gptwo serves {whole.model_names[0]} at {address}\n"))
