"""Texts that a model writes while it is trained, by the engine that all of gptwo writes with."""

from __future__ import annotations

from gptwo.decoder.reference import ReferenceDecoder
from gptwo.errors import InvalidRequestError
from gptwo.language_model import LanguageModel
from gptwo.model import GPT2
from gptwo.sampling import SamplingParams
from gptwo.tokenizer import Tokenizer

TOKENS = 80
TEMPERATURE, TOP_P = 0.8, 0.95


def prompt_ids(prompt: str, tokenizer: Tokenizer, first_token: int) -> list[int]:
    """A prompt's token ids; those of nothing are `<|endoftext|>`, or `first_token` where the tokenizer has none."""
    if prompt:
        return tokenizer.encode(prompt)
    return [first_token if tokenizer.end_of_text_id is None else tokenizer.end_of_text_id]


def check_prompt(ids: list[int], positions: int) -> None:
    """Raise InvalidRequestError if a prompt leaves a model no room to write."""
    if len(ids) >= positions:
        raise InvalidRequestError(
            f"sample_prompt has {len(ids)} tokens, and the model {positions} positions; shorten it", "sample_prompt"
        )


def sample(model: GPT2, tokenizer: Tokenizer, ids: list[int], seed: int) -> str:
    """The prompt and what the model goes on with, at most 80 tokens, in the model's present state.

    The model is left in evaluation mode; no random number of PyTorch's is drawn.
    """
    model.eval()
    room = min(TOKENS, model.config.n_positions - len(ids))
    params = SamplingParams(max_tokens=room, temperature=TEMPERATURE, top_p=TOP_P, seed=seed)
    writer = LanguageModel(ReferenceDecoder.over(model), tokenizer)
    text = writer.generate(ids, params).text
    shown = ids if ids != [tokenizer.end_of_text_id] else []
    return tokenizer.decode(shown) + text
