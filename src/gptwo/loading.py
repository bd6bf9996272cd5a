"""From a name to a model that can be run: its checkpoint found, its decoder opened, its tokenizer read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gptwo.checkpoint import load_checkpoint
from gptwo.config import GPTConfig
from gptwo.decoder import open_decoder
from gptwo.decoder.protocol import Decoder
from gptwo.errors import CheckpointError, ContextLengthError, InvalidRequestError
from gptwo.options import shown
from gptwo.tokenizer import Tokenizer

Prompt = str | Sequence[int]


@dataclass(frozen=True)
class OpenModel:
    """A model ready to run: what an engine needs."""

    name: str
    """As it was asked for."""
    decoder: Decoder
    tokenizer: Tokenizer | None

    @property
    def config(self) -> GPTConfig:
        """The model's configuration."""
        return self.decoder.config

    def encode(self, prompt: Prompt, *, endless: bool = False) -> Sequence[int]:
        """The token ids of a prompt. A text that is far too long is refused before it is encoded, unless `endless`.

        Raises InvalidRequestError for what is no prompt, or a text without a tokenizer; ContextLengthError.
        """
        if not isinstance(prompt, str):
            check_list(prompt)
            return list(prompt)
        if self.tokenizer is None:
            raise InvalidRequestError(
                f"{self.name} has no tokenizer: give token ids, or name one (tokenizer=, --tokenizer)", param="prompt"
            )
        if not endless and self.tokenizer.certainly_exceeds(prompt, self.config.n_positions):
            raise ContextLengthError(
                f"the prompt has {len(prompt):,} characters, more than the model's {self.config.n_positions} positions "
                "can hold; shorten it",
                param="prompt",
            )
        return self.tokenizer.encode(prompt)


def open_model(
    name: str | Path,
    *,
    weights: str = "auto",
    backend: str = "auto",
    cache: str = "auto",
    threads: int | None = None,
    device: str = "cpu",
    revision: str | None = None,
    tokenizer: Tokenizer | str | Path | None = None,
    progress: bool = False,
) -> OpenModel:
    """Open a model by an embedded name, a local directory or file, or a name on the hub; see `gptwo.load`."""
    checkpoint = load_checkpoint(name, revision=revision, progress=progress)
    found = checkpoint.tokenizer_path if tokenizer is None else tokenizer
    if isinstance(found, (str, Path)):
        found = Tokenizer.load(found)
    elif found is not None and not isinstance(found, Tokenizer):
        raise InvalidRequestError(
            f"tokenizer is {shown(found)}, expected a Tokenizer, a directory or a file", param="tokenizer"
        )
    if found is not None and found.vocab_size > checkpoint.config.vocab_size:
        shape = (checkpoint.config.vocab_size, checkpoint.config.n_embd)
        raise CheckpointError(
            f"checkpoint {checkpoint.path}: tensor wte.weight has shape {shape}, "
            f"but a tokenizer of {found.vocab_size} tokens needs {(found.vocab_size, shape[1])}"
        )
    decoder = open_decoder(checkpoint, backend=backend, weights=weights, cache=cache, threads=threads, device=device)
    return OpenModel(str(name), decoder, found)


def check_list(prompt: object) -> Sequence[object]:
    """Token ids, or whatever else a list may hold."""
    if isinstance(prompt, np.ndarray) and prompt.ndim != 1:
        raise InvalidRequestError(f"a prompt as an array has one dimension, got {prompt.ndim}", param="prompt")
    is_list = isinstance(prompt, Sequence) and not isinstance(prompt, (str, bytes, bytearray, memoryview))
    if not is_list and not isinstance(prompt, np.ndarray):
        raise InvalidRequestError(
            f"the prompt is {shown(prompt)}, expected text, token ids, or a list of those", param="prompt"
        )
    return prompt  # type: ignore[return-value]  # an array of one dimension is as good as a sequence
