"""GPT-2 for libtorch and PyTorch without gptwo: TorchScript, a torch.export program, AOTInductor's package of it.

All are made from model.py itself, by running it once on examples. TorchScript is what libtorch loads, and holds the
parameters under the checkpoint's names; torch.export is what PyTorch goes on with.

B batch, T new positions, P cached and S = P + T all positions, H heads, D head size, V vocabulary, L layers.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from gptwo.checkpoint import Checkpoint
from gptwo.checkpoint.stored import Floats
from gptwo.errors import ExportError, NumericalError, one_line
from gptwo.model import GPT2, KeysValues

SCRIPT_FILE: Final = "model.ts"
PROGRAM_FILE: Final = "model.pt2"
COMPILED_FILE: Final = "model.aoti.pt2"

Past = tuple[tuple[Tensor, Tensor], ...]

_WITHOUT_WEIGHTS: Final = 2**24  # bytes; more than anything else in a file takes

_TELLING: Final = (3, 5)
"""T and P of the example that is compiled. Of one with 1 and 1 AOTInductor makes a program that says other things."""

_DTYPES: Final = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class ExportedGPT2(GPT2):
    """GPT-2 with its two entry points; `attention_mask` is int64 (B, S), 0 where a position is padding."""

    def prefill(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Past]:
        """int64 (B, T) -> logits float32 (B, T, V), and keys and values (B, H, T, D) of each layer."""
        return self._run(input_ids, attention_mask, None)

    def decode(self, input_ids: Tensor, attention_mask: Tensor, past: Past) -> tuple[Tensor, Past]:
        """The same behind keys and values (B, H, P, D) -> logits (B, T, V), keys and values (B, H, S, D)."""
        return self._run(input_ids, attention_mask, [KeysValues(*layer) for layer in past])

    forward = decode  # type: ignore[assignment]  # what torch.export makes a program of

    def _run(self, input_ids: Tensor, mask: Tensor, past: Sequence[KeysValues] | None) -> tuple[Tensor, Past]:
        output = GPT2.forward(self, input_ids, mask=mask, past=past, return_past=True)
        assert output.past is not None
        return output.logits.float(), tuple((layer.keys, layer.values) for layer in output.past)


def write_torch(directory: Path, checkpoint: Checkpoint, dtype: str, *, compiled: bool = False) -> None:
    """Write model.ts and model.pt2, and model.aoti.pt2 if it is to be compiled.

    dtype: f32, bf16 or f16. Raises NumericalError for weights beyond the range of the type, ExportError if they
    cannot be compiled here, or the model has fewer than 8 positions and is to be compiled, OSError if there is no room
    for a file.
    """
    if compiled and checkpoint.config.n_positions < sum(_TELLING):
        raise ExportError(f"only models of {sum(_TELLING)} positions or more can be compiled")
    model = exported_model(checkpoint, dtype)
    write_script(directory, model)
    with _silence(), torch.no_grad():
        program = _program(model)
        _check_room(directory, model)
        torch.export.save(program, directory / PROGRAM_FILE)
        if compiled:
            _compile(program, directory / COMPILED_FILE)


def exported_model(checkpoint: Checkpoint, dtype: str) -> ExportedGPT2:
    """The model with its weights in f32, bf16 or f16. Raises NumericalError for weights beyond the type's range."""
    arrays = {name: tensor.float32() for name, tensor in checkpoint.tensors.items()}
    model = ExportedGPT2.from_arrays(checkpoint.config, arrays).to(_DTYPES[dtype]).requires_grad_(False)
    assert isinstance(model, ExportedGPT2)
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise NumericalError(f"tensor {name} holds values that {dtype} cannot hold")
    return model


