"""The same weights as files for each engine: converted once, kept in a cache directory."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from gptwo.bench.peers.process import LONGEST_ANSWER, worker_command, worker_environment
from gptwo.bench.peers.table import OURS, Peer
from gptwo.checkpoint import Checkpoint, save_checkpoint
from gptwo.errors import BenchError

MODEL: Final = "model"
NUMBERED: Final = "numbered"


def default_cache() -> Path:
    """Where models for the peers are kept unless told otherwise."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "gptwo" / "bench"


class ModelFiles:
    """One model's files under a cache directory, made when they are first asked for."""

    def __init__(self, checkpoint: Checkpoint, cache: Path, threads: int) -> None:
        self.checkpoint = checkpoint
        self.threads = threads
        self.directory = cache / _fingerprint(checkpoint)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._fresh: set[Path] = set()  # ours are packed anew in every run: the layout may have changed

    @property
    def log(self) -> Path:
        """What conversions and workers write to their standard error."""
        return self.directory / "messages.log"

    def model(self) -> Path:
        """A transformers directory without a tokenizer, float32."""
        path = self.directory / MODEL
        if not path.exists():
            arrays = {name: tensor.float32() for name, tensor in self.checkpoint.tensors.items()}
            save_checkpoint(path, self.checkpoint.config, arrays, None)
        return path

    def numbered(self) -> Path:
        """The same with a tokenizer whose tokens are the numbers of their ids, for converters that insist on one."""
        path = self.directory / NUMBERED
        if not path.exists():
            temporary = path.with_name(f"{NUMBERED}.tmp")
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            for file in ("config.json", "model.safetensors"):
                (temporary / file).symlink_to(self.model().resolve() / file)
            last = str(self.checkpoint.config.vocab_size - 1)
            vocabulary = {str(i): i for i in range(self.checkpoint.config.vocab_size)}
            kind = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "0"}
            (temporary / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": kind}))
            names = {"eos_token": last, "bos_token": last, "unk_token": "0"}
            settings = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
            (temporary / "tokenizer_config.json").write_text(json.dumps(settings))
            temporary.rename(path)
        return path

    def converted(self, peer: Peer, weights: str, python: str) -> Path:
        """What the peer loads for this format. Raises BenchError, with the converter's last words, if there is none."""
        source = self.model() if peer.reads == MODEL or peer is OURS else self.numbered()
        if peer.reads == MODEL or (peer is OURS and weights == "f32"):
            return source
        path = self.directory / f"{peer.name}-{weights}"
        if path.exists() and (peer is not OURS or path in self._fresh):
            return path
        temporary = path.with_name(f"{path.name}.tmp")
        _remove(temporary)
        settings = {"convert": {"source": str(source), "target": str(temporary), "format": weights}}
        try:
            with self.log.open("ab") as log:
                done = subprocess.run(
                    worker_command(python, peer.name, settings),
                    stdout=subprocess.PIPE,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    env=worker_environment(self.threads),
                    timeout=LONGEST_ANSWER,
                    check=False,
                )
            if done.returncode != 0 or not temporary.exists():
                words = done.stdout.decode("utf-8", "replace").strip()[-300:]
                raise BenchError(
                    f"{peer.title} {weights}: not converted ({words or 'no reason given'}); see {self.log}"
                )
            _remove(path)
            temporary.rename(path)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BenchError(f"{peer.title} {weights}: not converted ({error})") from error
        finally:
            _remove(temporary)
        self._fresh.add(path)
        return path


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _fingerprint(checkpoint: Checkpoint) -> str:
    """A name for the directory that another model does not have."""
    digest = hashlib.sha256(json.dumps(checkpoint.config.to_dict(), sort_keys=True).encode())
    if checkpoint.format == "random":  # a shape and a seed say it all
        return f"{checkpoint.path.name}-{digest.hexdigest()[:12]}"
    for name, tensor in sorted(checkpoint.tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.raw.tobytes())
    return f"{checkpoint.path.name}-{digest.hexdigest()[:12]}"
