"""Downloading, against a local server that stands in for the hub.

The loads happen in three processes: one that reaches the server, one for which the network is down, and one in offline
mode. They share a cache, and every test has repositories of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import pty
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hub_stand_in import WORKER, Hub, Worker, commit_of, environment, make_handler, repository_files, sharded


@dataclass
class StandIn:
    hub: Hub
    endpoint: str
    home: Path


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(hub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield StandIn(hub, f"http://127.0.0.1:{server.server_port}", tmp_path_factory.mktemp("hub") / "home")
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def hub(stand_in: StandIn, request: pytest.FixtureRequest) -> Hub:
    """The stand-in, empty and well-behaved, with a name for a repository that no other test has used."""
    fresh = Hub(name=f"owner/{hashlib.sha1(request.node.name.encode()).hexdigest()[:12]}")
    vars(stand_in.hub).update(vars(fresh))
    return stand_in.hub


def worker(endpoint: str, home: Path, **env: str) -> Iterator[Worker]:
    started = Worker(endpoint, home, **env)
    yield started
    started.close()


@pytest.fixture(scope="module")
def online(stand_in: StandIn) -> Iterator[Worker]:
    yield from worker(stand_in.endpoint, stand_in.home)


@pytest.fixture(scope="module")
def forbidden(stand_in: StandIn) -> Iterator[Worker]:
    """One that is told not to use the network."""
    yield from worker(stand_in.endpoint, stand_in.home, HF_HUB_OFFLINE="1")


@pytest.fixture(scope="module")
def cut_off(stand_in: StandIn) -> Iterator[Worker]:
    """One whose network is down: at its address no one listens."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    port = server.server_port
    server.server_close()
    yield from worker(f"http://127.0.0.1:{port}", stand_in.home)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """The files of a repository as they are in the wild: every kind of weights, and more."""
    return repository_files(tmp_path, seed=0)


def test_a_download_takes_what_is_needed_once_and_later_needs_no_server(
    hub: Hub, files: dict[str, bytes], online: Worker, cut_off: Worker, forbidden: Worker
) -> None:
    hub.repositories["openai-community/gpt2"] = {"main": files}
    first = online.load("gpt2")
    wanted = ["config.json", "merges.txt", "model.safetensors", "tokenizer.json", "vocab.json"]
    assert first["files"] == wanted
    assert sorted(hub.downloads()) == wanted
    assert hub.downloads()[0] == "config.json"
    assert hub.downloads()[-1] == "model.safetensors"
    assert first["tokenizer"]
    assert first["path"].endswith(f"models--openai-community--gpt2/snapshots/{commit_of(files)}")
    size = sum(len(files[name]) for name in wanted)
    assert first["cached"]["openai-community/gpt2"] == [first["path"], size]

    hub.requests.clear()
    assert online.load("gpt2")["first"] == first["first"]
    assert hub.requests == ["GET /api/models/openai-community/gpt2/revision/main"]

    hub.requests.clear()
    for without_network in (cut_off, forbidden):
        again = without_network.load("gpt2")
        assert again["path"] == first["path"]
        assert again["seconds"] < 10
    assert hub.requests == []


def test_for_a_tokenizer_no_weights_are_fetched(
    hub: Hub, files: dict[str, bytes], tmp_path: Path, online: Worker, cut_off: Worker
) -> None:
    hub.repositories[hub.name] = {"main": files}
    tokenizer = ["config.json", "merges.txt", "tokenizer.json", "vocab.json"]
    assert online.load(hub.name, weights=False)["files"] == tokenizer
    assert sorted(hub.downloads()) == tokenizer
    assert cut_off.load(hub.name, weights=False)["files"] == tokenizer
    assert cut_off.load(hub.name)["error"] == "DownloadError"

    whole = online.load(hub.name)
    assert hub.downloads()[len(tokenizer) :] == ["model.safetensors"]

    hub.repositories[hub.name] = {"main": repository_files(tmp_path, seed=1)}
    newer = online.load(hub.name, weights=False)
    assert newer["path"] != whole["path"]
    assert cut_off.load(hub.name)["path"] == whole["path"]


def test_offline_and_not_cached_is_said_at_once(hub: Hub, cut_off: Worker, forbidden: Worker) -> None:
    for without_network, reason in ((cut_off, "check the network"), (forbidden, "HF_HUB_OFFLINE forbids")):
        answer = without_network.load("gpt2-medium")
        assert answer["error"] == "DownloadError"
        assert "'gpt2-medium' is no embedded model" in answer["message"]
        assert "no local path" in answer["message"]
        assert "repository openai-community/gpt2-medium (revision main)" in answer["message"]
        assert reason in answer["message"]
        assert answer["seconds"] < 10
    assert hub.requests == []


