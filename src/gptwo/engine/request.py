"""A request: token ids and parameters, checked against the model that is to answer it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gptwo.config import GPTConfig
from gptwo.engine.prefix_cache import BLOCK
from gptwo.errors import ContextLengthError, InvalidRequestError, TokenizerError
from gptwo.options import is_integer, shown
from gptwo.sampling import BeamParams, SamplingParams, StructuredOutputs
from gptwo.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gptwo.sampling.grammar import Constraint

LONGEST_BAD_WORDS = 100_000  # characters and token ids of all of them
KeepLogits = Literal["none", "last", "all"]


@dataclass(frozen=True)
class Request:
    """What an engine works on; made by `make_request`, which checks it."""

    id: int
    prompt_ids: tuple[int, ...]
    params: SamplingParams | BeamParams
    max_tokens: int
    """`params.max_tokens`, or what the context leaves where that is None."""
    seed: int
    bad_words: tuple[tuple[int, ...], ...]
    """As token ids."""
    stop_ids: frozenset[int]
    """The stop tokens, the end of text among them unless it is ignored."""
    keep_logits: KeepLogits
    """Which rows of the prompt's logits the completion brings."""
    constraint: Constraint | None
    """What the text has to be, at its beginning; to be copied for each text."""

    @property
    def width(self) -> int:
        """The most sequences that the request holds at a time."""
        params = self.params
        return params.num_beams if isinstance(params, BeamParams) else params.best_of or params.n

    def blocks(self, positions: int) -> int:
        """The most blocks of 64 positions that its texts come to hold in a model of so many positions.

        Example: 100 tokens of prompt, max_tokens 100 and n=3 are 1 whole block that they share and 3 times 3.
        """
        return _blocks(len(self.prompt_ids), len(self.prompt_ids) + self.max_tokens, self.width, positions)


@dataclass(frozen=True)
class ScoringRequest:
    """How likely are these continuations of a text? Made by `make_scoring_request`, which checks it."""

    id: int
    context_ids: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]
    shares: bool
    """Whether other texts begin like this one, so that its blocks are worth holding."""

    @property
    def width(self) -> int:
        """The most sequences that the request holds at a time."""
        return len(self.continuations)

    def blocks(self, positions: int) -> int:
        """The most blocks of 64 positions that it comes to hold; the whole ones of the context are shared."""
        longest = len(self.context_ids) + max(map(len, self.continuations)) - 1
        return _blocks(len(self.context_ids), longest, self.width, positions)