def write_script(directory: Path, model: ExportedGPT2) -> None:
    """Write model.ts: `prefill` and `decode` as TorchScript, and the parameters. Raises OSError if there is no room."""
    _check_room(directory, model)
    input_ids, mask, past = _examples(model)
    with _silence(), torch.no_grad():
        # PyTorch would check it by tracing again; our tests run it on other sizes instead.
        script = torch.jit.trace_module(  # type: ignore[no-untyped-call]
            model, {"prefill": (input_ids, mask[:, :1]), "decode": (input_ids, mask, past)}, check_trace=False
        )
        script.save(str(directory / SCRIPT_FILE))


def _check_room(directory: Path, model: ExportedGPT2) -> None:
    """Raise OSError if a file with the model's weights finds no room: where PyTorch meets that, it ends the process."""
    size = _WITHOUT_WEIGHTS + sum(tensor.nbytes for tensor in model.state_dict().values())
    room = directory / "room"
    try:
        with room.open("xb") as file, contextlib.suppress(AttributeError):  # macOS cannot say
            os.posix_fallocate(file.fileno(), 0, size)
    finally:
        room.unlink(missing_ok=True)


def _examples(model: ExportedGPT2, new: int = 1, held: int = 1) -> tuple[Tensor, Tensor, Past]:
    """Arguments of `decode` with B = 2, T = new and P = held; 1 and 1 fit into any model of two positions."""
    config, dtype = model.config, model.wte.weight.dtype
    shape = (2, config.n_head, held, config.head_size)
    past = tuple((torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)) for _ in range(config.n_layer))
    return torch.zeros((2, new), dtype=torch.int64), torch.ones((2, new + held), dtype=torch.int64), past


def _program(model: ExportedGPT2) -> Any:
    """`decode` as a program whose B, T and P are free, P = 0 included: then it is `prefill`."""
    examples = _examples(model, *(_TELLING if model.config.n_positions >= sum(_TELLING) else (1, 1)))
    dynamic = torch.export.Dim.DYNAMIC
    shapes = {
        "input_ids": {0: dynamic, 1: dynamic},
        "attention_mask": {0: dynamic, 1: dynamic},
        "past": tuple(({0: dynamic, 2: dynamic},) * 2 for _ in examples[2]),
    }
    # Deferred, since else the bound on P + T and the sizes that must agree would have to be solved for.
    with _any_size():
        return torch.export.export(
            model, examples, dynamic_shapes=shapes, prefer_deferred_runtime_asserts_over_guards=True
        )


def _any_size() -> Any:
    """Sizes of 0 and 1 are taken as any others, not as programs of their own."""
    import torch.fx.experimental._config as symbolic

    return symbolic.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]


def _compile(program: Any, path: Path) -> None:
    import torch._inductor

    try:
        with _any_size():
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    except Exception as error:
        raise ExportError(f"AOTInductor could not compile the model here: {one_line(error)}") from error


class TorchScriptModel:
    """model.ts, one text at a time through `start` and `step`."""

    def __init__(self, directory: Path, *, threads: int | None = None) -> None:
        """threads: of PyTorch, in this whole process; None leaves them as they are."""
        if threads is not None:
            torch.set_num_threads(threads)
        self.engine = f"TorchScript in PyTorch {torch.__version__}"
        with _silence():
            self._script = torch.jit.load(str(directory / SCRIPT_FILE))  # type: ignore[no-untyped-call]
        self._past: Past = ()

    def start(self, token_ids: Sequence[int]) -> Floats:
        """The logits (T, V) of a text from its beginning."""
        ids = torch.from_numpy(np.array([token_ids], np.int64))
        with torch.no_grad():
            logits, self._past = self._script.prefill(ids, torch.ones_like(ids))
        return np.asarray(logits[0])

    def step(self, token_id: int) -> Floats:
        """The logits (V,) after one more token."""
        mask = torch.ones((1, self._past[0][0].shape[2] + 1), dtype=torch.int64)
        with torch.no_grad():
            logits, self._past = self._script.decode(torch.tensor([[token_id]]), mask, self._past)
        return np.asarray(logits[0, 0])


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without PyTorch's remarks on its own deprecations, and on sizes that Python looks at while it traces."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
