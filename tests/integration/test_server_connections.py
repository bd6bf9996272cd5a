"""Connections that are odd, greedy or slow, as bytes."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import SECONDS, Connection, Server, command, environment, head, running_server

# Deadlines of seconds in place of minutes.
HASTY = "import gptwo.server.protocol as p; p.HEAD_SECONDS = 0.5; p.STALL_SECONDS = 0.5"
BODY = json.dumps({"prompt": "a", "max_tokens": 2, "seed": 1}).encode()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture(scope="module")
def hasty() -> Iterator[Server]:
    with running_server(before=HASTY) as server:
        yield server


@pytest.fixture
def connection(server: Server) -> Iterator[Connection]:
    connection = server.connect()
    yield connection
    connection.close()


def test_an_offer_of_http_2_is_passed_over_and_the_body_read(connection: Connection) -> None:
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAB")
    for _ in range(2):
        connection.post("/v1/completions", BODY, *offer)
        status, answer = connection.answer()
        assert status == 200
        assert answer["usage"]["completion_tokens"] == 2
    connection.send(head("/tokenize", "Transfer-Encoding: chunked", *offer))
    connection.send(b'e\r\n{"prompt":"x"}\r\n')
    connection.send(b"0\r\n\r\n")
    assert connection.answer()[0] == 200


def test_an_offer_keeps_what_else_the_connection_header_says(connection: Connection) -> None:
    connection.post("/v1/completions", BODY, "Connection: close, Upgrade", "Upgrade: websocket")
    assert connection.answer()[0] == 200
    assert connection.at_end()


def test_trailers_are_no_headers(connection: Connection) -> None:
    chunks = b"%x\r\n%s\r\n0\r\nx-request-id: trailer\r\nauthorization: Bearer x\r\n\r\n" % (len(BODY), BODY)
    connection.send(head("/v1/completions", "Transfer-Encoding: chunked", "x-request-id: header") + chunks)
    status, headers = connection.status()
    assert (status, headers["x-request-id"]) == (200, "header")
    connection = Connection(connection.socket.getpeername()[1])
    connection.send(head("/v1/completions", "Transfer-Encoding: chunked") + chunks)
    assert connection.status()[1]["x-request-id"] != "trailer"
    connection.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /health HTTP/1.1\r\nX-Long: " + b"x" * 1_000_000,
        b"GET /health HTTP/1.1\r\n" + b"X-Short: y\r\n" * 50_000,
        b"GET /" + b"x" * 1_000_000,
    ],
    ids=["one", "many", "path"],
)
def test_headers_without_end_are_a_431(connection: Connection, sent: bytes) -> None:
    connection.send(sent[:400_000])
    status, answer = connection.answer()
    assert status == 431
    assert "65,536 bytes" in answer["error"]["message"]


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/1.1\r\nX : y\r\n\r\n",
        b"CONNECT example.org:80 HTTP/1.1\r\nHost: example.org\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        head("/v1/completions", "Content-Length: 2", "Content-Length: 3"),
        head("/v1/completions", "Content-Length: 5", "Transfer-Encoding: chunked"),
        head("/v1/completions", "Content-Length: 99999999999999999999999"),
        head("/v1/completions", "Transfer-Encoding: chunked") + b"zz\r\n",
    ],
)
def test_what_is_no_http_is_answered_as_all_errors_are(connection: Connection, sent: bytes) -> None:
    connection.send(sent)
    status, answer = connection.answer()
    assert status == 400
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert connection.at_end()


def test_what_is_no_http_behind_a_request_does_not_take_its_answer(connection: Connection) -> None:
    connection.send(head("/v1/completions", f"Content-Length: {len(BODY)}") + BODY + b"\x00\x01\r\n\r\n")
    status, answer = connection.answer()
    assert (status, answer["usage"]["completion_tokens"]) == (200, 2)
    assert connection.at_end()


def test_several_requests_at_a_time_are_answered_in_order(connection: Connection) -> None:
    whole = head("/v1/completions", f"Content-Length: {len(BODY)}") + BODY
    broken = head("/v1/completions", "Content-Length: 1") + b"{"
    connection.send(whole + broken + whole)
    assert [connection.answer()[0] for _ in range(3)] == [200, 400, 200]


def test_a_body_that_nobody_wants_is_not_read_for_ever(connection: Connection) -> None:
    connection.send(head("/v1/completions", f"Content-Length: {2**62}", "Expect: 100-continue"))
    assert connection.answer()[0] == 413
    assert connection.at_end()


def test_an_address_with_a_slash_too_many_leads_nowhere(connection: Connection) -> None:
    connection.send(b"GET /health/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    status, headers = connection.status()
    assert status == 404
    assert "location" not in headers


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: y"])
def test_headers_that_do_not_come_end_the_connection(hasty: Server, sent: bytes) -> None:
    connection = hasty.connect()
    connection.send(sent)
    if b"GET" in sent:
        assert connection.answer()[0] == 408
    assert connection.at_end()


FEW_FILES = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({0}, {0}))"
SHAPED = {"prompt": "a", "max_tokens": 2, "structured_outputs": {"regex": "[a-z]+"}}


def test_connections_leave_files_for_what_else_a_request_needs() -> None:
    with running_server(before=FEW_FILES.format(64)) as server:
        held = [server.connect() for _ in range(40)]
        for connection in held:
            connection.send(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        answers = [connection.status() for connection in held]
        statuses = [status for status, _ in answers]
        assert statuses in ([200] * 32 + [503] * 8, [200] * 31 + [503] * 9)  # one that asked before may still be there
        assert answers[-1][1]["retry-after"] == "1"
        held[0].post("/v1/completions", SHAPED)
        assert held[0].body(answers[0][1])["status"] == "ok"
        assert held[0].answer()[0] == 200
        for connection in held:
            connection.close()
        while server.get("/health")[0] == 503:
            assert server.process.poll() is None
        assert "defect" not in server.log


def test_a_client_that_reads_nothing_of_its_answer_is_left(hasty: Server) -> None:
    files = Path(f"/proc/{hasty.process.pid}/fd")
    before = len([*files.iterdir()])
    connection = hasty.connect()
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.post("/tokenize", {"prompt": "x y " * 250_000})  # the answer is far more than lies between the two
    end = time.monotonic() + SECONDS
    while "path=/tokenize" not in hasty.log or len([*files.iterdir()]) > before:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_it_serves_though_nobody_can_be_told_where(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open("/dev/full", "w") as full, (tmp_path / "log").open("w+") as log:
        arguments = command("--port", str(port), "--drain-timeout", "0")
        with subprocess.Popen(arguments, stdout=full, stderr=log, env=environment()) as process:
            try:
                server = Server(process, log, f"http://127.0.0.1:{port}")  # type: ignore[arg-type]
                while "model loaded" not in server.log:
                    assert process.poll() is None, server.log
                    time.sleep(0.02)
                assert server.get("/health")[0] == 200
                assert "cannot be written to standard output" in server.log
                assert server.end() == 0
                assert "Traceback" not in server.log
            finally:
                process.kill()
