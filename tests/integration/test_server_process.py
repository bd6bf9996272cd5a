"""`gptwo serve` as a process: its start, its end, hostile connections, and clients that leave."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import SECONDS, Connection, Server, command, environment, head, running_server

LONG = {"prompt": "ROMEO:", "max_tokens": 240, "ignore_eos": True, "seed": 1}
SHORT = {"prompt": "ROMEO:", "max_tokens": 3, "seed": 1}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server("shakespeare", "--body-timeout", "1", "--log-format", "json") as running:
        yield running
        assert running.end(signal.SIGINT) == 0
        for line in running.log.splitlines():
            assert json.loads(line)["level"] in ("info", "warning"), line


@pytest.fixture
def connection(server: Server) -> Iterator[Connection]:
    connection = server.connect()
    yield connection
    connection.close()


def fails(*arguments: str, **variables: str) -> tuple[int, str]:
    """Exit code and standard error of a server that cannot start."""
    done = subprocess.run(
        command(*arguments), env=environment(**variables), capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


# ---- the start


def test_one_line_says_where_it_listens(server: Server) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", server.url)


def test_a_port_that_is_taken_is_one_sentence(server: Server) -> None:
    code, said = fails("--port", str(server.port))
    assert code == 1
    assert said == f"gptwo: port {server.port} of 127.0.0.1 is taken by another process; choose another with --port\n"


def test_an_address_of_elsewhere_is_one_sentence() -> None:
    code, said = fails("--host", "192.0.2.1", "--port", "0")
    assert code == 1
    assert re.fullmatch(r"gptwo: port 0 of 192\.0\.2\.1 cannot be had: .*\n", said)


def test_a_model_that_is_not_there_ends_the_server_with_one_sentence(tmp_path: Path) -> None:
    code, said = fails(str(tmp_path / "absent"), "--port", "0", "--log-level", "error")
    assert code == 1
    assert said.startswith("gptwo: ")
    assert said.count("\n") == 1


def test_keys_that_are_not_there_keep_it_from_starting(tmp_path: Path) -> None:
    code, said = fails("--port", "0", GPTWO_API_KEY_FILE=str(tmp_path / "absent"))
    assert code == 1
    assert re.fullmatch(r"gptwo: the file of API keys .* cannot be read \(No such file or directory\)\n", said)


def test_a_wrong_flag_or_variable_is_wrong_usage() -> None:
    for arguments, variables in ((["--max-queue", "none"], {}), ([], {"GPTWO_MAX_QUEUE": "many"})):
        code, said = fails(*arguments, **variables)
        assert code == 2
        assert said.startswith("Usage: gptwo serve")


def test_without_the_extra_it_says_what_to_install() -> None:
    without = command("--port", "0", before="sys.modules['fastapi'] = None")
    done = subprocess.run(without, env=environment(), capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 1
    assert done.stderr == "gptwo: serving needs fastapi: pip install '.[server]' in gptwo's checkout\n"


def test_it_reaches_no_other_machine_unless_told() -> None:
    with running_server("--host", "0.0.0.0", ready=False) as server:
        assert server.url.startswith("http://0.0.0.0:")
        while "there is no API key" not in server.log:
            assert server.process.poll() is None
            time.sleep(0.02)
        assert server.end() == 0


def test_the_environment_sets_what_no_flag_does() -> None:
    variables = {"GPTWO_SERVED_MODEL_NAME": "bard other", "GPTWO_PLAYGROUND": "off", "GPTWO_MAX_N": "1"}
    with running_server("--max-n", "2", **variables) as server:
        assert [model["id"] for model in server.get("/v1/models")[1]["data"]] == ["bard", "other"]
        assert server.get("/")[0] == 404
        connection = server.connect()
        connection.post("/v1/completions", {**SHORT, "n": 2})
        assert connection.answer()[0] == 200
        connection.post("/v1/completions", {**SHORT, "n": 3})
        assert connection.answer()[0] == 400
        connection.close()
        assert server.end() == 0


# ---- clients that leave


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_what_it_held(server: Server, stream: bool) -> None:
    cancelled = server.metric("gptwo_requests_total")
    connections = [server.connect() for _ in range(4)]
    for connection in connections:
        connection.post("/v1/completions", {**LONG, "n": 4, "stream": stream})
    if stream:
        for connection in connections:
            assert connection.status()[0] == 200
            assert connection.event()
    else:
        server.wait_for("gptwo_num_requests_running", 4)
    for connection in connections:
        connection.close()
    server.wait_for("gptwo_num_requests_running", 0)
    assert server.metric("gptwo_requests_total") == cancelled + 4
    assert server.metric("gptwo_kv_cache_blocks") <= server.metric("gptwo_prefix_cache_blocks") + 1
    log = [json.loads(line) for line in server.log.splitlines()]
    assert sum(line.get("completion_tokens", 0) == 4 * 240 for line in log) == 0


def test_a_client_that_leaves_in_the_middle_of_its_body_is_forgotten(server: Server, connection: Connection) -> None:
    connection.send(head("/v1/completions", "Content-Length: 1000") + b'{"prompt": "')
    connection.close()
    assert server.get("/health")[0] == 200


# ---- bodies


def test_a_body_that_does_not_come_is_a_408(server: Server, connection: Connection) -> None:
    connection.send(head("/v1/completions", "Content-Length: 1000") + b'{"prompt": "')
    status, answer = connection.answer()
    assert status == 408
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert server.get("/health")[0] == 200


def test_a_body_may_come_in_small_pieces(server: Server, connection: Connection) -> None:
    body = json.dumps(SHORT).encode()
    connection.send(head("/v1/completions", "Transfer-Encoding: chunked"))
    for byte in body:
        connection.send(b"1\r\n" + bytes([byte]) + b"\r\n")
    connection.send(b"0\r\n\r\n")
    assert connection.answer()[0] == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_fifty_megabytes_are_a_413_and_others_are_served_meanwhile(server: Server, chunked: bool) -> None:
    connection, megabyte = server.connect(), b"a" * 2**20
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {50 * 2**20}"
    connection.send(head("/v1/completions", length))
    for number in range(50):
        connection.send(b"%x\r\n%s\r\n" % (len(megabyte), megabyte) if chunked else megabyte)
        if number % 10 == 0:
            assert server.get("/health")[0] == 200
    if chunked:
        connection.send(b"0\r\n\r\n")
    status, answer = connection.answer()
    assert status == 413
    assert answer["error"]["code"] == "payload_too_large"
    connection.close()


def test_a_client_that_asks_first_is_told_before_it_sends(server: Server, connection: Connection) -> None:
    connection.send(head("/v1/completions", f"Content-Length: {50 * 2**20}", "Expect: 100-continue"))
    assert connection.answer()[0] == 413


def test_bytes_that_are_no_http_end_with_their_connection(server: Server, connection: Connection) -> None:
    connection.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20 + b"\r\n\r\n")
    assert connection.status()[0] in (0, 400)
    assert server.get("/health")[0] == 200


def test_a_connection_serves_one_request_after_another(server: Server, connection: Connection) -> None:
    for body, status in ((SHORT, 200), ({**SHORT, "n": 0}, 400), (b"{", 400), (SHORT, 200)):
        connection.post("/v1/completions", body)
        assert connection.answer()[0] == status


# ---- the end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_lets_running_requests_end_and_refuses_new_ones(number: int) -> None:
    with running_server("shakespeare") as server:
        streams, idle = [server.connect() for _ in range(4)], server.connect()
        for stream in streams:
            stream.post("/v1/completions", {**LONG, "n": 4, "stream": True})
            assert stream.status()[0] == 200
            assert stream.event()
        whole = server.connect()
        whole.post("/v1/completions", LONG)
        server.wait_for("gptwo_num_requests_running", 5)
        server.process.send_signal(number)
        idle.post("/v1/completions", SHORT)
        status, answer = idle.answer()
        assert status in (503, 200)  # 200 if it came before the signal was seen
        for stream in streams:
            events = list(iter(stream.event, None))
            assert events[-1] == "[DONE]"
            reasons = [choice["finish_reason"] for event in events[:-1] for choice in json.loads(event)["choices"]]
            assert reasons.count("length") == 4
        status, answer = whole.answer()
        assert status == 200
        assert answer["usage"]["completion_tokens"] == 240
        assert server.process.wait(SECONDS) == 0
        assert all(connection.at_end() for connection in [*streams, idle, whole])


def test_what_does_not_end_in_time_is_ended_with_an_error() -> None:
    with running_server("shakespeare", "--drain-timeout", "0") as server:
        stream, whole = server.connect(), server.connect()
        stream.post("/v1/completions", {**LONG, "n": 64, "stream": True})
        assert stream.status()[0] == 200
        assert stream.event()
        whole.post("/v1/completions", {**LONG, "n": 64})
        server.wait_for("gptwo_num_requests_running", 2)
        assert server.end() == 0
        *_, last = list(iter(stream.event, None))
        assert json.loads(last)["error"]["type"] == "service_unavailable"
        assert whole.answer()[0] == 503
        assert stream.at_end()


def test_while_it_drains_its_health_says_so() -> None:
    with running_server("shakespeare") as server:
        busy = server.connect()
        busy.post("/v1/completions", {**LONG, "n": 64, "stream": True})
        assert busy.status()[0] == 200
        server.process.send_signal(signal.SIGTERM)
        while server.get("/health")[0] == 200:  # it may be asked before the signal is seen
            assert server.process.poll() is None
        status, answer = server.get("/health")
        assert (status, answer["status"]) == (503, "draining")
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        connection = server.connect()
        connection.post("/v1/completions", SHORT)
        assert connection.answer()[0] == 503
        connection.close()
        busy.close()
        assert server.process.wait(SECONDS) == 0


def test_a_second_signal_ends_it_at_once() -> None:
    with running_server("shakespeare") as server:
        busy = server.connect()
        busy.post("/v1/completions", {**LONG, "n": 128, "stream": True})
        assert busy.status()[0] == 200
        server.process.send_signal(signal.SIGTERM)
        while server.get("/health")[0] == 200:
            assert server.process.poll() is None
        assert server.end(signal.SIGINT) == 128 + signal.SIGINT
        busy.close()


def test_a_client_that_does_not_read_cannot_hold_up_the_end() -> None:
    with running_server("shakespeare", "--drain-timeout", "0.1") as server:
        lazy = socket.socket()
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        lazy.connect(("127.0.0.1", server.port))
        body = json.dumps({**LONG, "n": 128, "stream": True, "logprobs": 20}).encode()
        lazy.sendall(head("/v1/completions", f"Content-Length: {len(body)}") + body)
        server.wait_for("gptwo_num_requests_running", 1)
        assert server.end() == 0
        lazy.close()


def test_it_ends_while_it_loads() -> None:
    endless = "import threading, gptwo.server.service as s; s.open_model = lambda **_: threading.Event().wait()"
    with running_server(before=endless, ready=False) as server:
        status, answer = server.get("/health")
        assert (status, answer["status"]) == (503, "loading")
        assert server.get("/version")[0] == 200
        connection = server.connect()
        connection.post("/v1/completions", SHORT)
        status, headers = connection.status()
        assert status == 503
        assert int(headers["retry-after"]) >= 1
        assert server.end() == 0
