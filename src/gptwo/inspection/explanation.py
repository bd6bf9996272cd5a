"""Everything about one prompt: the analyses together, and the same as JSON for a page.

L layers, H heads, T tokens of the prompt, V vocabulary, K tokens kept in each place of the lens.
"""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gptwo.errors import ContextLengthError
from gptwo.inspection.attention import AttentionPatterns, InductionScores, attention_patterns, induction_scores
from gptwo.inspection.attribution import LogitAttribution, logit_attributions
from gptwo.inspection.changes import Floats
from gptwo.inspection.checks import check_inspector
from gptwo.inspection.lens import LogitLens, logit_lens
from gptwo.inspection.prediction import LossByPosition, SamplingSpread, loss_by_position, sampling_spread
from gptwo.inspection.result import Result
from gptwo.sampling.processors import largest
from gptwo.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gptwo.inspection.inspector import Inspector
    from gptwo.loading import Prompt

Integers = npt.NDArray[np.int64]

LIKELIEST = 5  # K
LISTED = 40  # of the next tokens, those with a name on the page
MOST_WEIGHTS = 2**25
"""Of attention in one page, a byte each: 682 tokens of GPT-2, 235 of GPT-2 XL."""


@dataclass(frozen=True, repr=False)
class Explanation(Result):
    """The analyses of a prompt."""

    model: str
    """Its name."""
    parameters: int
    """How many weights it has."""
    prompt: str
    """The text of the tokens."""
    names: dict[int, str]
    """What each token that is spoken of is called; see `names_of`."""
    lens: LogitLens
    attention: AttentionPatterns
    attributions: tuple[LogitAttribution, ...]
    """One for each of the T positions, of the token that the model finds likeliest there."""
    losses: LossByPosition | None
    """None for a single token."""
    induction: InductionScores
    spread: SamplingSpread
    next_logits: Floats
    """(V,): of the token after the prompt."""

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Those of the prompt; one without tokens begins with `<|endoftext|>`, as in generating."""
        return self.lens.token_ids

    def as_dict(self) -> dict[str, Any]:
        """The data of a page, as JSON can hold it; docs/explain.md says what is where."""
        layers, heads = self.induction.induction.shape
        parts, others = self.attributions, ("token_embedding", "position_embedding", "final_bias")
        return {
            "version": 1,
            "model": {"name": self.model, "parameters": self.parameters, "layers": layers, "heads": heads},
            "prompt": self.prompt,
            "token_ids": list(self.token_ids),
            "names": {str(token): name for token, name in sorted(self.names.items())},
            "losses": [] if self.losses is None else _rounded(self.losses.losses[1:]),
            "lens": {
                "rows": list(self.lens.layers),
                "ids": packed(self.lens.top_ids, "<i4"),
                "probabilities": packed(self.lens.top_probabilities, "<f4"),
                "following": packed(self.lens.target_probabilities[:, :-1], "<f4"),
            },
            "attention": packed_attention(self.attention.patterns),
            "attribution": {
                "target_ids": [part.target_id for part in parts],
                "heads": packed(np.stack([part.heads for part in parts]), "<f4"),
                "attention_biases": packed(np.stack([part.attention_biases for part in parts]), "<f4"),
                "mlps": packed(np.stack([part.mlps for part in parts]), "<f4"),
                **{name: packed(np.array([getattr(part, name) for part in parts]), "<f4") for name in others},
            },
            "induction": {name: _rounded(value) for name, value in dataclasses.asdict(self.induction).items()},
            "next_logits": packed(self.next_logits, "<f4"),
        }


def explain(inspector: Inspector, prompt: Prompt, *, induction: InductionScores | None = None) -> Explanation:
    """All the analyses of a prompt; a text without tokens is taken as `<|endoftext|>`.

    induction: the scores of the same model from before, since they do not depend on the prompt.
    Raises ContextLengthError for more tokens than the model has positions, or than one page can show (MOST_WEIGHTS),
    and what `Inspector.run` does.
    """
    check_inspector(inspector)
    config, tokenizer = inspector.config, inspector.tokenizer
    end = None if tokenizer is None else tokenizer.end_of_text_id
    is_empty = isinstance(prompt, str) and not prompt
    ids = (end,) if is_empty and end is not None else inspector.encode(prompt)
    most = most_tokens(config.n_layer * config.n_head)
    if len(ids) > most:
        raise ContextLengthError(
            f"the prompt has {len(ids)} tokens; with the {config.n_layer * config.n_head} heads of this model one page "
            f"shows up to {most}",
            param="prompt",
        )
    lens = logit_lens(inspector, ids, top=LIKELIEST)
    attributions = logit_attributions(inspector, ids)
    known = config.vocab_size if tokenizer is None else tokenizer.vocab_size
    next_logits = inspector.run(ids)["logits"][-1, :known].copy()  # not a view, which would keep all T of them
    spoken = {*ids, *lens.top_ids.flat, *(part.target_id for part in attributions)}
    return Explanation(
        model=inspector.name,
        parameters=config.parameter_count,
        prompt=prompt if isinstance(prompt, str) else "".join(lens.tokens),
        names=names_of(tokenizer, map(int, {*spoken, *largest(next_logits, LISTED)})),
        lens=lens,
        attention=attention_patterns(inspector, ids),
        attributions=attributions,
        losses=loss_by_position(inspector, ids) if len(ids) > 1 else None,
        induction=induction_scores(inspector) if induction is None else induction,
        spread=sampling_spread(inspector, ids),
        next_logits=next_logits,
    )


def most_tokens(heads: int) -> int:
    """How many tokens one page shows of a model with so many heads in all.

    Example: most_tokens(144) == 682
    """
    return (math.isqrt(8 * (MOST_WEIGHTS // heads) + 1) - 1) // 2


def packed(array: npt.NDArray[Any], kind: str) -> dict[str, Any]:
    """An array as JSON: its shape, its type in numpy's words, and its bytes in base64, in C order."""
    data = np.ascontiguousarray(array, kind).tobytes()
    return {"shape": list(array.shape), "type": kind, "data": base64.b64encode(data).decode("ascii")}


