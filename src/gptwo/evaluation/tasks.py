"""The measures that gptwo takes by itself, by name: where their data is, how it is read, and what is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gptwo.errors import TokenizerError
from gptwo.evaluation import cbt_gaps, hellaswag_endings, lambada_passages, wikitext_articles
from gptwo.evaluation.data_files import DataFile, Source, fetch, read_file
from gptwo.evaluation.questions import Progress
from gptwo.language_model import LanguageModel
from gptwo.unencodable import placed


class Outcome(Protocol):
    """What a measure found: a frozen dataclass, and its figures by name."""

    def measures(self) -> dict[str, float]:
        """The figures by name."""


@dataclass(frozen=True)
class Data:
    """Data as a task reads it, and the file it came from."""

    task: Task
    file: DataFile
    content: Any
    left_out: int = 0
    """Examples that a limit has left out."""
    limit: int | None = None
    """Of the windows that a perplexity is taken of."""

    def is_released(self, outcome: Outcome) -> bool:
        """Whether this is the data that published figures are about."""
        return not self.left_out and self.task.is_released(self, outcome)

    def run(self, lm: LanguageModel, *, stride: int | None = None, progress: Progress | None = None) -> Outcome:
        """Evaluate a model. stride: for perplexities. A TokenizerError names the file."""
        settings = {"stride": stride, "limit": self.limit} if self.task.has_stride else {}
        try:
            return self.task.evaluate(lm, self.content, progress=progress, **settings)
        except TokenizerError as error:
            if not self.task.has_stride:  # the error has the number of the example
                raise TokenizerError(f"{self.file.name} {error}") from error
            raise placed(error, self.file.name, lm.tokenizer, self.file.text) from error


@dataclass(frozen=True)
class Task:
    """One measure."""

    name: str
    help: str
    source: Source
    read: Callable[[DataFile], Any]
    evaluate: Callable[..., Outcome]
    """Of a model, the content of the data, and keywords."""
    is_released: Callable[[Data, Any], bool]
    """Of the whole data, and what was found with it."""
    has_stride: bool = False

    def load(self, path: Path | None = None, *, limit: int | None = None, progress: bool = False) -> Data:
        """Read the data, from the hub if no file is named. limit: the first so many examples, or windows
        of a text, only.

        Raises DataError for a file that cannot be read, DownloadError for one that cannot be fetched.
        """
        file = read_file(fetch(self.source, progress=progress) if path is None else path)
        content = self.read(file)
        if limit is None or self.has_stride:
            return Data(self, file, content, limit=limit)
        return Data(self, file, content[:limit], left_out=max(0, len(content) - limit))


def _many(count: int) -> Callable[[Data, Any], bool]:
    return lambda data, outcome: len(data.content) == count


_ALL = (
    Task(
        "lambada",
        "the last word of a passage",
        lambada_passages.SOURCE,
        lambada_passages.read_lambada,
        lambada_passages.lambada,
        lambda data, outcome: data.file.sha256 == lambada_passages.SHA256,
    ),
    Task(
        "hellaswag",
        "which of four endings follows",
        hellaswag_endings.SOURCE,
        hellaswag_endings.read_hellaswag,
        hellaswag_endings.hellaswag,
        _many(hellaswag_endings.EXAMPLES),
    ),
    *(
        Task(name, words, source, cbt_gaps.read_cbt, cbt_gaps.cbt, _many(cbt_gaps.EXAMPLES))
        for name, words, source in (
            ("cbt-cn", "a common noun in a children's book", cbt_gaps.COMMON_NOUNS),
            ("cbt-ne", "a name in a children's book", cbt_gaps.NAMED_ENTITIES),
        )
    ),
    Task(
        "wikitext2",
        "perplexity of Wikipedia's articles",
        wikitext_articles.SOURCE,
        wikitext_articles.read_wikitext,
        wikitext_articles.wikitext,
        lambda data, outcome: data.content.raw and outcome.tokens + 1 == wikitext_articles.TOKENS,
        has_stride=True,
    ),
)

TASKS: Mapping[str, Task] = {task.name: task for task in _ALL}
