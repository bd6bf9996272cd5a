"""HellaSwag: which of four endings follows? (Zellers et al. 2019)"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptwo.errors import DataError
from gptwo.evaluation.choices import Choice, Choices, choose
from gptwo.evaluation.data_files import DataFile, Source, checked_text, json_lines, read_file, text_field
from gptwo.evaluation.questions import Progress
from gptwo.language_model import LanguageModel

SOURCE = Source(
    "hellaswag_val.jsonl", "https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl"
)
EXAMPLES = 10_042
"""In the released file, which published figures are about."""

_TAG = re.compile(r"\[[^\]]*\]")


def read_hellaswag(file: Path | DataFile) -> list[Choice]:
    """The examples of a file of the released form, one object a line; DataError names file and line.

    Of an object `activity_label`, `ctx_a`, `ctx_b`, `endings` and `label` are read. The text is prepared as lm-eval
    does: activity, colon, both parts of the context, the second with a capital; without WikiHow's marks in brackets.
    """
    file = read_file(file) if isinstance(file, Path) else file
    found = [_example(value, place) for place, value in json_lines(file)]
    if not found:
        raise DataError(f"{file.name}: there is no example in it")
    return found


def hellaswag(lm: LanguageModel, examples: Sequence[Choice], *, progress: Progress | None = None) -> Choices:
    """How often the right ending is likeliest: `acc` and `acc_norm` of lm-eval's task `hellaswag`, without examples."""
    return choose(lm, examples, progress=progress)


def _example(value: dict[str, Any], place: str) -> Choice:
    activity, first, second = (text_field(value, name, place) for name in ("activity_label", "ctx_a", "ctx_b"))
    endings, label = value.get("endings"), value.get("label")
    if not isinstance(endings, list) or len(endings) < 2 or not all(isinstance(ending, str) for ending in endings):
        raise DataError(f'{place}: expected a list of texts as "endings"')
    if isinstance(label, str) and re.fullmatch(r"[0-9]{1,4}", label):
        label = int(label)
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(endings):
        raise DataError(f'{place}: expected the number of an ending, 0 to {len(endings) - 1}, as "label"')
    shown = tuple(" " + _plain(checked_text(ending, place)) for ending in endings)
    return Choice(_plain(f"{activity}: {first} {second.capitalize()}"), shown, label)


def _plain(text: str) -> str:
    """Without WikiHow's marks: `[title]` ends a sentence, others stand for nothing."""
    return _TAG.sub("", text.strip().replace(" [title]", ". ")).replace("  ", " ")
