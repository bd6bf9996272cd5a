"""The Children's Book Test: which of ten words stands in the gap behind twenty sentences? (Hill et al. 2015)"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from gptwo.errors import DataError
from gptwo.evaluation.choices import Choice, Choices, choose
from gptwo.evaluation.data_files import DataFile, Source, read_file
from gptwo.evaluation.questions import Progress
from gptwo.language_model import LanguageModel

COMMON_NOUNS = Source("cbtest_CN_test_2500ek.txt", "https://www.thespermwhale.com/jaseweston/babi/CBTest.tgz")
NAMED_ENTITIES = Source("cbtest_NE_test_2500ek.txt", COMMON_NOUNS.address)
EXAMPLES = 2500
"""In each released test file, which published figures are about."""

GAP = "XXXXX"
_NUMBERED = re.compile(r"(\d+) (.*)", re.ASCII)

# The files are cut into tokens as the Penn Treebank is. These turn them back into text as people write it.
_JOINED = (
    (re.compile(r"(?:^|(?<=\s))(``|`)\s+"), lambda found: '"' if found[1] == "``" else "'"),
    (re.compile(r"\s+(''|')(?=\s|$)"), lambda found: '"' if found[1] == "''" else "'"),
    (re.compile(r"-LRB-\s*"), lambda found: "("),
    (re.compile(r"\s*-RRB-"), lambda found: ")"),
    (re.compile(r"\s+([.,;:!?])"), lambda found: found[1]),
    (re.compile(r"\s+(n't|'(?:s|m|d|re|ve|ll))(?=\W|$)", re.IGNORECASE), lambda found: found[1]),
)


def read_cbt(file: Path | DataFile) -> list[Choice]:
    """The examples of a file of the released form; DataError names file and line.

    An example is 21 numbered lines and a blank one. The last holds the sentence with the gap (XXXXX), the right word
    and, separated by |, the words to choose from, between tabs: `21 ... XXXXX ...<TAB>right<TAB><TAB>one|two|...`.
    """
    file = read_file(file) if isinstance(file, Path) else file
    found = [_example(lines, file.name) for lines in _blocks(file)]
    if not found:
        raise DataError(f"{file.name}: there is no example in it")
    return found


def cbt(lm: LanguageModel, examples: Sequence[Choice], *, progress: Progress | None = None) -> Choices:
    """How often the sentence is likeliest with the right word in its gap, given the twenty sentences before it.

    So the GPT-2 paper does (section 3.2): the probability of a word counts together with that of what follows it.
    """
    return choose(lm, examples, by_length=False, progress=progress)


def _blocks(file: DataFile) -> Iterator[list[tuple[int, str]]]:
    """The lines of each example, with their numbers in the file."""
    block: list[tuple[int, str]] = []
    for number, line in enumerate(file.text.split("\n"), 1):
        if line.strip():
            block.append((number, line.rstrip("\r")))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _example(lines: list[tuple[int, str]], name: str) -> Choice:
    sentences = []
    for expected, (number, line) in enumerate(lines, 1):
        numbered = _NUMBERED.fullmatch(line)
        if numbered is None or numbered[1] != str(expected):
            raise DataError(f"{name} line {number}: expected sentence {expected} of an example, with its number")
        sentences.append(numbered[2])
    place = f"{name} line {lines[-1][0]}"
    sentence, *answers = sentences.pop().split("\t")
    words = [word for word in answers[-1].split("|") if word] if len(answers) == 3 else []
    if GAP not in sentence or not sentences or answers[0] not in words or len(words) < 2:
        raise DataError(f"{place}: expected a sentence with {GAP}, the right word, and words with it among them")
    before, _, after = _written(sentence).partition(GAP)
    context = " ".join([*map(_written, sentences), before])
    return Choice(context.rstrip(), tuple(f" {word}{after}" for word in words), words.index(answers[0]))


def _written(text: str) -> str:
    """Tokens as people write them.

    Example: `` I do n't know , '' said Ned . -> "I don't know," said Ned.
    """
    for pattern, joined in _JOINED:
        text = pattern.sub(joined, text)
    return text.strip()
