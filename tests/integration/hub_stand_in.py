"""A local server that stands in for the hub, and the processes that load from it.

huggingface_hub reads its environment when it is imported, so every way of reaching the hub is a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from numpy.random import default_rng

from gptwo.checkpoint import save_checkpoint
from gptwo.checkpoint.canonical import expected_shapes
from gptwo.checkpoint.safetensors_file import write_safetensors
from gptwo.config import GPTConfig

CONFIG = GPTConfig(vocab_size=11, n_positions=6, n_embd=4, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)

WORKER = """
import json, sys, time
from gptwo.checkpoint import cached_models, load_checkpoint, resolve
sleep = time.sleep
for line in sys.stdin:
    arguments, answer = json.loads(line), {}
    # huggingface_hub tries a broken download five times, a second apart.
    time.sleep = (lambda seconds: None) if arguments.pop("impatient", False) else sleep
    start = time.perf_counter()
    try:
        if arguments.get("weights") is False:
            path = resolve(**arguments)
        else:
            checkpoint = load_checkpoint(**arguments)
            path = checkpoint.path
        answer["path"] = str(path)
        answer["files"] = sorted(file.name for file in path.iterdir())
        if arguments.get("weights") is not False:
            answer["first"] = float(checkpoint.tensors["wte.weight"].float32()[0, 0])
            answer["tokenizer"] = checkpoint.tokenizer_path is not None
    except Exception as error:
        answer["error"], answer["message"] = type(error).__name__, str(error)
    answer["seconds"] = time.perf_counter() - start
    answer["cached"] = {model.name: [str(model.path), model.size] for model in cached_models()}
    print(json.dumps(answer), flush=True)
"""


@dataclass
class Hub:
    """What the stand-in serves: repositories as {revision: {file name: content}}, and how it misbehaves."""

    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Repositories that are answered with a status and an error code."""
    answer_with: bytes | None = None
    """What every request gets instead, as from the login page of a network."""
    cut_after: int | None = None
    """Bytes of a large file after which the server goes away for good."""
    requests: list[str] = field(default_factory=list)
    name: str = ""
    """A repository of the test's own."""

    def downloads(self) -> list[str]:
        """The names of the files that were fetched."""
        return [line.rpartition("/")[2] for line in self.requests if line.startswith("GET") and "/resolve/" in line]


def commit_of(files: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


def make_handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def refuse(self, status: int, code: str) -> None:
            self.reply(status, X_Error_Code=code, X_Error_Message=code)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            if self.path == "/api/agent-harnesses":  # huggingface_hub's own, once a day
                self.refuse(404, "")
                return
            hub.requests.append(f"{self.command} {self.path}")
            if hub.cut_after is not None and hub.cut_after < 0:
                self.close_connection = True
                return
            if hub.answer_with is not None:
                self.reply(200, hub.answer_with)
                return
            path = self.path.lstrip("/")
            api = path.startswith("api/models/")
            name, _, rest = path.removeprefix("api/models/").partition("/revision/" if api else "/resolve/")
            revision, _, file = rest.partition("/")
            if name in hub.refusals:
                self.refuse(*hub.refusals[name])
                return
            if name not in hub.repositories:
                self.refuse(404, "RepoNotFound")
                return
            by_commit = {commit_of(files): files for files in hub.repositories[name].values()}
            files = hub.repositories[name].get(revision) or by_commit.get(revision)
            if files is None:
                self.refuse(404, "RevisionNotFound")
                return
            commit = commit_of(files)
            if api:
                listing = [{"rfilename": other} for other in files]
                self.reply(200, json.dumps({"id": name, "sha": commit, "siblings": listing}).encode())
            elif file not in files:
                self.refuse(404, "EntryNotFound")
            else:
                self.send_file(files[file], commit)

        def send_file(self, content: bytes, commit: str) -> None:
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X_Repo_Commit": commit}
            if self.command == "GET" and hub.cut_after is not None and len(content) > hub.cut_after:
                self.reply(200, **{**headers, "Content-Length": str(len(content))})
                self.wfile.write(content[: hub.cut_after])
                self.close_connection = True
                hub.cut_after = -1
            else:
                self.reply(200, content, **headers)

    return Handler


class Worker:
    """A process that loads what it is told to, with nothing on its standard error."""

    def __init__(self, endpoint: str, home: Path, **env: str) -> None:
        self.home = home
        self.log = home.with_suffix(f".{len(env)}.{endpoint.rpartition(':')[2]}.log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment(endpoint, home) | env,
                cwd=home.parent,
            )

    def load(self, name: str, **options: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"name_or_path": name, **options}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert self.log.read_bytes() == b""
        assert "\n" not in answer.get("message", "")
        return answer

    def close(self) -> None:
        self.process.communicate()


def environment(endpoint: str, home: Path) -> dict[str, str]:
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HF_") and not name.lower().endswith("_proxy")
    }
    return {**own, "HF_ENDPOINT": endpoint, "HF_HOME": str(home)}


def repository_files(tmp_path: Path, seed: int) -> dict[str, bytes]:
    generator = default_rng(seed)
    arrays = {name: generator.standard_normal(shape, "f4") for name, shape in expected_shapes(CONFIG)}
    save_checkpoint(tmp_path / f"made{seed}", CONFIG, arrays, None)
    own = {path.name: path.read_bytes() for path in (tmp_path / f"made{seed}").iterdir()}
    others = ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "onnx/model.onnx", "README.md")
    tokenizer = {name: name.encode() for name in ("tokenizer.json", "merges.txt", "vocab.json")}
    return own | tokenizer | dict.fromkeys(others, b"unwanted")


def sharded(files: dict[str, bytes], tmp_path: Path) -> dict[str, bytes]:
    """The same repository with its weights in two files and an index."""
    arrays = {name: default_rng(0).standard_normal(shape, "f4") for name, shape in expected_shapes(CONFIG)}
    names = list(arrays)
    shards = {}
    weight_map = {}
    for number, part in ((1, names[:9]), (2, names[9:])):
        shard = f"model-0000{number}-of-00002.safetensors"
        write_safetensors(tmp_path / shard, {name: arrays[name] for name in part}, "F32")
        shards[shard] = (tmp_path / shard).read_bytes()
        weight_map |= dict.fromkeys(part, shard)
    rest = {name: content for name, content in files.items() if name != "model.safetensors"}
    return {**rest, **shards, "model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode()}
