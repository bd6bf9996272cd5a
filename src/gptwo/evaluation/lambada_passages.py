"""LAMBADA: the last word of a passage, which takes all of the passage to guess (Paperno et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gptwo import scoring
from gptwo.errors import DataError, InvalidRequestError
from gptwo.evaluation.data_files import DataFile, Source, json_lines, read_file, text_field
from gptwo.evaluation.questions import Progress, answer, encode_questions, tokenizer_of
from gptwo.language_model import LanguageModel

SOURCE = Source(
    "data/lambada_test.jsonl",
    "https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl",
    "EleutherAI/lambada_openai",
)
SHA256 = "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226"
"""Of the file that OpenAI released; published figures are about it."""


@dataclass(frozen=True)
class Lambada:
    """What a model makes of the last words. Shares are from 0 to 1."""

    examples: int
    cut: int
    """Passages that lost their beginning, because the model has too few positions."""
    last_token_accuracy: float
    """Share of passages whose very last token is the likeliest there, given all before it."""
    accuracy: float
    """Share of passages whose last word greedy decoding makes, all tokens of it."""
    perplexity: float
    """exp of the mean negative log-probability of a last word."""

    def measures(self) -> dict[str, float]:
        """The figures by name."""
        return {
            "last_token_accuracy": self.last_token_accuracy,
            "accuracy": self.accuracy,
            "perplexity": self.perplexity,
        }


def read_lambada(file: Path | DataFile) -> list[str]:
    """The passages of a file with one object a line, {"text": "... the last word"}; DataError names file and line."""
    file = read_file(file) if isinstance(file, Path) else file
    passages = []
    for place, value in json_lines(file):
        text = text_field(value, "text", place)
        before, _, last = text.rpartition(" ")
        if not before.strip() or not last:
            raise DataError(f"{place}: expected a passage that ends with a word behind a space")
        passages.append(text)
    if not passages:
        raise DataError(f"{file.name}: there is no passage in it")
    return passages


def lambada(lm: LanguageModel, passages: Sequence[str], *, progress: Progress | None = None) -> Lambada:
    """How well a model guesses the last word of each passage; the word is what stands behind the last space.

    Accuracy and perplexity are those of lm-eval's task `lambada_openai`.
    Raises InvalidRequestError for no passages, or one without a space.
    """
    tokenizer = tokenizer_of(lm)
    if not passages:
        raise InvalidRequestError("there are no passages", param="passages")

    def parts(text: str) -> tuple[str, list[str]]:
        before, space, last = text.rpartition(" ")
        if not space or not last:
            raise InvalidRequestError("a passage ends with a word behind a space", param="passages")
        return before, [space + last]

    questions = encode_questions(tokenizer, map(parts, passages))
    cut = last_tokens = words = 0
    nats = 0.0
    for (likelihood,), was_cut in answer(lm, questions, len(passages), progress):
        cut += was_cut
        last_tokens += likelihood.greedy[-1]
        words += likelihood.is_greedy
        nats -= likelihood.total
    count = len(passages)
    return Lambada(count, cut, last_tokens / count, words / count, scoring.perplexity(nats, count))
