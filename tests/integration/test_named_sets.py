"""Sets that are fetched by name, from servers on this machine that stand in for theirs."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import environment

import gptwo.training.named_sets as module
from gptwo.errors import DataError, DownloadError
from gptwo.training.named_sets import NAMED_SETS, files_of
from gptwo.training.prepare import prepare

pa = pytest.importorskip("pyarrow", reason="needs the extra batch")
pq = pytest.importorskip("pyarrow.parquet", reason="needs the extra batch")

SECONDS = 120
TEXT = b"First Citizen:\nBefore we proceed any further, hear me speak.\n" * 50


def parquet(*texts: str) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": list(texts), "id": [str(n) for n in range(len(texts))]}), out)
    return out.getvalue()


STORIES = {
    "README.md": b"stories",
    "data/train-00000-of-00002-ab.parquet": parquet("one", "two", "three"),
    "data/train-00001-of-00002-cd.parquet": parquet("four"),
    "data/validation-00000-of-00001-ef.parquet": parquet("five"),
}
TRAIN = sorted(name for name in STORIES if "train" in name)
VAL = [name for name in STORIES if "validation" in name]


class Server:
    """A server that holds files by path, and how it misbehaves."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.status = 200
        self.cut = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10  # for a client that keeps its connection and says no more

            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/api/agent-harnesses":  # huggingface_hub's own, once a day
                    self.answer(404, b"")
                    return
                server.requests.append(f"{self.command} {path}")
                if server.status != 200:
                    self.answer(server.status, b"")
                elif path.startswith("/api/datasets/"):
                    siblings = [{"rfilename": n, "size": len(c), "blobId": "0"} for n, c in server.files.items()]
                    name = path.removeprefix("/api/datasets/").partition("/revision/")[0]
                    self.answer(200, json.dumps({"id": name, "sha": "c" * 40, "siblings": siblings}).encode())
                else:
                    name = path.partition(f"/resolve/{'c' * 40}/")[2] or path.lstrip("/")
                    if name in server.files:
                        self.answer(200, server.files[name], whole=False)
                    else:
                        self.answer(404, b"")

            def answer(self, status: int, body: bytes, *, whole: bool = True) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
                self.send_header("X-Repo-Commit", "c" * 40)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body if whole or not server.cut else body[: -server.cut])
                    self.close_connection = self.close_connection or bool(server.cut)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = False  # so that closing waits for them
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPTWO_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


# ---- by address