def _blocks(shared: int, length: int, width: int, positions: int) -> int:
    """Blocks of `width` texts of `length` tokens that have the first `shared` of them in common.

    A text that is longer than the positions slides, and shares nothing any more.
    """
    most = -(-min(length, positions) // BLOCK)
    common = shared // BLOCK if length <= positions else 0
    return common + width * (most - common)


def make_scoring_request(
    number: int,
    context_ids: Sequence[int],
    continuations: Sequence[Sequence[int]],
    *,
    config: GPTConfig,
    shares: bool,
) -> ScoringRequest:
    """Check a text and its continuations against a model.

    Raises InvalidRequestError for an empty one, or for none, and for token ids that the vocabulary does not have;
    ContextLengthError where the tokens before the last of a continuation are more than the model's positions.
    """
    context = check_token_ids(context_ids, config.vocab_size)
    checked = tuple(check_token_ids(ids, config.vocab_size) for ids in continuations)
    if not context or not checked or not all(checked):
        raise InvalidRequestError("scoring needs a context and continuations of at least one token each", param="text")
    longest = len(context) + max(map(len, checked))
    if longest - 1 > config.n_positions:
        raise ContextLengthError(
            f"the context and its continuation have {_tokens(longest)}, which is more than the model's "
            f"{config.n_positions} positions and one that is only predicted",
            param="text",
        )
    return ScoringRequest(number, context, checked, shares)


def make_request(
    number: int,
    prompt_ids: Sequence[int],
    params: SamplingParams | BeamParams,
    *,
    config: GPTConfig,
    tokenizer: Tokenizer | None,
    keep_logits: KeepLogits = "none",
    like: Request | None = None,
) -> Request:
    """Check a prompt and its parameters against a model.

    like: another request to it. What was made of the same bad words or the same structure is taken from that, since it
    may have taken seconds.

    An empty prompt becomes the beginning-of-text token, as GPT-2 was trained to begin. Where a configuration does not
    say which token begins or ends a text, it is the tokenizer's end of text.
    Raises InvalidRequestError for what can never be answered, ContextLengthError for more positions than the model has.
    """
    prompt = check_token_ids(prompt_ids, config.vocab_size)
    if not prompt:
        first = _known(config.bos_token_id, config, tokenizer)
        if first is None:
            raise InvalidRequestError("the prompt is empty, and this model has no token to begin with", param="prompt")
        prompt = (first,)
    params.check_vocabulary(config.vocab_size)
    if isinstance(params, SamplingParams) and params.stop_strings and tokenizer is None:
        raise InvalidRequestError("stop strings need a tokenizer; this model has none", param="stop")
    stop_ids = set(params.stop_token_ids)
    last = _known(config.eos_token_id, config, tokenizer)
    if last is not None and not params.ignore_eos:
        stop_ids.add(last)
    seed = params.seed if isinstance(params, SamplingParams) else 0
    return Request(
        id=number,
        prompt_ids=prompt,
        params=params,
        max_tokens=_max_tokens(len(prompt), params, config.n_positions),
        seed=int.from_bytes(os.urandom(8), "little") >> 1 if seed is None else seed,
        bad_words=like.bad_words
        if like is not None and like.params.bad_words == params.bad_words
        else _bad_words(params.bad_words, tokenizer),
        stop_ids=frozenset(stop_ids),
        keep_logits=keep_logits,
        constraint=_constraint(params, tokenizer, stop_ids, like),
    )


def check_token_ids(ids: Sequence[int], vocab_size: int) -> tuple[int, ...]:
    """The ids as plain integers. Raises InvalidRequestError for one that is none, or not in the vocabulary."""
    for token_id in ids:
        if not is_integer(token_id):
            raise InvalidRequestError(f"the prompt holds {shown(token_id)}, expected token ids", param="prompt")
        if not 0 <= token_id < vocab_size:
            raise InvalidRequestError(
                f"token id {shown(token_id)} is out of range: the vocabulary has {vocab_size} tokens", param="prompt"
            )
    return tuple(int(token_id) for token_id in ids)


def _known(token_id: int | None, config: GPTConfig, tokenizer: Tokenizer | None) -> int | None:
    """The token if the vocabulary has it (a configuration that says nothing names GPT-2's), else the tokenizer's."""
    for candidate in (token_id, None if tokenizer is None else tokenizer.end_of_text_id):
        if candidate is not None and candidate < config.vocab_size:
            return candidate
    return None


def _max_tokens(prompt: int, params: SamplingParams | BeamParams, positions: int) -> int:
    slides = isinstance(params, SamplingParams) and params.overflow == "slide"
    if slides:
        assert isinstance(params, SamplingParams)
        if params.max_tokens is None:
            raise InvalidRequestError("overflow='slide' goes on for ever without max_tokens", param="max_tokens")
        if params.prompt_logprobs is not None and prompt > positions:
            raise InvalidRequestError(
                f"prompt_logprobs needs a prompt within the model's {positions} positions, got {prompt} tokens",
                param="prompt_logprobs",
            )
        return params.max_tokens
    hint = "; shorten it" if isinstance(params, BeamParams) else "; shorten it, or set overflow to 'slide'"
    wanted = params.max_tokens
    if wanted is None:
        if prompt >= positions:
            raise ContextLengthError(
                f"the prompt has {_tokens(prompt)}, the model {positions} positions: nothing is left to generate{hint}",
                param="prompt",
            )
        return positions - prompt
    if wanted == 0 and prompt > positions:
        raise ContextLengthError(
            f"the text has {_tokens(prompt)}, more than the model's {positions} positions", "prompt"
        )
    if prompt + wanted > positions:
        raise ContextLengthError(
            f"the prompt has {_tokens(prompt)} and max_tokens is {wanted}: together more than the model's "
            f"{positions} positions{hint}",
            param="max_tokens",
        )
    return wanted


def _constraint(
    params: SamplingParams | BeamParams, tokenizer: Tokenizer | None, stop_ids: set[int], like: Request | None
) -> Constraint | None:
    wanted = params.structured_outputs if isinstance(params, SamplingParams) else None
    if wanted is None:
        return None
    same = like is not None and isinstance(like.params, SamplingParams) and like.params.structured_outputs == wanted
    if like is not None and same and like.stop_ids == stop_ids:
        return like.constraint
    from gptwo.sampling.grammar import compile_grammar  # for those who want it

    assert isinstance(wanted, StructuredOutputs)
    return compile_grammar(wanted, tokenizer, stop_ids)


def _tokens(count: int) -> str:
    return f"{count} token{'' if count == 1 else 's'}"


def _bad_words(words: Sequence[str | Sequence[int]], tokenizer: Tokenizer | None) -> tuple[tuple[int, ...], ...]:
    """Each word as token ids; text both as it stands and behind a space, since GPT-2's tokens carry their space."""
    size = sum(map(len, words))
    if size > LONGEST_BAD_WORDS:
        raise InvalidRequestError(
            f"bad_words have {size:,} characters and token ids, expected at most {LONGEST_BAD_WORDS:,}",
            param="bad_words",
        )
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        if not isinstance(word, str):
            found[tuple(word)] = None
        elif tokenizer is None:
            raise InvalidRequestError("bad_words as text need a tokenizer; this model has none", param="bad_words")
        else:
            for form in (word, " " + word.lstrip(" ")):
                # A word that the vocabulary cannot spell is never generated anyway.
                with contextlib.suppress(TokenizerError):
                    found[tuple(tokenizer.encode(form))] = None
    return tuple(found)
