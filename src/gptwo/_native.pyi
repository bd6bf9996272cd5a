"""The compiled core (csrc/). Only `decoder/native.py` talks to it."""

import numpy as np
import numpy.typing as npt

def tiers() -> list[str]: ...
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
