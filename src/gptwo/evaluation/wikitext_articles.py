"""WikiText-2: the perplexity of Wikipedia's articles (Merity et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gptwo.errors import DataError
from gptwo.evaluation.data_files import DataFile, Source, read_file
from gptwo.evaluation.perplexity_of_text import Perplexity, perplexity
from gptwo.evaluation.questions import Progress
from gptwo.language_model import LanguageModel

SOURCE = Source("wiki.test.raw", "https://huggingface.co/datasets/Salesforce/wikitext (wikitext-2-raw-v1)")
TOKENS = 287_644
"""Of the raw test set, joined as here, with GPT-2's tokenizer; published figures are about it."""


@dataclass(frozen=True)
class WikiText:
    """The text as it is read, and how many words its authors counted."""

    text: str
    words: int
    """Words of the file, and one for the end of each line, whatever became of them in `text`."""
    raw: bool
    """Whether rare words stand as they were, not as <unk>."""


def read_wikitext(file: Path | DataFile) -> WikiText:
    """A test file, raw or with <unk>, with its lines joined by blank ones as transformers' guide joins them."""
    file = read_file(file) if isinstance(file, Path) else file
    lines = file.text.split("\n")
    if not lines[-1]:
        lines.pop()
    if not any(line.strip() for line in lines):
        raise DataError(f"{file.name}: there is no text in it")
    text = "\n\n".join(f"{line}\n" if line.strip() else "" for line in lines)
    return WikiText(text, _words(text), "<unk>" not in text)


def wikitext(
    lm: LanguageModel,
    data: WikiText,
    *,
    stride: int | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Perplexity:
    """How well a model predicts the articles; see `perplexity`. limit: their first so many windows only."""
    found = perplexity(lm, data.text, stride=stride, words=data.words, limit=limit, progress=progress)
    # Where the windows end in the middle of a text, they end in the middle of a word too: this is right to within one.
    return replace(found, words=_words(data.text[: found.characters])) if found.left_out else found


def _words(text: str) -> int:
    """Words, and one for the end of each line of the file, between which blank ones were laid."""
    return sum(len(line.split()) + 1 for line in text.split("\n\n"))