def test_a_revision_is_fetched_and_remembered(
    hub: Hub, files: dict[str, bytes], tmp_path: Path, online: Worker, cut_off: Worker
) -> None:
    older = repository_files(tmp_path, seed=1)
    hub.repositories[hub.name] = {"main": files, "v1": older}
    main, v1 = online.load(hub.name), online.load(hub.name, revision="v1")
    assert main["path"].endswith(commit_of(files))
    assert v1["path"].endswith(commit_of(older))
    assert main["first"] != v1["first"]
    for revision in ("v1", commit_of(older)):
        assert online.load(hub.name, revision=revision)["path"] == v1["path"]
        assert cut_off.load(hub.name, revision=revision)["path"] == v1["path"]
    missing = cut_off.load(hub.name, revision="v2")
    assert missing["error"] == "DownloadError"
    assert "(revision v2)" in missing["message"]
    missing = online.load(hub.name, revision="v2")
    assert missing["error"] == "ModelNotFoundError"
    assert missing["message"] == f"repository {hub.name} on the hub has no revision 'v2'"


def test_a_branch_that_moved_is_followed(
    hub: Hub, files: dict[str, bytes], tmp_path: Path, online: Worker, cut_off: Worker
) -> None:
    hub.repositories[hub.name] = {"main": files}
    online.load(hub.name)
    newer = repository_files(tmp_path, seed=1)
    hub.repositories[hub.name] = {"main": newer}
    moved = online.load(hub.name)
    assert moved["path"].endswith(commit_of(newer))
    assert moved["cached"][hub.name][0] == moved["path"]
    assert cut_off.load(hub.name)["path"] == moved["path"]


def test_what_is_nowhere_names_all_the_places_where_it_was_looked_for(hub: Hub, online: Worker) -> None:
    hub.refusals["no/token"] = (401, "RepoNotFound")
    for name in ("no/where", "no/token", "shakespear"):
        answer = online.load(name)
        assert answer["error"] == "ModelNotFoundError"
        assert answer["message"].startswith(f"'{name}' is no embedded model (")
        assert f"no local path, and the hub has no repository '{name}'; if it is a private one" in answer["message"]


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "GatedRepo", "is gated: ask for access on its page on the hub, then log in"),
        (401, "GatedRepo", "is gated: ask for access on its page on the hub, then log in"),
        (403, "", "(status 403); check HF_TOKEN and HF_ENDPOINT"),
        (404, "", "(status 404); check HF_TOKEN and HF_ENDPOINT"),
        (503, "", "(status 503); try again later"),
    ],
)
def test_a_refusal_is_called_what_it_is_and_what_is_cached_still_works(
    hub: Hub, files: dict[str, bytes], online: Worker, status: int, code: str, message: str
) -> None:
    hub.repositories[hub.name] = {"main": files}
    hub.refusals[hub.name] = (status, code)
    answer = online.load(hub.name)
    assert answer["error"] == "DownloadError"
    assert f"repository {hub.name} " in answer["message"]
    assert message in answer["message"]
    hub.refusals.clear()
    path = online.load(hub.name)["path"]
    hub.refusals[hub.name] = (status, code)
    assert online.load(hub.name)["path"] == path


@pytest.mark.parametrize("page", [b"<html>log in</html>", b"{}", b"[]"])
def test_a_network_that_answers_with_a_login_page_is_an_error(hub: Hub, online: Worker, page: bytes) -> None:
    hub.answer_with = page
    answer = online.load(hub.name)
    assert answer["error"] == "DownloadError"
    assert hub.name in answer["message"]


def test_a_repository_without_a_gpt2_is_refused_before_anything_is_fetched(hub: Hub, online: Worker) -> None:
    hub.repositories["a/b"] = {"main": {"README.md": b"", "model.gguf": b""}}
    hub.repositories["a/c"] = {"main": {"config.json": b"{}", "tf_model.h5": b"", "flax_model.msgpack": b""}}
    for name, lacks in (("a/b", "lacks config.json"), ("a/c", "lacks every one of model.safetensors, ")):
        answer = online.load(name)
        assert answer["error"] == "CheckpointError"
        assert f"repository {name} on the hub holds no GPT-2 that gptwo reads: it {lacks}" in answer["message"]
    assert hub.downloads() == []


def test_another_kind_of_model_is_refused_before_its_weights_are_fetched(
    hub: Hub, files: dict[str, bytes], online: Worker
) -> None:
    hub.repositories[hub.name] = {"main": {**files, "config.json": b'{"model_type": "llama"}'}}
    answer = online.load(hub.name)
    assert answer["error"] == "ConfigError"
    assert answer["message"].startswith(f"repository {hub.name} on the hub: ")
    assert "model_type is 'llama'" in answer["message"]
    assert hub.downloads() == ["config.json"]
    assert hub.name not in answer["cached"]


