"""The server's app for tests: in this process, over the toy decoder, asked from ordinary functions."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from tiny_models import TOKENIZER, ToyDecoder

from gptwo.loading import OpenModel
from gptwo.server.app import create_app
from gptwo.server.log import configure_logging
from gptwo.server.service import Service
from gptwo.server.settings import ServerSettings

SECONDS = 60  # for what takes an instant when nothing else runs


class GatedDecoder(ToyDecoder):
    """A toy decoder whose steps wait until the gate is open."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.gate = threading.Event()
        self.entered = threading.Event()
        """A step has begun."""

    def forward(self, *arrays: Any) -> Any:
        self.entered.set()
        assert self.gate.wait(SECONDS)
        return super().forward(*arrays)


def toy_model(decoder: Any = None, *, tokenizer: Any = TOKENIZER) -> OpenModel:
    """A model of 64 positions whose logits depend on all that it has read."""
    return OpenModel("toy", ToyDecoder() if decoder is None else decoder, tokenizer)


class App:
    """An app that runs on a thread with an event loop of its own."""

    def __init__(self, settings: ServerSettings, model: OpenModel | None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.app = create_app(settings, model=model)
        self.service: Service = self.app.state.service
        self._lifespan = self.app.router.lifespan_context(self.app)
        self.run(self._lifespan.__aenter__())
        transport = httpx2.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx2.AsyncClient(transport=transport, base_url="http://test", timeout=SECONDS)

    def close(self) -> None:
        """Stop the app and its thread."""
        self.run(self.client.aclose())
        self.run(self._lifespan.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the app's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SECONDS)

    def start(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Begin a coroutine on the app's loop; its future."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Send one request."""
        response = self.run(self.client.request(method, path, **options))
        if "content-length" in response.headers and method != "HEAD":
            assert response.headers.get_list("content-length") == [str(len(response.content))]
        return response

    def get(self, path: str, **options: Any) -> httpx2.Response:
        """Send a GET."""
        return self.request("GET", path, **options)

    def post(self, path: str, body: Any, **options: Any) -> httpx2.Response:
        """Send JSON, or bytes as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **options.pop("headers", {})}
        return self.request("POST", path, content=content, headers=headers, **options)

    def complete(self, **body: Any) -> Any:
        """The answer of /v1/completions, which must be there."""
        response = self.post("/v1/completions", body)
        assert response.status_code == 200, response.text
        return response.json()

    def stream(self, **body: Any) -> list[Any]:
        """The events of a streamed completion; the last must be [DONE], which is left out."""
        response = self.post("/v1/completions", {**body, "stream": True})
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        events = events_of(response.text)
        assert events.pop() == "[DONE]"
        return events

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for something on the app's loop, which is looked at between its other work."""

        async def wait() -> None:
            async with asyncio.timeout(SECONDS):
                while not condition():
                    await asyncio.sleep(0.001)

        self.run(wait())


def events_of(text: str) -> list[Any]:
    """The events of a stream: JSON, or `[DONE]`. Comments are left out."""
    found = []
    for block in text.split("\n\n"):
        if block.startswith("data: "):
            data = block.removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
        else:
            assert not block or block.startswith(":")
    return found


@contextmanager
def running_app(model: OpenModel | None = None, **settings: Any) -> Iterator[App]:
    """An app with these settings over the toy model, unless another is given."""
    app = App(ServerSettings(**settings), toy_model() if model is None else model)
    try:
        yield app
    finally:
        app.close()


def assert_error(response: httpx2.Response, status: int, param: str | None = None, code: str | None = None) -> str:
    """An error of OpenAI's shape; its message."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert (error["param"], error["code"]) == (param, code), error
    return str(error["message"])


@contextmanager
def written_log() -> Iterator[io.StringIO]:
    """What the server writes into its log meanwhile, as lines of JSON."""
    logger, stream = logging.getLogger("gptwo.server"), io.StringIO()
    before = logger.handlers, logger.propagate, logger.level
    configure_logging("debug", "json")
    logger.handlers[0].setStream(stream)  # type: ignore[attr-defined]
    yield stream
    logger.handlers, logger.propagate, level = before
    logger.setLevel(level)
