"""From what a text has to be to the tokens that may come next, by way of the library llguidance.

Everything is written as one grammar in Lark's syntax. A matcher of that grammar goes along with a text and says after
each token which may follow: those that begin or continue something that can still become what was asked for. The model
chooses among them in its own way of cutting text into tokens.

V is the tokenizer's vocabulary.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import threading
import time
import weakref
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from gptwo.errors import GptwoError, InvalidRequestError, MissingDependencyError, TokenizerError, one_line
from gptwo.sampling.grammar_trial import Trial
from gptwo.sampling.processors import TokenMask
from gptwo.sampling.structured import PARAM, StructuredOutputs
from gptwo.tokenizer import Tokenizer

if TYPE_CHECKING:
    import llguidance

Result = TypeVar("Result")

# What compiling a grammar, and one mask, may cost, in the library's own units: so many are done in milliseconds.
LIMITS = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 20_000,
    "max_items_in_row": 2_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 500_000,
    "precompute_large_lexemes": False,
    "verbose_errors": False,
}
# An ambiguous grammar's masks cost more with each token, whatever those limits. So each text has an account of seconds
# of a processor's time, to which every token adds a little; common masks take a hundredth of that.
BURST_SECONDS, TOKEN_SECONDS = 0.5, 0.01
LONGEST_GBNF = 8192  # characters; translating one takes the longer the more rules each rule can see
# Between two parts of JSON stands at most one space. Without a bound a model that is not sure writes spaces for ever.
WHITESPACE = " "
# Tokens are the model's to choose also where the text is certain: the masks then don't depend on how we would cut it.
_OPTIONS = '\n%llguidance {"no_forcing": true}\n'


class Constraint:
    """The grammar's side of one text: which tokens may come next, and whether anything may."""

    mask: TokenMask
    """uint32: the tokens that may come next, as `processors.apply_token_mask` takes them."""
    ended: bool
    """Whether the text is complete and nothing can follow."""

    def __init__(self, matcher: llguidance.LLMatcher, tokenizer: Tokenizer, stop_ids: Collection[int]) -> None:
        """matcher: at the text's beginning. stop_ids: what may follow where the text may end."""
        self._matcher, self._tokenizer = matcher, tokenizer
        self._stop_ids = frozenset(stop_ids)
        self._produced = 0
        self._seconds = BURST_SECONDS
        self._look()

    def copy(self) -> Constraint:
        """The same for another text that goes on from here."""
        other = object.__new__(Constraint)
        other.__dict__.update(self.__dict__)
        other._matcher = self._call(self._matcher.deep_copy)
        return other

    def accept(self, token_id: int) -> None:
        """Go on by a token of the mask that is no stop token. Raises InvalidRequestError if that costs too much."""
        began = time.thread_time()
        self._produced += 1
        self._call(self._matcher.consume_token, token_id)
        self._look()
        self._seconds = min(BURST_SECONDS, self._seconds + TOKEN_SECONDS) - (time.thread_time() - began)
        if self._seconds < 0.0:
            raise self._too_expensive("its masks take too long")

    def forced(self, most: int) -> list[int]:
        """The text that is certain to come next, often none, in at most so many tokens.

        A guess, since the model may cut it otherwise; what comes out is not checked, see `usable`.
        """
        if most <= 0:
            return []
        certain = _guarded(self._matcher.deep_copy().compute_ff_bytes)
        try:
            return self._tokenizer.encode(certain.decode("utf-8", "ignore"))[:most]
        except TokenizerError:  # a character that the vocabulary has in no single token
            return []

    def usable(self, drafts: Sequence[int]) -> int:
        """How many of these tokens, from the first on, could come next one after another."""
        known = itertools.takewhile(lambda token_id: token_id < self._tokenizer.vocab_size, drafts)
        # A matcher that has failed, at what is too expensive, stays so; with a copy a guess cannot do harm.
        return int(_guarded(self._matcher.deep_copy().validate_tokens, list(known)))

    def _look(self) -> None:
        """Compute the mask. Each word is computed before the first choice, so that the last token is known as such."""
        words = np.frombuffer(self._call(self._matcher.compute_bitmask), dtype="<u4").astype(np.uint32)
        end = self._tokenizer.vocab_size  # stands for the end, beside the tokenizer's own tokens
        may_end = bool(words[end // 32] >> (end % 32) & 1)
        words[end // 32] &= ~np.uint32(1 << end % 32)
        may_go_on = bool(words.any())
        if not may_go_on and not may_end:
            raise self._stuck()
        for token_id in self._stop_ids if may_end else ():
            if token_id < end:
                words[token_id // 32] |= np.uint32(1 << token_id % 32)
        self.mask, self.ended = words, not may_go_on

    def _stuck(self) -> InvalidRequestError:
        """The error of a text for which no token is left."""
        if self._produced == 0:
            return InvalidRequestError(f"{PARAM} allows no text that the model's vocabulary can write", param=PARAM)
        return InvalidRequestError(
            f"{PARAM} cannot be kept after {self._produced} tokens: "
            "the model's vocabulary has no token for what has to come next",
            param=PARAM,
        )

    def _too_expensive(self, why: str) -> InvalidRequestError:
        return InvalidRequestError(
            f"{PARAM} costs too much to keep after {self._produced} tokens ({why}); simplify it", param=PARAM
        )

    def _call(self, method: Callable[..., Result], *arguments: Any) -> Result:
        result = _guarded(method, *arguments)
        if self._matcher.is_error():
            error = one_line(self._matcher.get_error().replace("<non-verbose/>", ""))
            if "NoExtension" in error:
                raise self._stuck()
            raise self._too_expensive(error)
        return result


def compile_grammar(
    wanted: StructuredOutputs, tokenizer: Tokenizer | None, stop_ids: Collection[int] = ()
) -> Constraint:
    """A constraint at the beginning of a text. stop_ids: tokens that may come where the text may end.

    Any thread may call this; it takes milliseconds, and a fraction of a second the first time. Raises
    InvalidRequestError for a schema, expression or grammar that makes no sense, costs too much, or cannot be written
    with the vocabulary; MissingDependencyError without the library.
    """
    library = _library()
    if tokenizer is None:
        raise InvalidRequestError(f"{PARAM} needs a tokenizer; this model has none", param=PARAM)
    grammar = json.dumps({"grammars": [{"lark_grammar": _as_lark(wanted)}]})
    if wanted.kind in ("json_schema", "regex", "grammar"):  # the others are ours
        error = _trial().verdict(grammar, lambda: _table(tokenizer))
        if error is not None:
            raise _refused(wanted, error)
    limits = library.LLParserLimits(**LIMITS)
    matcher = _guarded(lambda: library.LLMatcher(_table(tokenizer), grammar, log_level=0, limits=limits))
    if matcher.is_error():
        raise _refused(wanted, matcher.get_error())
    return Constraint(matcher, tokenizer, stop_ids)


def _as_lark(wanted: StructuredOutputs) -> str:
    """The grammar whose `start` is what is wanted."""
    if wanted.kind == "grammar":
        assert wanted.grammar is not None
        return _lark_of(wanted.grammar) + _OPTIONS
    if wanted.kind == "choice":
        assert wanted.choice is not None
        # One expression of the lexer, since alternatives of the parser are dear.
        return "start: CHOICE\nCHOICE: " + " | ".join(map(json.dumps, wanted.choice)) + _OPTIONS
    if wanted.kind == "regex":
        assert wanted.regex is not None
        return f"start: /{_library().regex_to_lark(wanted.regex, 'd')}/" + _OPTIONS
    schema = json.loads(wanted.json_schema) if isinstance(wanted.json_schema, str) else {"type": "object"}
    if isinstance(schema, dict):
        schema = {"x-guidance": {"whitespace_pattern": WHITESPACE}, **schema}
    return "start: %json " + json.dumps(schema) + _OPTIONS


def _lark_of(source: str) -> str:
    """A grammar in Lark's syntax; one of llama.cpp's, which define rules by `::=`, is translated."""
    if not re.search(r"^\s*[\w-]+\s*::=", source, flags=re.MULTILINE):
        return source
    if len(source) > LONGEST_GBNF:
        raise InvalidRequestError(
            f"grammar has {len(source):,} characters, expected at most {LONGEST_GBNF:,} in GBNF; write it in Lark's "
            "syntax",
            param=PARAM,
        )
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return str(gbnf_to_lark(source))
    except Exception as error:  # the library raises bare Exceptions
        raise InvalidRequestError(
            f"grammar cannot be used: {one_line(error)} (read as GBNF, since it has ::=)", param=PARAM
        ) from error


def _refused(wanted: StructuredOutputs, error: str) -> InvalidRequestError:
    """The error of a grammar that is none, with the first line of what the library says of it."""
    lines = [line.strip() for line in error.splitlines() if line.strip()] or ["it makes no sense"]
    first = lines[0]
    if first.endswith("regex parse error:"):  # behind it come the expression, a mark below it, and what is wrong
        first = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), first)
    if wanted.kind != "grammar" and first.startswith("at "):
        first = first.partition(": ")[2] or first  # the place in the grammar that we made
    first = first.removeprefix("failed to compile JSON schema: ")
    return InvalidRequestError(f"{wanted.kind} cannot be used: {one_line(first)}", param=PARAM)


def _guarded(work: Callable[..., Result], *arguments: Any) -> Result:
    try:
        return work(*arguments)
    except BaseException as error:
        # A panic in the library's Rust derives from BaseException, and has no importable name.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise GptwoError(f"llguidance failed: {one_line(error)}") from error


@functools.cache
def _library() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise MissingDependencyError(
            f"{PARAM} needs llguidance, which is not installed: pip install '.[grammar]' in gptwo's checkout"
        ) from error
    return llguidance


@functools.cache
def _trial() -> Trial:
    return Trial(_library()._lib.__file__, LIMITS)


class _Vocabulary:
    """A tokenizer's tokens as the library takes them: special ones are no text, and one more token is the end."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.eos_token_id = tokenizer.vocab_size
        self.tokens = [*map(tokenizer.token_bytes, range(tokenizer.vocab_size)), b""]
        self.special_token_ids = [i for i in range(tokenizer.vocab_size) if tokenizer.is_special(i)]

    def __call__(self, text: str) -> list[int]:
        """For texts that the library would cut itself, which we don't let it."""
        return []


_tables: weakref.WeakKeyDictionary[Tokenizer, llguidance.LLTokenizer] = weakref.WeakKeyDictionary()
_tables_lock = threading.Lock()


def _table(tokenizer: Tokenizer) -> llguidance.LLTokenizer:
    """The library's table of a vocabulary, made once; it goes when the tokenizer does."""
    with _tables_lock:
        if tokenizer not in _tables:
            _tables[tokenizer] = _guarded(_library().LLTokenizer, _Vocabulary(tokenizer))
        return _tables[tokenizer]
