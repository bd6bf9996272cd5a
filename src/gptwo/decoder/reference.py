"""The decoder protocol over `model.py`: plain, in PyTorch, on any device that PyTorch has.

Sequences of a batch run one after another. That is slow for many of them and exactly right: what else is in the batch
cannot change a sequence's bits, which batched matrix products would not promise.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch

from gptwo.checkpoint import StoredTensor
from gptwo.config import GPTConfig
from gptwo.decoder.protocol import Floats, Integers
from gptwo.errors import DecoderError, NumericalError
from gptwo.model import GPT2, KeysValues

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


class ReferenceDecoder:
    """GPT-2 behind the decoder protocol (see there for the methods)."""

    def __init__(
        self,
        config: GPTConfig,
        tensors: Mapping[str, StoredTensor],
        *,
        weights: Literal["f32", "bf16"] = "f32",
        threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        """Raises InvalidRequestError for a device that PyTorch does not have here."""
        self.config, self.weights = config, weights
        if threads is not None:
            torch.set_num_threads(threads)
        model = GPT2.from_arrays(config, {name: tensor.float32() for name, tensor in tensors.items()})
        self._use(model.move_to(device, DTYPES[weights]))

    @classmethod
    def over(cls, model: GPT2) -> ReferenceDecoder:
        """A decoder with this very model, wherever it lies: what changes its weights changes what it says."""
        decoder = cls.__new__(cls)
        decoder.config = model.config
        decoder._use(model)
        return decoder

    def _use(self, model: GPT2) -> None:
        self.model, self._device = model, model.wte.weight.device
        self._past: dict[int, tuple[KeysValues, ...] | None] = {}
        self._numbers = itertools.count()

    def open(self) -> int:
        """Start an empty sequence."""
        sequence = next(self._numbers)
        self._past[sequence] = None
        return sequence

    def close(self, sequence: int) -> None:
        """Forget a sequence."""
        self._held(sequence)
        del self._past[sequence]

    def fork(self, sequence: int) -> int:
        """A second sequence with the same past; tensors are never changed in place, so sharing them is safe."""
        past = self._held(sequence)
        copy = self.open()
        self._past[copy] = past
        return copy

    def truncate(self, sequence: int, length: int) -> None:
        """Forget positions from `length` on."""
        held = self.length(sequence)
        if not 0 <= length <= held:
            raise DecoderError(f"cannot truncate sequence {sequence} of {held} tokens to {length}")
        past = self._held(sequence)
        if past is not None and length < held:
            self._past[sequence] = tuple(layer.truncate(length) for layer in past) if length else None

    def length(self, sequence: int) -> int:
        """Positions held."""
        past = self._held(sequence)
        return 0 if past is None else past[0].keys.shape[2]

    def forward(self, token_ids: Integers, sequence: Integers, positions: Integers, rows: Integers) -> Floats:
        """See the protocol. Raises NumericalError if the logits are not finite; then no sequence has changed either."""
        spans = self._check(token_ids, sequence, positions, rows)
        new_past: dict[int, tuple[KeysValues, ...] | None] = {}
        logits = np.empty((len(rows), self.config.vocab_size), dtype=np.float32)
        for number, start, end in spans:
            wanted = (rows >= start) & (rows < end)
            with torch.inference_mode():
                output = self.model(
                    torch.tensor(token_ids[start:end], device=self._device)[None],
                    past=self._past[number],
                    rows=torch.tensor(rows[wanted] - start, device=self._device),
                    return_past=True,
                )
            logits[wanted] = output.logits[0].float().cpu().numpy()
            new_past[number] = output.past
        if not np.isfinite(logits).all():
            raise NumericalError("the logits are not finite: the weights hold NaN, infinite or far too large values")
        self._past.update(new_past)
        return logits

    def _held(self, sequence: int) -> tuple[KeysValues, ...] | None:
        try:
            return self._past[sequence]
        except KeyError:
            raise DecoderError(f"sequence {sequence} is not open") from None

    def _check(
        self, token_ids: Integers, sequence: Integers, positions: Integers, rows: Integers
    ) -> list[tuple[int, int, int]]:
        """The batch as (sequence, start, end) spans; DecoderError for anything that breaks the protocol."""
        count = len(token_ids)
        if not (len(sequence) == len(positions) == count):
            raise DecoderError(f"{count} token ids, {len(sequence)} sequence numbers and {len(positions)} positions")
        outside = np.flatnonzero((token_ids < 0) | (token_ids >= self.config.vocab_size))
        if outside.size:
            wrong = int(token_ids[outside[0]])
            raise DecoderError(f"token id {wrong} is out of range: the vocabulary has {self.config.vocab_size}")
        if rows.size and (rows[0] < 0 or rows[-1] >= count or (np.diff(rows) <= 0).any()):
            raise DecoderError(f"rows must ascend within the {count} tokens of the batch")
        starts = [0, *(np.flatnonzero(np.diff(sequence)) + 1).tolist(), count] if count else [0]
        spans = [(int(sequence[a]), a, b) for a, b in itertools.pairwise(starts)]
        if len({number for number, _, _ in spans}) != len(spans):
            raise DecoderError("the tokens of one sequence must lie together")
        for number, start, end in spans:
            held = self.length(number)
            if not np.array_equal(positions[start:end], np.arange(held, held + end - start)):
                raise DecoderError(f"the positions of sequence {number} must go on from {held}")
            if held + end - start > self.config.n_positions:
                raise DecoderError(
                    f"sequence {number} would reach position {held + end - start - 1}; "
                    f"the model has {self.config.n_positions} positions"
                )
        return spans
