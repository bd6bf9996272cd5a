"""PyTorch's pickles (`.bin`, `.pt`), read without running anything that is in them."""

from __future__ import annotations

import mmap
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gptwo.checkpoint.stored import STORED_AS, Array, StoredTensor, shown
from gptwo.errors import CheckpointError, MissingDependencyError, UnsafeCheckpointError

if TYPE_CHECKING:
    import torch

_ZIP: Final = b"PK"
_CALLS: Final = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD"})
_ALLOCATES: Final = b"bytearray"  # PyTorch lets a pickle call it with any size, for which a hundred bytes are enough
_OLDEST_TORCH: Final = (2, 6)  # before it, weights_only=True could be made to run code: CVE-2025-32434

_DTYPE_NAMES: Final = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


def import_torch(purpose: str) -> Any:
    """PyTorch; MissingDependencyError, beginning with the purpose, if it is not there."""
    try:
        import torch
    except ImportError:
        raise MissingDependencyError(f"{purpose} needs PyTorch: pip install '.[torch]' in gptwo's checkout") from None
    return torch


def load_pickle(path: Path) -> Any:
    """What `torch.save` put into a file: tensors on the CPU, memory-mapped where the file allows, and plain values.

    Raises UnsafeCheckpointError if the pickle asks for anything else, CheckpointError if it is broken,
    MissingDependencyError without a recent PyTorch. There is no way to have such a pickle executed.
    """
    torch = import_torch(f"checkpoint {path}: reading a pickle")
    if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < _OLDEST_TORCH:
        raise MissingDependencyError(
            f"checkpoint {path}: reading a pickle safely needs PyTorch {'.'.join(map(str, _OLDEST_TORCH))} or newer, "
            f"this is {torch.__version__}"
        )
    is_zip = _starts_as_zip(path)
    if is_zip:
        _check_zip(path)
    else:
        _check_old_container(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols and storage classes, which no user can act upon
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise _refusal(path, str(error), is_zip) from None
    except Exception as error:  # a damaged file makes torch raise nearly every class there is
        raise CheckpointError(
            f"checkpoint {path}: not a PyTorch file, or a broken one ({type(error).__name__}: {_first_line(error)})"
        ) from error


def stored_tensors(path: Path, state_dict: object) -> dict[str, StoredTensor]:
    """The tensors of a state dict, sharing its memory. Raises CheckpointError if it holds anything else."""
    if not isinstance(state_dict, Mapping):
        raise CheckpointError(f"checkpoint {path}: it holds no state dict but one {type(state_dict).__name__}")
    size = path.stat().st_size
    tensors = {}
    for name, value in state_dict.items():
        if not isinstance(name, str):
            raise CheckpointError(f"checkpoint {path}: its state dict has a key that is no string but {name!a:.60}")
        tensors[name] = _stored_tensor(path, name, value, size)
    return tensors


def _stored_tensor(path: Path, name: str, value: Any, file_size: int) -> StoredTensor:
    import torch

    if not isinstance(value, torch.Tensor):
        raise CheckpointError(
            f"checkpoint {path}: {shown(name)} in its state dict is no tensor but one {type(value).__name__}"
        )
    dtype = _DTYPE_NAMES.get(str(value.dtype).removeprefix("torch."))
    if dtype is None or value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
        raise CheckpointError(
            f"checkpoint {path}: tensor {shown(name)} is a {value.layout} tensor of {value.dtype} on "
            f"{value.device.type}; gptwo reads plain ones of {', '.join(_DTYPE_NAMES)}"
        )
    # An expanded tensor repeats its elements without holding them, and so can claim any size.
    if value.nbytes > file_size:
        raise CheckpointError(
            f"checkpoint {path}: tensor {shown(name)} claims {value.nbytes} bytes, more than the file has"
        )
    return StoredTensor(name, path, dtype, _array(value, dtype))


def _array(tensor: torch.Tensor, dtype: str) -> Array:
    import torch

    plain = tensor.detach()
    if dtype == "BF16":
        plain = plain.view(torch.int16)
    elif dtype == "BOOL":
        plain = plain.view(torch.uint8)
    array: Array = plain.numpy().view(STORED_AS[dtype])
    array.setflags(write=False)
    return array


def _starts_as_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_ZIP)) == _ZIP
    except OSError as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read: {error}") from error


def _check_zip(path: Path) -> None:
    """torch.save never compresses: a compressed record could only be there to unpack to more than the file's size."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            compressed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
            pickles = [entry for entry in archive.infolist() if entry.filename.lower().endswith("data.pkl")]
            allocates = not compressed and any(_ALLOCATES in archive.read(entry) for entry in pickles)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"checkpoint {path}: a broken PyTorch file ({error})") from error
    if compressed:
        raise CheckpointError(
            f"checkpoint {path}: its record {shown(compressed[0])} is compressed, as torch.save never does"
        )
    if allocates:
        raise _asks_for(path, _ALLOCATES.decode())


def _check_old_container(path: Path) -> None:
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            if mapped.find(_ALLOCATES) >= 0:
                raise _asks_for(path, _ALLOCATES.decode())


def _asks_for(path: Path, name: str) -> UnsafeCheckpointError:
    return UnsafeCheckpointError(
        f"checkpoint {path}: refused, because its pickle asks for {name}, which is neither a tensor nor a plain value; "
        "convert it to safetensors where you trust it"
    )


def _refusal(path: Path, message: str, is_zip: bool) -> CheckpointError:
    asked = re.search(r"(?:GLOBAL|function|but got) (\S[^\n]{0,80}?)(?: was not| whose|$|\n)", message)
    if asked:
        return _asks_for(path, ascii(asked[1])[1:-1])
    reason = message.rpartition("WeightsUnpickler error:")[2].strip().split("\n")[0]
    if is_zip or _calls_code(path):
        return UnsafeCheckpointError(
            f"checkpoint {path}: refused, because its pickle holds what a state dict does not, or is damaged ({reason})"
        )
    return CheckpointError(f"checkpoint {path}: not a PyTorch file ({reason})")


def _calls_code(path: Path) -> bool:
    """Whether a file reads as a pickle that names code. The opcodes are listed, not followed."""
    import pickletools

    try:
        with path.open("rb") as file:
            return any(opcode.name in _CALLS for opcode, _, _ in pickletools.genops(file))
    except Exception:  # noqa: BLE001 - it is no pickle, in whatever way
        return False


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else "no reason given"
