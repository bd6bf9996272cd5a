"""What commands write: text on standard output as it comes, notes and progress on standard error."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from gptwo.errors import plural

if TYPE_CHECKING:
    from gptwo.tokenizer import Tokenizer

BETWEEN_LINES = 60.0  # seconds

# A model may generate any character. On a terminal those that steer it are shown as pictures (U+2400 and on), or, for
# the second set of controls, as U+FFFD; line feed and tab stay.
_VISIBLE = (
    {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
    | {0x7F: 0x2421}
    | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person reads this stream as it is written."""
    return stream is not None and not stream.closed and stream.isatty()


def visible(text: str) -> str:
    """The text with control characters as pictures: what is generated must not steer a terminal."""
    return text.translate(_VISIBLE)


def write(text: str) -> None:
    """Write generated text to standard output at once: as it is, except on a terminal (see `visible`)."""
    if sys.stdout is not None:  # None if the process was started with it closed
        sys.stdout.write(visible(text) if is_terminal(sys.stdout) else text)
        sys.stdout.flush()


def write_prompt(text: str) -> None:
    """Write a prompt before its continuation, in bold on a terminal; "" writes nothing."""
    bold = text and is_terminal(sys.stdout) and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    if bold:
        sys.stdout.write(f"\x1b[1m{visible(text)}\x1b[0m")
    else:
        write(text)


def write_json(value: Any) -> None:
    """Write one value as one line of JSON; numbers that JSON lacks become null.

    What standard output cannot spell is escaped.
    """
    lossless = sys.stdout is None or (sys.stdout.encoding or "").lower().startswith("utf")
    write(json.dumps(finite(value), ensure_ascii=not lossless) + "\n")


def shown_token(tokenizer: Tokenizer | None, token_id: int) -> str:
    """A token in quotes: its text, or its bytes where they are part of a character; "" if the tokenizer has none.

    A model may know more ids than its tokenizer: vocabularies are padded.
    """
    if tokenizer is None or token_id >= tokenizer.vocab_size:
        return ""
    data = tokenizer.token_bytes(token_id)
    try:
        return repr(data.decode())
    except UnicodeDecodeError:
        return repr(data)


def as_size(count: int) -> str:
    """Bytes as a person reads them.

    Example: 3_144_128_000 is "3.1 GB"
    """
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 0.99995 * 10**power:  # where the unit below would have 1,000.0
            return f"{count / 10**power:,.1f} {unit}"
    return f"{count} {plural(count, 'byte')}"


def note(text: str) -> None:
    """Write a line to standard error."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):  # a note that nobody reads is no failure
            print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(total: int, description: str) -> Iterator[Callable[[int], None]]:
    """A bar that goes forward by what the function is called with, if standard error alone is a terminal.

    Where standard output is one too, the results themselves show how far it is.
    """
    if total < 2 or not is_terminal(sys.stderr) or is_terminal(sys.stdout):
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.advance(task, done)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", right: Sequence[str] = ()
) -> None:
    """Print a table; the columns named in `right` are aligned to the right. No cell is read as markup."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Into a pipe or a file a table is as wide as its cells are.
    console = Console(highlight=False, width=None if is_terminal(sys.stdout) else 1000)
    shown = Text(visible(title)) if title else None
    table = Table(title=shown, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        number = column in right
        table.add_column(column, justify="right" if number else "left", overflow="fold", no_wrap=number)
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    with console.capture() as captured:  # for rich would end the process where a reader has gone away
        console.print(table)
    if sys.stdout is not None:
        sys.stdout.write(captured.get())
        sys.stdout.flush()


def finite(value: Any) -> Any:
    """A value as JSON can hold it: numbers that it lacks become None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


@contextlib.contextmanager
def bar(description: str) -> Iterator[Callable[[float, str], None]]:
    """A bar for long work; call it with the share that is done and a note.

    Where standard error is no terminal, what the bar would say is a line there, once a minute.
    """
    if not is_terminal(sys.stderr):
        told = time.monotonic()

        def tell(share: float, words: str) -> None:
            nonlocal told
            if time.monotonic() - told >= BETWEEN_LINES:
                told = time.monotonic()
                note(f"{description} {share:.0%}  {words}".rstrip())

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[words]}"),
    )
    # This stream, and not what takes its place when others are to be silent.
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as shown:
        task = shown.add_task(description, total=1.0, words="")
        yield lambda share, words: shown.update(task, completed=share, words=words)
