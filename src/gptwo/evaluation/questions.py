"""Texts and what may follow them, as token ids, and how likely a model finds each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from gptwo.engine import Likelihood
from gptwo.errors import ContextLengthError, InvalidRequestError, TokenizerError
from gptwo.language_model import LanguageModel
from gptwo.tokenizer import Tokenizer

Progress = Callable[[float], None]
"""Called with the share of the work that is done."""


class Question(NamedTuple):
    """A context and what may follow it, as token ids."""

    context: Sequence[int]
    continuations: Sequence[Sequence[int]]


class Answer(NamedTuple):
    """How likely each continuation is."""

    likelihoods: tuple[Likelihood, ...]
    cut: bool
    """Whether the beginning of the context was left out, because the model has too few positions for all of it."""


def tokenizer_of(lm: LanguageModel) -> Tokenizer:
    """The model's tokenizer; InvalidRequestError if it has none."""
    if lm.tokenizer is None:
        raise InvalidRequestError(f"{lm.name} has no tokenizer to read a text with", param="tokenizer")
    return lm.tokenizer


def encode_question(tokenizer: Tokenizer, context: str, continuations: Sequence[str]) -> Question:
    """Token ids of a context and of each continuation, as both stand in one text.

    White space between them belongs to the continuation, since GPT-2's tokens begin with theirs, and an empty context
    is the end of text, with which GPT-2 begins. So lm-eval does it, and published figures depend on it.
    """
    stripped = context.rstrip()
    space = context[len(stripped) :]
    if not stripped:
        end = tokenizer.end_of_text_id
        if end is None:
            raise InvalidRequestError("an empty context needs a tokenizer with <|endoftext|>", param="tokenizer")
        return Question([end], [tokenizer.encode(context + text) for text in continuations])
    ids = tokenizer.encode(stripped)
    endings = []
    for text in continuations:
        whole = tokenizer.encode(stripped + space + text)
        # Where the last token of the context grows into the continuation nothing may be left of that.
        endings.append(whole[len(ids) :] or tokenizer.encode(space + text))
    return Question(ids, endings)


def encode_questions(tokenizer: Tokenizer, texts: Iterable[tuple[str, Sequence[str]]]) -> Iterator[Question]:
    """`encode_question` of each context and its continuations; the TokenizerError of one names it by its number."""
    for number, (context, continuations) in enumerate(texts, 1):
        try:
            yield encode_question(tokenizer, context, continuations)
        except TokenizerError as error:
            raise TokenizerError(f"example {number}: {error}") from error


def answer(
    lm: LanguageModel, questions: Iterable[Question], count: int = 0, progress: Progress | None = None
) -> Iterator[Answer]:
    """The answer to each question, in order; several are worked on at a time.

    Where context and continuation have more tokens than the model can see, the context loses its first ones, for
    that continuation alone. count: of the questions, for `progress`.
    Raises ContextLengthError for a continuation that is too long by itself.
    """
    asked: deque[tuple[int, bool]] = deque()  # of each question: into how many it was cut, and whether it lost tokens
    most = lm.config.n_positions + 1  # the last token is only predicted

    def parts() -> Iterator[Question]:
        for question in questions:
            if len(question.context) + max(map(len, question.continuations)) <= most:
                asked.append((1, False))
                yield question
                continue
            asked.append((len(question.continuations), True))
            for ids in question.continuations:
                if len(ids) >= most:
                    raise ContextLengthError(
                        f"a continuation has {len(ids)} tokens, the model {most - 1} positions", param="text"
                    )
                yield Question(question.context[-(most - len(ids)) :], [ids])

    found = lm.likelihoods(parts())
    for done, first in enumerate(found, 1):
        number, cut = asked.popleft()
        likelihoods = [*first]
        for _ in range(number - 1):
            likelihoods += next(found)
        yield Answer(tuple(likelihoods), cut)
        if progress is not None and count:
            progress(done / count)