def test_the_list_of_what_is_cached_has_gpt2s_only_and_survives_anything_else_there(
    hub: Hub, files: dict[str, bytes], online: Worker
) -> None:
    hub.repositories[hub.name] = {"main": files}
    snapshot = Path(online.load(hub.name)["path"])
    cache = snapshot.parents[2]
    for name, config in (
        ("models--a--b--c", b"{}"),
        ("models--llama--x", b'{"model_type": "llama"}'),
        ("models--", b""),
    ):
        strange = cache / name / "snapshots" / "0"
        strange.mkdir(parents=True)
        (strange / "config.json").write_bytes(config)
        (strange / "model.safetensors").write_bytes(b"")
        (cache / name / "refs").mkdir()
        (cache / name / "refs" / "main").write_text("0")
    cached = online.load(hub.name)["cached"]
    assert cached[hub.name][0] == str(snapshot)
    assert not {"a/b/c", "llama/x", ""} & cached.keys()


def test_a_sharded_repository_is_fetched_whole(
    hub: Hub, files: dict[str, bytes], tmp_path: Path, online: Worker, cut_off: Worker
) -> None:
    hub.repositories[hub.name] = {"main": sharded(files, tmp_path)}
    answer = online.load(hub.name)
    assert [name for name in hub.downloads() if name.startswith("model")] == [
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert cut_off.load(hub.name)["path"] == answer["path"]
    Path(answer["path"], "model-00002-of-00002.safetensors").unlink()
    incomplete = cut_off.load(hub.name)
    assert incomplete["error"] == "DownloadError"
    assert hub.name not in incomplete["cached"]
    assert online.load(hub.name)["path"] == answer["path"]


def test_a_shard_that_the_repository_lacks_is_named(
    hub: Hub, files: dict[str, bytes], tmp_path: Path, online: Worker
) -> None:
    listed = sharded(files, tmp_path)
    del listed["model-00002-of-00002.safetensors"]
    hub.repositories[hub.name] = {"main": listed}
    answer = online.load(hub.name)
    assert answer["error"] == "CheckpointError"
    assert "lacks model-00002-of-00002.safetensors, which model.safetensors.index.json lists" in answer["message"]


def test_a_pickle_is_fetched_where_there_is_nothing_safer(hub: Hub, files: dict[str, bytes], online: Worker) -> None:
    hub.repositories[hub.name] = {"main": {name: files[name] for name in ("config.json", "pytorch_model.bin")}}
    answer = online.load(hub.name)
    assert hub.downloads() == ["config.json", "pytorch_model.bin"]
    assert answer["error"] == "CheckpointError"  # what it holds is no pickle
    assert "pytorch_model.bin: not a PyTorch file" in answer["message"]


def test_an_interrupted_download_leaves_no_half_file_and_goes_well_the_next_time(
    hub: Hub, files: dict[str, bytes], tmp_path: Path, online: Worker, cut_off: Worker
) -> None:
    hub.repositories[hub.name] = {"main": files}
    hub.cut_after = 2000
    broken = online.load(hub.name, impatient=True)
    assert broken["error"] == "DownloadError"
    assert "could it be downloaded" in broken["message"]
    assert "check the network" in broken["message"]
    cache = online.home / "hub" / f"models--{hub.name.replace('/', '--')}"
    assert "config.json" in [path.name for path in cache.rglob("snapshots/*/*")]
    assert "model.safetensors" not in [path.name for path in cache.rglob("snapshots/*/*")]
    assert hub.name not in broken["cached"]

    hub.cut_after = None
    whole = online.load(hub.name)
    assert Path(whole["path"], "model.safetensors").read_bytes() == files["model.safetensors"]

    hub.repositories[hub.name] = {"main": repository_files(tmp_path, seed=1)}
    hub.cut_after = 2000
    assert online.load(hub.name, impatient=True)["error"] == "DownloadError"
    assert cut_off.load(hub.name)["path"] == whole["path"]


def test_a_cache_that_cannot_be_written_is_an_error(
    hub: Hub, files: dict[str, bytes], stand_in: StandIn, tmp_path: Path
) -> None:
    hub.repositories[hub.name] = {"main": files}
    (tmp_path / "home").write_text("a file where the cache should be")
    elsewhere = Worker(stand_in.endpoint, tmp_path / "home")
    answer = elsewhere.load(hub.name)
    elsewhere.close()
    assert answer["error"] == "DownloadError"
    assert "could it be downloaded" in answer["message"]


def test_a_bar_is_shown_when_asked_for_and_only_on_a_terminal(
    hub: Hub, files: dict[str, bytes], stand_in: StandIn, online: Worker, tmp_path: Path
) -> None:
    for name in ("bar/a", "bar/b", "bar/c"):
        hub.repositories[name] = {"main": files}
    assert "path" in online.load("bar/a", progress=True)  # its standard error is a file, and stays empty
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    for name, progress in (("bar/b", False), ("bar/c", True)):
        subprocess.run(
            [sys.executable, "-c", WORKER],
            input=json.dumps({"name_or_path": name, "progress": progress}),
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            env=environment(stand_in.endpoint, tmp_path / "home"),
            check=True,
        )
        os.write(theirs, b"END")
        shown = b""
        while not shown.endswith(b"END"):
            shown += os.read(ours, 65536)
        assert shown.count(b"100%") == (5 if progress else 0)
        assert progress or shown == b"END"
    os.close(ours)
    os.close(theirs)
