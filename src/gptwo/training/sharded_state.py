"""Tensors of several processes in one directory, with torch.distributed.checkpoint: each writes what it holds, and any
number of processes read it again, each what it is to hold.

What that library keeps beside the tensors is a pickle. Here it may name the few classes that describe tensors, and
nothing else: no code in a file is ever run.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import warnings
from pathlib import Path
from typing import IO, Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

METADATA = ".metadata"

_DESCRIBE_TENSORS = {
    ("torch.distributed.checkpoint.metadata", name)
    for name in (
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorStorageMetadata",
        "TensorProperties",
        "ChunkStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    )
} | {
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch", "float32"),
    ("torch", "float64"),
    ("torch", "bfloat16"),
    ("torch", "float16"),
    ("torch", "int64"),
    ("torch.serialization", "_get_layout"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib._local", "PosixPath"),
    ("pathlib._local", "WindowsPath"),
}


class _TensorsOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _DESCRIBE_TENSORS:
            raise pickle.UnpicklingError(f"{module}.{name} does not describe a tensor")
        return super().find_class(module, name)


class _Reader(FileSystemReader):
    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What the directory holds, read without running anything."""
        with (Path(self.path) / METADATA).open("rb") as file:
            metadata = _read_metadata(file)
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def write_shards(directory: Path, state: dict[str, Tensor], rank: int) -> list[Path]:
    """Write this process's part, synced to the disk; the files that are its own. All processes call it.

    Raises OSError, on all of them, if one cannot write.
    """
    writer = FileSystemWriter(directory, sync_files=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a single process, which is as good
        try:
            save(dict(state), storage_writer=writer, no_dist=not dist.is_initialized())
        except CheckpointException as failed:
            for error, _ in failed.failures.values():
                reason = error if isinstance(error, OSError) else error.__context__
                if isinstance(reason, OSError):
                    raise reason from failed
            raise RuntimeError(str(failed)) from failed
    own = sorted(directory.glob(f"__{rank}_*.distcp"))
    return [*own, directory / METADATA] if rank == 0 else own


def read_shards(directory: Path, into: dict[str, Tensor]) -> None:
    """Fill these tensors, each process its part. All processes call it. Raises RuntimeError if they do not fit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            load(into, storage_reader=_Reader(directory), no_dist=not dist.is_initialized())
        except CheckpointException as failed:
            raise RuntimeError(str(failed)) from failed


def read_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors, by name."""
    with (directory / METADATA).open("rb") as file:
        metadata = _read_metadata(file)
    return {name: tuple(one.size) for name, one in metadata.state_dict_metadata.items() if hasattr(one, "size")}


def _read_metadata(file: IO[bytes]) -> Metadata:
    content = file.read()
    for opcode, argument, _ in pickletools.genops(content):
        # The unpickler sets memory aside for as many values as the largest number that one is remembered under.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) >= len(content):
            raise pickle.UnpicklingError("it remembers more than it holds")
    metadata = _TensorsOnly(io.BytesIO(content)).load()
    if not isinstance(metadata, Metadata) or not all(
        isinstance(one, TensorStorageMetadata) for one in metadata.state_dict_metadata.values()
    ):
        raise pickle.UnpicklingError("it does not describe tensors")
    return metadata
