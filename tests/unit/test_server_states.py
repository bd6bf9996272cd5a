"""The states of a server, from loading to its end, and its log."""

from __future__ import annotations

import errno
import functools
import io
import json
import logging
import re
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from server_tools import App, GatedDecoder, assert_error, running_app, toy_model, written_log
from tiny_models import TOKENIZER, ToyDecoder

import gptwo
from gptwo.errors import CheckpointError
from gptwo.sampling import grammar
from gptwo.server import log, service
from gptwo.server.log import CLIENT_GONE

TEXT = "hear me speak. é!"


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    with running_app() as running:
        yield running


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    with written_log() as stream:
        yield stream


def lines(stream: io.StringIO, message: str = "request") -> list[dict[str, Any]]:
    return [found for found in map(json.loads, stream.getvalue().splitlines()) if found["message"] == message]


# ---- states


def test_a_server_says_that_it_is_ready(app: App) -> None:
    for path in ("/health", "/ready"):
        assert app.get(path).json() == {"status": "ok"}
        assert app.request("HEAD", path).content == b""
    assert app.get("/version").json() == {"version": gptwo.__version__}


def test_while_the_model_is_loaded_everything_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = threading.Event()

    def slow(**_: Any) -> Any:
        assert opened.wait(60)
        return toy_model()

    monkeypatch.setattr(service, "open_model", slow)
    from gptwo.server.settings import ServerSettings

    app = App(ServerSettings(model="toy"), None)
    try:
        for path in ("/health", "/ready", "/v1/models"):
            response = app.get(path)
            assert_error(response, 503)
            assert int(response.headers["retry-after"]) >= 1
        assert app.get("/health").json()["status"] == "loading"
        assert_error(app.post("/v1/completions", {"prompt": "we"}), 503)
        assert app.get("/version").status_code == app.get("/metrics").status_code == 200
        opened.set()
        app.run(app.service.loaded())
        assert app.get("/health").status_code == 200
        assert app.complete(prompt="we")["model"] == "toy"
    finally:
        opened.set()
        app.close()


@pytest.mark.parametrize("place", ["subprocess.Popen", "gptwo.server.completions.ask"])
def test_what_the_system_lacks_for_a_moment_is_a_503(
    monkeypatch: pytest.MonkeyPatch, written: io.StringIO, place: str
) -> None:
    def lacks(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    shaped = {"prompt": "we", "max_tokens": 2, "structured_outputs": {"regex": "[b-y]+"}}
    with running_app() as app:
        with monkeypatch.context() as patches:
            patches.setattr(place, lacks)
            patches.setattr(grammar, "_trial", functools.cache(grammar._trial.__wrapped__))  # one that has not begun
            response = app.post("/v1/completions", shaped)
        assert "Too many open files" in assert_error(response, 503)
        assert response.headers["retry-after"] == "1"
        assert app.complete(**shaped)["choices"][0]["text"]
    assert [line["status"] for line in lines(written)] == [503, 200]
    assert "defect" not in written.getvalue()


def test_a_model_that_cannot_be_loaded_is_told_to_whoever_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: Any) -> Any:
        raise CheckpointError("the file is broken")

    monkeypatch.setattr(service, "open_model", broken)
    from gptwo.server.settings import ServerSettings

    app = App(ServerSettings(), None)
    try:
        app.run(app.service.loaded())
        assert isinstance(app.service.error, CheckpointError)
        assert app.get("/health").json()["status"] == "failed"
    finally:
        app.close()


def test_while_it_drains_new_requests_are_refused_and_running_ones_end() -> None:
    decoder = GatedDecoder()
    with running_app(toy_model(decoder)) as app:
        answers: list[Any] = []
        ask = {"prompt": "we", "max_tokens": 5, "seed": 1}
        running = threading.Thread(target=lambda: answers.append(app.complete(**ask)))
        running.start()
        assert decoder.entered.wait(60)
        drain = app.start(app.service.drain())
        app.wait_until(lambda: app.service.state == "draining")
        response = app.post("/v1/completions", ask)
        assert_error(response, 503)
        assert int(response.headers["retry-after"]) >= 1
        assert app.get("/health").json()["status"] == "draining"
        assert not drain.done()
        decoder.gate.set()
        drain.result(60)
        running.join(60)
        assert len(answers) == 1


def test_what_does_not_end_in_time_is_ended() -> None:
    decoder = GatedDecoder()
    with running_app(toy_model(decoder), drain_timeout=0.05) as app:
        ask = {"prompt": "we", "max_tokens": 5, "stream": True}
        found: list[httpx2.Response] = []
        running = threading.Thread(target=lambda: found.append(app.post("/v1/completions", ask)))
        running.start()
        assert decoder.entered.wait(60)
        app.run(app.service.drain())
        running.join(60)
        decoder.gate.set()
        assert_error(found[0], 503)


