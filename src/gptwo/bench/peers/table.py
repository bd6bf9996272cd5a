"""Which engines gptwo is compared with, in which formats, and which Python has them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gptwo.errors import InvalidRequestError, nearest_name


@dataclass(frozen=True)
class Peer:
    """One engine; `worker/<name>_engine.py` drives it."""

    name: str
    title: str
    formats: Mapping[str, str]
    """Our name of a format to the peer's own."""
    needs: tuple[str, ...]
    """The modules that its Python must have, those of the conversion too."""
    reads: str = "model"
    """What it takes: `model`, the transformers directory, or a conversion of it, `directory` or `file`."""


OURS: Final = Peer(
    "gptwo", "gptwo", {"f32": "f32", "bf16": "bf16", "int8": "int8", "int4": "int4"}, ("gptwo",), "directory"
)

PEERS: Final[Mapping[str, Peer]] = {
    peer.name: peer
    for peer in (
        Peer("transformers", "transformers", {"f32": "f32", "bf16": "bf16"}, ("torch", "transformers", "safetensors")),
        Peer(
            "llama_cpp",
            "llama.cpp",
            {"f32": "f32", "bf16": "bf16", "int8": "Q8_0", "int4": "Q4_0"},
            ("llama_cpp", "gguf", "safetensors"),
            "file",
        ),
        Peer(
            "ctranslate2",
            "CTranslate2",
            {"f32": "f32", "int8": "int8"},
            ("ctranslate2", "torch", "transformers"),
            "directory",
        ),
        Peer(
            "openvino",
            "OpenVINO GenAI",
            {"f32": "f32", "bf16": "f16 weights", "int8": "int8", "int4": "int4"},
            ("openvino_genai", "optimum", "nncf"),
            "directory",
        ),
        Peer(
            "onnxruntime",
            "ONNX Runtime",
            {"f32": "f32", "int8": "dynamic int8"},
            ("onnxruntime", "onnx", "safetensors"),
            "file",
        ),
    )
}

EVERY: Final = "all"


def pythons(chosen: Sequence[str]) -> dict[str, str]:
    """For gptwo and each peer the interpreter to run it with: this one, unless NAME=PATH names another.

    all=PATH is for every peer that is not named; gptwo=PATH measures another build of gptwo than this one.

    Raises InvalidRequestError for what is not of that form, or names no peer.
    """
    paths: dict[str, str] = {}
    for text in chosen:
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise InvalidRequestError(f"peer-python {text[:60]!r} is not of the form NAME=PATH", param="peer_python")
        if name != EVERY and name not in (*PEERS, OURS.name):
            raise InvalidRequestError(
                f"peer-python {text[:60]!r} names no peer{nearest_name(name, [*PEERS, OURS.name, EVERY])}",
                param="peer_python",
            )
        paths[name] = path
    found = {name: paths.get(name, paths.get(EVERY, sys.executable)) for name in PEERS}
    return {OURS.name: paths.get(OURS.name, sys.executable), **found}


def missing(peer: Peer, python: str) -> str | None:
    """Why this interpreter cannot run the peer; None if it can."""
    script = (
        "import importlib.util as u, sys; print(' '.join(name for name in sys.argv[1:] if u.find_spec(name) is None))"
    )
    try:
        found = subprocess.run(
            [python, "-c", script, *peer.needs], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"its Python cannot be run ({type(error).__name__})"
    absent = found.stdout.split()
    return f"its Python lacks {', '.join(absent)}" if absent else None