def packed_attention(attention: Floats) -> dict[str, Any]:
    """Attention (L, H, T, T) as bytes (L, H, T (T + 1) / 2): the lower triangle, row by row; weight = (byte / 255)².

    The square root keeps small weights apart: none is off by more than 0.004, those below 0.01 by 0.0004.
    """
    rows, columns = np.tril_indices(attention.shape[-1])
    roots = np.empty((*attention.shape[:2], len(rows)), np.uint8)
    for layer, patterns in enumerate(attention):  # (H, T, T): a layer at a time, since each step copies
        roots[layer] = np.rint(255 * np.sqrt(patterns[:, rows, columns].clip(0, 1)))
    return packed(roots, "u1")


def names_of(tokenizer: Tokenizer | None, token_ids: Iterable[int]) -> dict[int, str]:
    r"""What a page calls tokens: their text, else their bytes; an id that the tokenizer lacks is `#id`.

    Example: the first byte of an emoji is `\xf0`.
    """
    return {token_id: _name(tokenizer, token_id) for token_id in sorted(set(token_ids))}


def _name(tokenizer: Tokenizer | None, token_id: int) -> str:
    if tokenizer is None or token_id >= tokenizer.vocab_size:
        return f"#{token_id}"
    data = tokenizer.token_bytes(token_id)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in data)


def _rounded(values: Any) -> Any:
    """As lists of numbers with 4 decimals, which is more than a picture shows; what is no number is None."""
    if isinstance(values, np.ndarray):
        return [_rounded(value) for value in values]
    return round(float(values), 4) if math.isfinite(values) else None
