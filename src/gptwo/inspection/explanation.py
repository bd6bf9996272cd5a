"""What one prompt does in a model, as arrays, and the same as JSON for a page.

L layers, H heads, T tokens of the prompt, V vocabulary, R = L + 1 rows of the lens (the embeddings, then each layer),
K tokens kept in each place of it.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gptwo.tokenizer import Tokenizer

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

LIKELIEST = 5  # K
LISTED = 40  # of the next tokens, those with a name on the page


@dataclass(frozen=True)
class Explanation:
    """The analyses of a prompt; see the module for the letters."""

    model: str
    """Its name."""
    parameters: int
    """How many weights it has."""
    prompt: str
    token_ids: Integers
    """(T,): a prompt without tokens begins with `<|endoftext|>`, as in generating."""
    names: dict[int, str]
    """The text of each token that is spoken of; of a part of a character its bytes, as in `\\xf0\\x9f`."""
    lens_ids: Integers
    """(R, T, K): the likeliest next tokens, were the residual stream read as if it were the last."""
    lens_probabilities: Floats
    """(R, T, K): of these."""
    lens_following: Floats
    """(R, T - 1): of the token that follows in the prompt."""
    attention: Floats
    """(L, H, T, T): how much each position (row) takes from each (column)."""
    target_ids: Integers
    """(T,): the token that the attribution is about, the likeliest next one."""
    head_attribution: Floats
    """(T, L, H): what each head adds to the target's logit."""
    mlp_attribution: Floats
    """(T, L): what each MLP adds."""
    other_attribution: dict[str, Floats]
    """(T,) each: what else adds to it, such as the embeddings."""
    losses: Floats
    """(T - 1,): -log of the probability of tokens 1 to T - 1, in nats."""
    induction: Floats
    """(L, H): how much a head looks at what followed the last time, 0 to 1, on random tokens said twice."""
    next_logits: Floats
    """(V,): of the token after the prompt."""

    def as_dict(self) -> dict[str, Any]:
        """The data of a page, as JSON can hold it; docs/explain.md says what is where."""
        layers, heads = self.induction.shape
        return {
            "version": 1,
            "model": {"name": self.model, "parameters": self.parameters, "layers": layers, "heads": heads},
            "prompt": self.prompt,
            "token_ids": self.token_ids.tolist(),
            "names": {str(token): name for token, name in sorted(self.names.items())},
            "losses": _rounded(self.losses),
            "lens": {
                "rows": ["embeddings", *(f"layer {layer}" for layer in range(layers))],
                "ids": packed(self.lens_ids, "<i4"),
                "probabilities": packed(self.lens_probabilities, "<f4"),
                "following": packed(self.lens_following, "<f4"),
            },
            "attention": packed_attention(self.attention),
            "attribution": {
                "target_ids": self.target_ids.tolist(),
                "heads": packed(self.head_attribution, "<f4"),
                "mlps": packed(self.mlp_attribution, "<f4"),
                "others": {name: packed(values, "<f4") for name, values in self.other_attribution.items()},
            },
            "induction": _rounded(self.induction),
            "next": {"logits": packed(self.next_logits, "<f4"), "ids": likeliest(self.next_logits, LISTED).tolist()},
        }


def packed(array: npt.NDArray[Any], kind: str) -> dict[str, Any]:
    """An array as JSON: its shape, its type in numpy's words, and its bytes in base64, in C order."""
    data = np.ascontiguousarray(array, kind).tobytes()
    return {"shape": list(array.shape), "type": kind, "data": base64.b64encode(data).decode("ascii")}


def packed_attention(attention: Floats) -> dict[str, Any]:
    """Attention (L, H, T, T) as bytes (L, H, T (T + 1) / 2): the lower triangle, row by row; weight = (byte / 255)².

    The square root keeps small weights apart: none is off by more than 0.004, those below 0.01 by 0.0004.
    """
    rows, columns = np.tril_indices(attention.shape[-1])
    triangle = attention[..., rows, columns]
    return packed(np.rint(255 * np.sqrt(triangle.clip(0, 1))), "u1")


def likeliest(logits: Floats, count: int) -> Integers:
    """The `count` likeliest of (V,) logits, in order; of equal ones the lower id is first."""
    return np.argsort(-logits, kind="stable")[:count].astype(np.int64)


def names_of(tokenizer: Tokenizer | None, token_ids: Iterable[int]) -> dict[int, str]:
    """What a page calls tokens: their text, else their bytes; an id that the tokenizer lacks is `#id`.

    Example: one byte of an emoji is "\\xf0".
    """
    name = _namer(tokenizer)
    return {token_id: name(token_id) for token_id in sorted(set(token_ids))}


def _namer(tokenizer: Tokenizer | None) -> Callable[[int], str]:
    def name(token_id: int) -> str:
        if tokenizer is None or token_id >= tokenizer.vocab_size:
            return f"#{token_id}"
        data = tokenizer.token_bytes(token_id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "".join(f"\\x{byte:02x}" for byte in data)

    return name


def _rounded(values: Floats) -> Any:
    """As lists of numbers with 4 decimals, which is more than a picture shows; what is no number is None."""
    if values.ndim > 1:
        return [_rounded(row) for row in values]
    return [round(float(value), 4) if math.isfinite(value) else None for value in values]
