"""The compiled core (csrc/). Only `decoder/native.py` and `sampling/native.py` talk to it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

LAYOUT_VERSION: int
_Chosen = tuple[int, float | None, list[tuple[int, float]]]

def tiers() -> list[str]: ...
def token_logprobs(logits: npt.NDArray[np.float32], token: int, count: int) -> _Chosen: ...
def log_softmax(logits: npt.NDArray[np.float32], out: npt.NDArray[np.float32]) -> None: ...
def random_bits(seed: int, text: int, position: int) -> int: ...

class Sampler:
    def __init__(
        self,
        *,
        prompt: list[int],
        seed: int,
        vocab_size: int | None,
        logit_bias: list[tuple[int, float]],
        repetition_penalty: float,
        frequency_penalty: float,
        presence_penalty: float,
        no_repeat_ngram_size: int,
        bad_words: list[list[int]],
        min_tokens: int,
        stop_ids: list[int],
        allowed_token_ids: list[int] | None,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        typical_p: float,
        logprobs: int | None,
    ) -> None: ...
    def choose(
        self,
        logits: npt.NDArray[np.float32],
        text: int,
        output: Sequence[int],
        mask: npt.NDArray[np.uint32] | None = None,
    ) -> _Chosen: ...
    def masses(
        self,
        logits: npt.NDArray[np.float32],
        output: Sequence[int],
        out: npt.NDArray[np.int64],
        mask: npt.NDArray[np.uint32] | None = None,
    ) -> None: ...

def read_bandwidth(*, bytes: int, threads: int, seconds: float) -> float: ...  # noqa: A002

class Model:
    def __init__(
        self,
        *,
        vocab_size: int,
        n_positions: int,
        width: int,
        inner: int,
        heads: int,
        epsilon: float,
        tied: bool,
        activation: int,
        attention_scales: list[float],
        format: int,  # noqa: A002
        bf16_cache: bool,
        threads: int,
        tier: str,
    ) -> None: ...
    def set(self, name: str, tensor: npt.NDArray[np.float32], fold: npt.NDArray[np.float32] | None = None) -> None: ...
    def set_mapped(self, name: str, bytes: npt.NDArray[np.uint8]) -> None: ...  # noqa: A002
    def mapped_bytes(self, name: str) -> int: ...
    def packed(self, name: str) -> npt.NDArray[np.uint8]: ...
    def first_not_finite(self) -> str: ...
    def set_unfold(self, factors: npt.NDArray[np.float32]) -> None: ...
    def check_complete(self) -> None: ...
    def open(self) -> int: ...
    def close(self, sequence: int) -> None: ...
    def fork(self, sequence: int) -> int: ...
    def truncate(self, sequence: int, length: int) -> None: ...
    def length(self, sequence: int) -> int: ...
    def forward(
        self,
        tokens: npt.NDArray[np.int64],
        sequences: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
        rows: npt.NDArray[np.int64],
        logits: npt.NDArray[np.float32],
    ) -> None: ...
    @property
    def blocks_in_use(self) -> int: ...
    @property
    def tier(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
