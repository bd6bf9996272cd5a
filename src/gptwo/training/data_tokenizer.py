"""The tokenizer that data is made with: one by name, or one made from the texts."""

from __future__ import annotations

from itertools import chain

from gptwo.checkpoint import resolve
from gptwo.config import PUBLISHED_MODELS
from gptwo.errors import DownloadError, ModelNotFoundError, nearest_name
from gptwo.tokenizer import Tokenizer
from gptwo.training.sources import Inputs
from gptwo.training.split import Split
from gptwo.training.units import pieces_of

WORDS = ("gpt2", "char", "bpe:SIZE")


def named_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a model or a directory, fetched if need be.

    Raises what loading a tokenizer raises; of a name that is nowhere, with the word that was perhaps meant.
    """
    try:
        return Tokenizer.load(resolve(name, progress=True, weights=False))
    except (ModelNotFoundError, DownloadError) as error:
        near = nearest_name("bpe:SIZE" if name.lower().startswith("bpe") else name.lower(), WORDS, otherwise="")
        if near and name not in {model.name for model in PUBLISHED_MODELS}:
            raise type(error)(f"{error}{near}") from error
        raise


def make_tokenizer(size: int | None, inputs: Inputs, split: Split) -> Tokenizer:
    """A BPE of that size, from the texts for training; for None one of characters, from all texts."""
    if size is None:
        return Tokenizer.characters(
            chain.from_iterable(chain([one.prompt or ""], one.blocks) for *_, one in inputs.documents())
        )
    documents = ((number, one) for _, number, one in inputs.documents(val=False))
    return Tokenizer.train(
        (
            piece.text
            for number, one in documents
            for piece in pieces_of(one, split.training_characters(number))
            if not piece.val
        ),
        size,
    )