@pytest.fixture
def shakespeare(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    server.files["input.txt"] = TEXT
    known = dataclasses.replace(
        NAMED_SETS["tinyshakespeare"], url=f"{server.address}/input.txt", sha256=hashlib.sha256(TEXT).hexdigest()
    )
    monkeypatch.setitem(NAMED_SETS, "tinyshakespeare", known)
    return cache / "tinyshakespeare" / "input.txt"


def test_a_file_is_fetched_once(shakespeare: Path, server: Server) -> None:
    told: list[str] = []
    for _ in range(2):
        train, val = files_of("tinyshakespeare", told.append)
        assert [(file.name, file.size) for file in train] == [("input.txt", len(TEXT))]
        assert val == []
        assert train[0].fetch() == shakespeare
    assert shakespeare.read_bytes() == TEXT
    assert server.requests == ["GET /input.txt"]
    assert told == [f"tinyshakespeare: fetching {server.address}/input.txt"]


def test_tinyshakespeare_is_prepared_by_name(shakespeare: Path, tmp_path: Path) -> None:
    made = prepare(["tinyshakespeare"], tmp_path / "data", tokenizer="char")
    assert (made.train.characters, made.val.characters) == (len(TEXT) * 9 // 10, len(TEXT) // 10)
    assert (made.texts, made.documents) == (("tinyshakespeare",), (1, 1))


@pytest.mark.parametrize("trouble", ["cut", "status", "other"])
def test_half_a_file_is_never_kept(trouble: str, shakespeare: Path, server: Server) -> None:
    if trouble == "cut":
        server.cut = 10
    elif trouble == "status":
        server.status = 503
    else:
        server.files["input.txt"] = b"<html>log in</html>"
    with pytest.raises(DownloadError, match="tinyshakespeare: cannot be fetched ") as caught:
        files_of("tinyshakespeare")
    assert f"put {server.address}/input.txt at {shakespeare} and give the same command again" in str(caught.value)
    assert list(shakespeare.parent.iterdir()) == []
    server.cut, server.status, server.files["input.txt"] = 0, 200, TEXT
    assert files_of("tinyshakespeare")[0][0].fetch().read_bytes() == TEXT


def test_a_file_that_was_put_there_needs_no_network(shakespeare: Path, server: Server) -> None:
    server.close()
    with pytest.raises(DownloadError, match="cannot be fetched"):
        files_of("tinyshakespeare")
    shakespeare.parent.mkdir(parents=True, exist_ok=True)
    shakespeare.write_bytes(b"another text")
    assert files_of("tinyshakespeare")[0][0].fetch().read_bytes() == b"another text"


def test_the_cache_is_the_users_own_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTWO_CACHE", "/data")
    assert module.directory_of("x") == Path("/data/x")
    monkeypatch.delenv("GPTWO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert module.directory_of("x") == Path("/caches/gptwo/x")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/one")
    assert module.directory_of("x") == Path("/home/one/.cache/gptwo/x")


# ---- from the hub, in processes of their own: huggingface_hub reads its environment when it is imported

PROGRAM = """
import json, sys, time
from gptwo.training.named_sets import files_of
time.sleep = lambda seconds: None  # huggingface_hub tries a broken download again and again
answer = {"told": []}
try:
    train, val = files_of(sys.argv[1], answer["told"].append)
    answer["sizes"] = [file.size for file in train]
    answer["train"], answer["val"] = [[str(file.fetch()) for file in part] for part in (train, val)]
except Exception as error:
    answer["error"], answer["message"] = type(error).__name__, str(error)
print(json.dumps(answer))
"""


def fetch(server: Server, cache: Path, name: str = "tinystories", **env: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, name],
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        env={**environment(server.address, cache.parent / "home"), "GPTWO_CACHE": str(cache), **env},
        check=False,
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_a_set_is_fetched_from_the_hub_once(server: Server, cache: Path) -> None:
    server.files = dict(STORIES)
    answer = fetch(server, cache)
    directory = cache / "tinystories"
    assert answer["train"] == [str(directory / name) for name in TRAIN]
    assert answer["val"] == [str(directory / name) for name in VAL]
    assert answer["sizes"] == [len(STORIES[name]) for name in TRAIN]
    assert answer["told"] == [f"tinystories: 3 files (0.0 GB) will be fetched to {directory}, each when its turn comes"]
    for name in (*TRAIN, *VAL):
        assert (directory / name).read_bytes() == STORIES[name]
    assert not (directory / "README.md").exists()
    asked = len(server.requests)
    server.close()
    again = fetch(server, cache)
    assert (again["train"], again["told"]) == (answer["train"], [])
    assert len(server.requests) == asked


def test_a_file_that_could_not_be_fetched_is_named_with_its_place(server: Server, cache: Path) -> None:
    server.files = dict(STORIES)
    fetch(server, cache)
    missing = cache / "tinystories" / TRAIN[1]
    missing.unlink()
    server.close()
    answer = fetch(server, cache)
    assert answer["error"] == "DownloadError"
    address = f"https://huggingface.co/datasets/roneneldan/TinyStories/resolve/{'c' * 40}/{TRAIN[1]}"
    assert answer["message"].startswith("tinystories: cannot be fetched (")
    assert answer["message"].endswith(f"put {address} at {missing} and give the same command again")
    missing.write_bytes(STORIES[TRAIN[1]])
    assert "error" not in fetch(server, cache)


@pytest.mark.parametrize("name", ["tinystories", "openwebtext", "fineweb-edu"])
def test_without_a_network_the_error_says_which_files_to_put_where(name: str, server: Server, cache: Path) -> None:
    server.close()
    answer = fetch(server, cache, name)
    known = NAMED_SETS[name]
    assert answer["error"] == "DownloadError"
    patterns = " and ".join(filter(None, [known.train, known.val]))
    what = f"put {patterns} of https://huggingface.co/datasets/{known.repository}, under these paths,"
    assert f"{what} at {cache / name} and give the same command again" in answer["message"]
    assert "\n" not in answer["message"]
    file = cache / name / known.train.replace("*", "00000")
    file.parent.mkdir(parents=True)
    file.write_bytes(parquet("mine"))
    assert fetch(server, cache, name, HF_HUB_OFFLINE="1")["train"] == [str(file)]


@pytest.mark.parametrize("trouble", ["status", "empty"])
def test_a_hub_that_has_no_such_files_is_told_of(trouble: str, server: Server, cache: Path) -> None:
    server.files = {"README.md": b"moved"}
    server.status = 404 if trouble == "status" else 200
    answer = fetch(server, cache)
    assert answer["error"] == "DownloadError"
    assert "of https://huggingface.co/datasets/roneneldan/TinyStories, under" in answer["message"]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"revision": 1, "files": 5}', b"\xff"])
def test_a_broken_listing_is_an_error_that_names_it(content: bytes, cache: Path) -> None:
    (cache / "tinystories").mkdir(parents=True)
    (cache / "tinystories" / "files.json").write_bytes(content)
    with pytest.raises(DataError, match=r"files\.json: is broken; delete it"):
        files_of("tinystories")


def test_a_set_brings_its_own_texts_to_validate(cache: Path, tmp_path: Path) -> None:
    for name in (*TRAIN, *VAL):
        (cache / "tinystories" / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / "tinystories" / name).write_bytes(STORIES[name])
    sizes = {name: len(STORIES[name]) for name in (*TRAIN, *VAL)}
    (cache / "tinystories" / "files.json").write_text(json.dumps({"revision": "c" * 40, "files": sizes}))
    made = prepare(["tinystories"], tmp_path / "own", tokenizer="bpe:300")
    end = made.tokenizer.end_of_text_id
    assert made.tokenizer.decode(made.val.window(0, 99).tolist()) == "five"
    assert made.tokenizer.decode(made.train.window(0, 99).tolist()) == "<|endoftext|>".join(
        ["one", "two", "three", "four"]
    )
    assert made.documents == (4, 1)
    assert made.train.window(0, 99).tolist().count(end) == 3
    split = prepare(["tinystories"], tmp_path / "split", tokenizer="bpe:300", val_fraction=0.25)
    assert split.documents == (3, 1)
