"""Which names a server without keys may be asked under."""

from __future__ import annotations

import asyncio
import socket

import pytest
from server_tools import toy_model

from gptwo.server.address import is_local, listen
from gptwo.server.app import create_app
from gptwo.server.settings import ServerSettings


def status(host: str | None, path: str = "/version", *, local: bool = True, **settings: object) -> int:
    """What a request to this host is answered with."""
    app = create_app(ServerSettings(**settings), model=toy_model(), local=local)
    sent = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    headers = [] if host is None else [(b"host", host.encode("latin-1"))]
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": headers}
    asyncio.run(app(scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost", "LocalHost:1", "localhost.", "[::1]:80", "a.localhost", "192.168.0.9", None]
)
def test_this_machines_names_are_let_in(host: str | None) -> None:
    assert status(host) == 200


@pytest.mark.parametrize(
    "host", ["evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "", "[", "evil\xe9", "127.1@x"]
)
def test_names_that_others_can_lead_here_are_not(host: str) -> None:
    assert status(host) == 403
    assert status(host, "/") == 403
    assert status(host, allowed_hosts="*") == 200


def test_names_are_let_in_that_were_named() -> None:
    assert status("gpt.example:8000", allowed_hosts=["gpt.example"]) == 200
    assert status("x.gpt.example", allowed_hosts=["gpt.example"]) == 403


def test_where_others_reach_it_or_there_are_keys_any_name_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert status("gpt.example", local=False) == 200
    monkeypatch.setenv("GPTWO_API_KEY", "secret")
    assert status("gpt.example") == 200
    assert status("gpt.example", "/v1/models") == 401


@pytest.mark.parametrize(("host", "local"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)])
def test_only_this_machine_reaches_a_loopback_address(host: str, local: bool) -> None:
    listeners = listen(host, 0)
    assert all(map(is_local, listeners)) == local
    for listener in listeners:
        listener.close()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no sockets in its file system")
def test_only_this_machine_reaches_a_socket_in_its_files() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        assert is_local(listener)
