"""examples/ray_serve.py on a small Ray cluster of this machine."""

from __future__ import annotations

import http.client
import importlib.util
import json
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import gptwo

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "ray_serve.py"
SECONDS = 120

pytestmark = [
    pytest.mark.slow,  # Ray alone takes half a minute to start
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]


@pytest.fixture(scope="module")
def port(tiny_checkpoint: Path) -> Iterator[int]:
    """Where two replicas of the example listen."""
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'ray[serve]'")
    serve = pytest.importorskip("ray.serve", reason="needs Ray Serve: pip install 'ray[serve]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = int(probe.getsockname()[1])
    ray.init(num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False, log_to_driver=False)
    try:
        spec = importlib.util.spec_from_file_location("ray_serve_example", EXAMPLE)
        assert spec is not None
        assert spec.loader is not None
        example = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = example
        spec.loader.exec_module(example)
        ray.cloudpickle.register_pickle_by_value(example)  # the replicas cannot import a file that is in no package
        serve.start(http_options={"host": "127.0.0.1", "port": free})
        serve.run(example.app({"model": str(tiny_checkpoint), "replicas": "2", "max_queue": "7"}))
        yield free
        serve.shutdown()
    finally:
        ray.shutdown()


def ask(port: int, method: str, path: str, body: Any = None) -> tuple[int, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)) as connection:
        connection.request(
            method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"}
        )
        with connection.getresponse() as response:
            return response.status, response.read().decode()


def test_replicas_answer_as_the_server_does(port: int, tiny_checkpoint: Path) -> None:
    body = {"prompt": "hear me", "max_tokens": 6, "seed": 3}
    with gptwo.load(tiny_checkpoint) as model:
        alone = model.generate("hear me", gptwo.SamplingParams(max_tokens=6, seed=3)).text
    for _ in range(4):
        status, answer = ask(port, "POST", "/v1/completions", body)
        assert status == 200
        assert json.loads(answer)["choices"][0]["text"] == alone
    status, answer = ask(port, "POST", "/v1/completions", {**body, "stream": True})
    events = [line.removeprefix("data: ") for line in answer.splitlines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    assert "".join(choice["text"] for event in events for choice in json.loads(event)["choices"]) == alone


def test_the_rest_of_the_server_is_there_too(port: int) -> None:
    assert ask(port, "GET", "/health")[0] == 200
    assert ask(port, "GET", "/v1/models")[0] == 200
    assert ask(port, "GET", "/")[0] in (200, 404)  # the playground, if it is built in
    status, answer = ask(port, "POST", "/v1/completions", {"prompt": "a", "n": 10**6})
    assert status == 400
    assert set(json.loads(answer)["error"]) == {"message", "type", "param", "code"}
