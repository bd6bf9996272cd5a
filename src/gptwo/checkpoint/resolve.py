"""From a name to a path: an embedded model, a local path, or a repository on the hub, in this order."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import gptwo.embedded
from gptwo.checkpoint.transformers_format import CONFIG
from gptwo.config import PUBLISHED_MODELS
from gptwo.errors import InvalidRequestError, ModelNotFoundError, nearest_name

_PATH_SUFFIXES: Final = (".safetensors", ".bin", ".pt", ".pth", ".json", ".gguf", ".onnx", ".ckpt")
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)


@dataclass(frozen=True)
class FoundModel:
    """A model that can be loaded without a download."""

    name: str
    """What `gptwo.load` takes."""
    path: Path
    size: int
    """Of all its files, in bytes."""


def resolve(
    name_or_path: str | Path, *, revision: str | None = None, progress: bool = False, weights: bool = True
) -> Path:
    """The path of a checkpoint, downloaded first if it is on the hub.

    name_or_path: the name of an embedded model, a file or directory, or a repository on the hub (`owner/name`, or
    the short name of a published model); a Path is only ever a path. revision: a branch, tag or commit on the hub.
    progress: show a bar while downloading, if standard error is a terminal. weights: without them, only what its
    tokenizer needs is downloaded.

    Raises ModelNotFoundError if there is no such thing, DownloadError if the hub cannot say or deliver,
    InvalidRequestError for a revision of something that is not on the hub.
    """
    path = find_here(name_or_path)
    name = str(name_or_path)
    if path is not None:
        if revision is not None:
            raise InvalidRequestError(f"revision is for models on the hub, and {name!r} is here: {path}", "revision")
        return path

    from gptwo.checkpoint import hub  # takes a moment, and most loads need no hub

    repository = next((model.repository for model in PUBLISHED_MODELS if model.name == name), name)
    return hub.download(repository, revision=revision, progress=progress, otherwise=not_here(name), weights=weights)


def find_here(name_or_path: str | Path) -> Path | None:
    """The path of a checkpoint on this machine, or None for a name that only the hub can know.

    Raises ModelNotFoundError for what can be neither.
    """
    name = str(name_or_path)
    is_name = isinstance(name_or_path, str)
    path = _embedded(name) if is_name else None
    if path is None and name and os.path.exists(os.path.expanduser(name)):
        path = Path(os.path.expanduser(name))
    if path is not None:
        return path
    if not is_name or _looks_like_a_path(name):
        raise ModelNotFoundError(f"no such file or directory: {name!r}")
    if not _REPOSITORY.fullmatch(name):
        raise ModelNotFoundError(f"{not_here(name)}, nor can a repository on the hub be called so")
    return None


def not_here(name: str) -> str:
    """The first half of the sentence that says where a name was looked for."""
    embedded = [model.name for model in embedded_models()]
    known = [*embedded, *(model.name for model in PUBLISHED_MODELS)]
    near = "" if name in known else nearest_name(name, known).removeprefix("; ")
    those = near if near.startswith("did") else ", ".join(embedded) or "there are none"
    return f"{name!r} is no embedded model ({those}) and no local path"


def embedded_models() -> list[FoundModel]:
    """The models that are part of the installed package, by name."""
    found = [FoundModel(path.name, path, size_of(path)) for path in _embedded_root().iterdir() if _is_model(path)]
    return sorted(found, key=lambda model: model.name)


def size_of(directory: Path) -> int:
    """The bytes of all the files in a directory, links followed."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _embedded_root() -> Path:
    return Path(gptwo.embedded.__path__[0])


def _embedded(name: str) -> Path | None:
    """The embedded model of exactly this name; a name with a separator or a leading dot is never one."""
    path = _embedded_root() / name
    return path if re.fullmatch(r"[A-Za-z0-9][\w-]*", name, re.ASCII) and _is_model(path) else None


def _is_model(path: Path) -> bool:
    return os.path.isfile(path / CONFIG)  # false, where pathlib raises, for a name that no file can have


def _looks_like_a_path(name: str) -> bool:
    separators = name.count("/") + name.count("\\")
    return (
        not name
        or name.startswith((".", "~", "/", "\\"))
        or name.lower().endswith(_PATH_SUFFIXES)
        or "\\" in name
        or separators > 1
        or name.endswith("/")
    )
