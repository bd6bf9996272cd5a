"""API keys: where they come from, what they open, and how many requests each may have."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from server_tools import GatedDecoder, assert_error, running_app, toy_model

from gptwo.errors import ServerError
from gptwo.server.app import create_app
from gptwo.server.keys import ApiKeys
from gptwo.server.settings import ServerSettings

KEYS = "# for the tests\nfirst-key\n\n  second key  \n"


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "keys"
    path.write_text(KEYS, encoding="utf-8")
    return str(path)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_keys_come_from_a_file_and_the_environment(key_file: str) -> None:
    keys = ApiKeys.read(key_file, {"GPTWO_API_KEY": "third", "GPTWO_API_KEYS": "fourth, fifth,,first-key"})
    assert len(keys) == 5
    for number, key in enumerate(("third", "fourth", "fifth", "first-key", "second key")):
        assert keys.find(b"Bearer " + key.encode()) == number
    assert len(ApiKeys.read(None, {})) == 0


@pytest.mark.parametrize(
    "header",
    [b"", b"Bearer", b"Bearer ", b"Bearer first", b"Basic first-key", b"first-key", b"Bearer \xff", b"Bearer x" * 999],
)
def test_no_other_header_opens(key_file: str, header: bytes) -> None:
    assert ApiKeys.read(key_file, {}).find(header) is None


def test_keys_that_cannot_be_read_keep_the_server_from_starting(tmp_path: Path) -> None:
    empty, binary = tmp_path / "empty", tmp_path / "binary"
    empty.write_text("# nothing\n", encoding="utf-8")
    binary.write_bytes(b"\xff\xfe\x00")
    for path, reason in ((tmp_path / "absent", "No such file"), (empty, "no key"), (binary, "not text")):
        with pytest.raises(ServerError, match=reason):
            create_app(ServerSettings(api_key_file=str(path)))


@pytest.mark.parametrize("written", [b"\xef\xbb\xbfone\ntwo\n", b"one\r\ntwo\r\n", b" one \n\ttwo"])
def test_marks_and_line_ends_of_other_systems_are_no_part_of_a_key(tmp_path: Path, written: bytes) -> None:
    path = tmp_path / "keys"
    path.write_bytes(written)
    keys = ApiKeys.read(str(path), {})
    assert [keys.find(b"Bearer " + key) for key in (b"one", b"two")] == [0, 1]


@pytest.mark.parametrize("key", ["a\0", "a\x1b[0m", "\udcff"])
def test_a_key_that_nobody_could_send_is_refused(key: str) -> None:
    with pytest.raises(ServerError, match="control characters"):
        ApiKeys.read(None, {"GPTWO_API_KEY": key})


def test_what_costs_nothing_is_open_and_the_rest_is_not(key_file: str) -> None:
    with running_app(api_key_file=key_file) as app:
        for path in ("/health", "/ready", "/metrics", "/version", "/docs", "/openapi.json"):
            assert app.get(path).status_code == 200
        for path in ("/v1/models", "/v1/models/shakespeare", "/tokenizer_info"):
            assert_error(app.get(path), 401, code="invalid_api_key")
            assert app.get(path, headers=bearer("first-key")).status_code == 200
        for path in ("/v1/completions", "/v1/score", "/tokenize", "/detokenize"):
            message = assert_error(app.post(path, {}), 401, code="invalid_api_key")
            assert "Bearer" in message
        response = app.post("/v1/completions", {"prompt": "we"}, headers=bearer("wrong"))
        assert_error(response, 401, code="invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
        assert app.post("/v1/completions", {"prompt": "we"}, headers=bearer("second key")).status_code == 200


@pytest.mark.parametrize(("name", "value"), [("GPTWO_API_KEY", ""), ("GPTWO_API_KEY", "  "), ("GPTWO_API_KEYS", " , ")])
def test_a_variable_that_is_there_and_holds_no_key_is_refused(name: str, value: str) -> None:
    with pytest.raises(ServerError, match=f"{name} is empty; unset it to serve without keys"):
        ApiKeys.read(None, {name: value})


def test_keys_are_asked_for_behind_a_proxys_path_too(key_file: str) -> None:
    with running_app(api_key_file=key_file, root_path="/gpt") as app:
        assert app.get("/gpt/health").status_code == 200
        assert app.get("/health").status_code == 200
        assert_error(app.get("/gpt/v1/models"), 401, code="invalid_api_key")
        assert_error(app.get("/v1/models"), 401, code="invalid_api_key")
        assert app.get("/gpt/v1/models", headers=bearer("first-key")).status_code == 200


def test_a_key_has_so_many_requests_at_a_time(key_file: str) -> None:
    decoder = GatedDecoder()
    with running_app(toy_model(decoder), api_key_file=key_file, max_concurrent=1) as app:
        ask, done = {"prompt": "we", "max_tokens": 2}, []
        first = threading.Thread(
            target=lambda: done.append(app.post("/v1/completions", ask, headers=bearer("first-key")).status_code)
        )
        first.start()
        assert decoder.entered.wait(60)
        refused = app.post("/v1/completions", ask, headers=bearer("first-key"))
        assert_error(refused, 429, code="rate_limit_exceeded")
        assert refused.headers["retry-after"] == "1"
        assert app.get("/v1/models", headers=bearer("second key")).status_code == 200
        decoder.gate.set()
        first.join(60)
        assert done == [200]
        assert app.post("/v1/completions", ask, headers=bearer("first-key")).status_code == 200