def test_an_engine_that_failed_makes_the_server_unhealthy() -> None:
    class Broken(ToyDecoder):
        def open(self) -> int:
            raise SystemError("a defect")

        def forward(self, *_: Any) -> Any:
            raise KeyboardInterrupt

    with running_app(toy_model(Broken())) as app:
        response = app.post("/v1/completions", {"prompt": "we"})
        assert_error(response, 500)


def test_a_client_that_leaves_frees_its_sequence(written: io.StringIO) -> None:
    decoder = GatedDecoder()
    with running_app(toy_model(decoder)) as app:
        for stream in (False, True):
            body = json.dumps({"prompt": "we", "max_tokens": 50, "stream": stream, "ignore_eos": True}).encode()
            leave = threading.Event()

            async def connection(body: bytes = body, leave: threading.Event = leave) -> None:
                import asyncio

                messages = iter([{"type": "http.request", "body": body, "more_body": False}])

                async def receive() -> Any:
                    for message in messages:
                        return message
                    await asyncio.to_thread(leave.wait, 60)
                    return {"type": "http.disconnect"}

                async def send(_: Any) -> None:
                    pass

                headers = [(b"content-type", b"application/json")]
                scope = {
                    "type": "http",
                    "asgi": {"version": "3.0"},
                    "http_version": "1.1",
                    "method": "POST",
                    "path": "/v1/completions",
                    "raw_path": b"/v1/completions",
                    "query_string": b"",
                    "headers": headers,
                    "client": ("127.0.0.1", 1),
                    "server": ("127.0.0.1", 2),
                    "scheme": "http",
                }
                await app.app(scope, receive, send)

            decoder.entered.clear()
            decoder.gate.clear()
            asked = app.start(connection())
            assert decoder.entered.wait(60)
            leave.set()
            asked.result(60)
            decoder.gate.set()
            app.wait_until(lambda: app.service.runner.running == 0)
            app.complete(prompt="me", max_tokens=1)
            app.service.runner.engine.clear_prefixes()
            assert decoder.held == {}
            assert max(len(batch) for batch in decoder.batches) < 50
        gone = [line for line in lines(written) if line["status"] in (CLIENT_GONE, 200) and line["path"] != "/health"]
        assert [line["status"] for line in gone][::2] == [CLIENT_GONE, CLIENT_GONE]


# ---- the log


def test_a_line_has_the_requests_id_and_what_it_came_to(app: App, written: io.StringIO) -> None:
    response = app.post("/v1/completions", {"prompt": TEXT, "max_tokens": 3}, headers={"x-request-id": "abc-1.2"})
    assert response.headers["x-request-id"] == "abc-1.2"
    (line,) = lines(written)
    assert line["request_id"] == "abc-1.2"
    assert (line["method"], line["path"], line["status"], line["stream"]) == ("POST", "/v1/completions", 200, False)
    assert line["prompt_tokens"] == len(TOKENIZER.encode(TEXT))
    assert line["completion_tokens"] <= 3
    assert line["id"] == response.json()["id"]
    assert line["milliseconds"] >= 0


@pytest.mark.parametrize("given", ["two words", "x" * 129, "é", 'quo"te', ""])
def test_an_id_that_could_harm_the_log_is_replaced(app: App, given: str) -> None:
    response = app.get("/health", headers={"x-request-id": given.encode()})
    assert re.fullmatch("req-[0-9a-f]{32}", response.headers["x-request-id"])


def test_no_text_is_in_the_log_unless_asked_for(written: io.StringIO) -> None:
    secret = "zanzibar"
    bodies = [
        {"prompt": secret},
        {"prompt": secret, "stream": True},
        {"prompt": [secret, 1]},
        {"prompt": "we", "stop": [secret] * 20},
        {"prompt": "we", secret: 1},
        {"prompt": secret * 1000},
    ]
    with running_app() as app:
        for body in bodies:
            app.post("/v1/completions", body)
        app.post("/tokenize", {"prompt": secret})
        app.post("/v1/score", {"input": secret})
    shown = written.getvalue().replace(f'"param": "{secret}"', "")
    assert secret not in shown
    with running_app(log_prompts=True) as app:
        app.complete(prompt=secret)
    assert lines(written)[-1]["prompt"] == secret


def test_health_checks_are_quiet(app: App, written: io.StringIO) -> None:
    app.get("/health")
    app.get("/metrics")
    assert {line["level"] for line in lines(written)} == {"debug"}


def test_plain_lines_stay_on_their_line() -> None:
    formatter = log._PlainLines()
    record = logging.LogRecord("gptwo.server", logging.INFO, "", 0, "request", (), None)
    record.fields = {"path": "/a b", "status": 200, "id": 'quo"te\n'}
    line = formatter.format(record)
    assert re.fullmatch(r'\S+Z info    request path="/a b" status=200 id="quo\\"te\\n"', line)
