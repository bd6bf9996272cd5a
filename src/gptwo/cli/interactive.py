"""`gptwo interactive`: prompt after prompt with one model."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from gptwo.cli.generate import write_stream, write_texts
from gptwo.cli.generation import (
    BEAMS,
    SAMPLING,
    Timings,
    generation_parameters,
    is_streamed,
    make_params,
    streamed,
    with_length,
)
from gptwo.cli.interrupts import Interrupts
from gptwo.cli.loading import load_model, model_options
from gptwo.cli.parameters import SectionedCommand
from gptwo.cli.terminal import is_terminal, note, write
from gptwo.errors import DataError, GptwoError, InvalidRequestError, nearest_name
from gptwo.files import decode_utf8
from gptwo.sampling.params import BeamParams, SamplingParams

if TYPE_CHECKING:
    from gptwo.language_model import LanguageModel

HELP = r"""Type a prompt to continue it. A line that begins with a backslash is a command:
  \config               list every parameter and its value
  \config NAME          say what one is
  \config NAME VALUE    set it; num_beams turns beam search on, `\config num_beams none` off
  \reset                set all parameters back
  \help                 this
  \quit                 leave, as Ctrl-D does
Two backslashes begin a prompt with one. Ctrl-C stops the text that is being generated."""


@click.command(cls=SectionedCommand, params=model_options())
def command(**options: Any) -> None:
    r"""Keep one model loaded and continue prompt after prompt.

    A prompt is a line. Lines that begin with a backslash are commands: \help lists them. Ctrl-C stops the text that
    is being generated, Ctrl-D ends. Prompts may come from a pipe too.
    """
    with closing(load_model(options)) as model, Interrupts() as interrupts:
        session = Session(model, interrupts)
        if is_terminal(sys.stdin):
            note(rf"{model.name}: type a prompt, or \help")
        for line in _lines(interrupts):
            try:
                go_on = session.answer(line)
            except KeyboardInterrupt:
                write("\n")
                go_on = True
            except GptwoError as error:
                note(f"gptwo: {' '.join(str(error).split())}")
                go_on = True
            if not go_on:
                break


class Session:
    """One model and the parameters that were changed so far."""

    def __init__(self, model: LanguageModel, interrupts: Interrupts) -> None:
        """Start with every parameter at its default."""
        self.model = model
        self.interrupts = interrupts
        self.changed: dict[str, Any] = {}

    def answer(self, line: str) -> bool:
        """Do what one line asks; False ends the session. Raises GptwoError, after which everything is as before."""
        if not line.startswith("\\") or line.startswith("\\\\"):
            if line:
                self.continue_prompt(line.removeprefix("\\"))
            return True
        name, _, rest = line[1:].strip().partition(" ")
        known: dict[str, Callable[[str], None]] = {
            "config": self.configure,
            "reset": lambda _: self.changed.clear(),
            "help": lambda _: write(HELP + "\n"),
        }
        if name in ("quit", "exit"):
            return False
        if name not in known:
            raise InvalidRequestError(f"no command \\{name}{nearest_name(name, [*known, 'quit'])}")
        known[name](rest.strip())
        return True

    def configure(self, rest: str) -> None:
        r"""`\config`, `\config NAME` or `\config NAME VALUE`."""
        parameters = generation_parameters()
        name, _, text = rest.partition(" ")
        name = name.replace("-", "_")
        if not name:
            write("".join(self._listing()))
            return
        if name not in parameters:
            raise InvalidRequestError(f"no parameter {name!r}{nearest_name(name, parameters)}", param=name)
        parameter = parameters[name][1]
        if not text.strip():
            write(f"{name} = {self._value(name)}    {parameter.help}\n")
            return
        changed = dict(self.changed)
        if name == "num_beams" and text.strip().lower() == "none":
            changed.pop("num_beams", None)
        else:
            try:
                changed[name] = parameter.parse(text)
            except ValueError as error:
                raise InvalidRequestError(f"{name}: {error}", param=name) from error
        # Both kinds at once, so that what is refused now is what would be refused when it is used.
        SamplingParams.from_dict({key: value for key, value in changed.items() if key in SAMPLING})
        BeamParams.from_dict({key: value for key, value in changed.items() if key in BEAMS})
        self.changed = changed

    def continue_prompt(self, prompt: str) -> None:
        """Write the continuation of a prompt, then how long it took."""
        kind = BEAMS if "num_beams" in self.changed else SAMPLING
        values = {name: value for name, value in self.changed.items() if name in kind}
        params = make_params(with_length(values, self.model, prompt))
        timings = Timings()
        echo = prompt if is_terminal(sys.stdout) else ""
        if is_streamed(params):
            with streamed(self.model, prompt, params) as pieces:
                write_stream(timings.watch(self.interrupts.until_pressed(pieces)), params.n, echo)
        else:
            with self.interrupts.allowed():
                completion = self.model.generate(prompt, params)
            timings.count_at_once(sum(len(choice.token_ids) for choice in completion.choices))
            write_texts(completion, echo)
        note(f"[{timings.line()}]")

    def _value(self, name: str) -> str:
        value = self.changed.get(name, generation_parameters()[name][1].default)
        return "none" if value is None or value == () else str(value)

    def _listing(self) -> Iterator[str]:
        heading = None
        for name, (section, _) in sorted(generation_parameters().items(), key=lambda item: item[1][0] != "Sampling"):
            if section != heading:
                heading = section
                yield f"{section}:\n"
            yield f"{'*' if name in self.changed else ' '} {name:<28} {self._value(name)}\n"


def _lines(interrupts: Interrupts) -> Iterator[str]:
    """The lines of standard input: edited and remembered on a terminal, as they are from a pipe."""
    if sys.stdin is None or sys.stdin.closed:
        raise DataError("standard input is closed, so there are no prompts to read from it")
    if not is_terminal(sys.stdin):
        for number in itertools.count(1):
            with interrupts.allowed():  # nobody types here: Ctrl-C while waiting ends the process
                data = sys.stdin.buffer.readline()
            if not data:
                return
            yield decode_utf8(data, f"standard input line {number}").rstrip("\r\n")
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - from now on input() edits the line and remembers those before
    while True:
        try:
            with interrupts.allowed():
                line = input("> ")
        except KeyboardInterrupt:
            write("\n")
        except EOFError:
            write("\n")
            return
        except UnicodeDecodeError:
            note("gptwo: that line is not UTF-8")
        else:
            yield line
