"""The other addresses of the server, its errors and its pages."""

from __future__ import annotations

import io
import json
import math
import re
import threading
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import httpx2
import pytest
from server_tools import App, GatedDecoder, assert_error, running_app, toy_model, written_log
from tiny_models import TOKENIZER, ToyDecoder

from gptwo.language_model import LanguageModel
from gptwo.server import completions, pages

END = TOKENIZER.end_of_text_id
TEXT = "hear me speak. é!"
EVERY_PATH = ("/v1/models", "/health", "/ready", "/version", "/metrics", "/docs", "/openapi.json", "/tokenizer_info")


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    with running_app() as running:
        yield running


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    with written_log() as stream:
        yield stream


# ---- models and tokens


def test_the_models_are_listed_with_what_clients_want_to_know(app: App) -> None:
    listed = app.get("/v1/models").json()
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("shakespeare", "model", "gptwo")
    assert (model["max_model_len"], model["vocab_size"]) == (64, 300)
    assert model["parameters"] == app.service.runner.model.config.parameter_count
    assert isinstance(model["weights"], str)
    assert app.get("/v1/models/shakespeare").json() == model
    assert_error(app.get("/v1/models/other"), 404, "model", "model_not_found")


def test_a_model_may_have_several_names_with_slashes() -> None:
    with running_app(served_model_name=["openai-community/gpt2", "gpt2"]) as app:
        assert [model["id"] for model in app.get("/v1/models").json()["data"]] == ["openai-community/gpt2", "gpt2"]
        assert app.get("/v1/models/openai-community/gpt2").json()["id"] == "openai-community/gpt2"
        assert app.complete(prompt="we", model="gpt2")["model"] == "gpt2"
        assert app.complete(prompt="we")["model"] == "openai-community/gpt2"


def test_text_becomes_tokens_and_tokens_text(app: App) -> None:
    answer = app.post("/tokenize", {"prompt": TEXT, "add_special_tokens": False}).json()
    ids = TOKENIZER.encode(TEXT)
    assert (answer["count"], answer["max_model_len"], answer["tokens"]) == (len(ids), 64, ids)
    assert len(answer["token_strs"]) == len(ids)
    assert app.post("/tokenize", {"prompt": TEXT, "return_token_strs": False}).json()["token_strs"] is None
    assert app.post("/detokenize", {"tokens": ids}).json() == {"prompt": TEXT}
    assert app.post("/tokenize", {"prompt": ""}).json()["tokens"] == []


def test_the_end_of_text_is_text_unless_it_is_asked_for(app: App) -> None:
    def tokens(prompt: str, **options: Any) -> list[int]:
        return app.post("/tokenize", {"prompt": prompt, **options}).json()["tokens"]

    assert END not in tokens("a<|endoftext|>")
    assert tokens("a<|endoftext|>", allow_special=True)[-1] == END
    # As lm-eval finds out which token it is.
    assert tokens(app.get("/tokenizer_info").json()["eos_token"]) == [END]
    assert app.get("/tokenizer_info").json()["eos_token_id"] == END


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": ["a"]}, "prompt"),
        ("/tokenize", {"prompt": "a", "text": "b"}, "text"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [300]}, "tokens"),
        ("/detokenize", {"tokens": [1.0]}, "tokens"),
        ("/detokenize", {"tokens": [True]}, "tokens"),
        ("/v1/score", {}, "input"),
        ("/v1/score", {"input": ""}, "input"),
        ("/v1/score", {"input": "a", "logprobs": 21}, "logprobs"),
        ("/v1/score", {"input": "a", "logprobs": math.nan}, "logprobs"),
        ("/v1/score", {"input": [[]]}, "input"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_by_name(app: App, path: str, body: dict[str, Any], param: str) -> None:
    assert_error(app.post(path, body), 400, param)


# ---- scores


@pytest.mark.parametrize("text", [TEXT, "hear me speak " * 60, "a"])
def test_a_score_is_the_models_own(app: App, text: str) -> None:
    (found,) = app.post("/v1/score", {"input": text}).json()["data"]
    score = LanguageModel(ToyDecoder(), TOKENIZER).score(text)
    assert found["token_ids"] == list(score.token_ids)
    assert found["token_logprobs"] == list(score.logprobs)
    assert found["total"] == score.total
    assert found["bits_per_byte"] == score.bits_per_byte
    assert found["perplexity"] == (score.perplexity if math.isfinite(score.perplexity) else None)
    assert "top_logprobs" not in found
    for name, offset in zip(found["tokens"], found["text_offset"], strict=True):
        assert text[offset:].startswith(name)


def test_several_texts_are_scored_at_a_time(app: App) -> None:
    texts = [f"hear me {number}" for number in range(40)]
    answer = app.post("/v1/score", {"input": texts, "logprobs": 1, "model": "shakespeare"}).json()
    assert [one["index"] for one in answer["data"]] == list(range(40))
    for text, one in zip(texts, answer["data"], strict=True):
        assert one["total"] == app.post("/v1/score", {"input": TOKENIZER.encode(text)}).json()["data"][0]["total"]
        assert one["top_logprobs"][0] is None
        assert all(
            max(top.values()) >= own
            for top, own in zip(one["top_logprobs"][1:], one["token_logprobs"][1:], strict=True)
        )
    tokens = sum(len(one["token_ids"]) for one in answer["data"])
    assert answer["usage"] == {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}


def test_the_tokens_of_a_score_are_limited() -> None:
    with running_app(max_score_tokens=10) as app:
        message = assert_error(app.post("/v1/score", {"input": ["hear", "me " * 20]}), 400, "input")
        assert "10" in message


# ---- errors


@pytest.mark.parametrize("path", ["/nothing", "/v1/chat/completions", "/v1", "/playground/absent.js"])
def test_an_unknown_address_is_an_error_of_the_same_shape(app: App, path: str) -> None:
    assert_error(app.get(path), 404)
    assert app.post(path, {}).status_code in (404, 405)


def test_an_unknown_method_is_told_which_there_are(app: App) -> None:
    for path, allowed in (("/v1/completions", "POST"), ("/v1/models", "GET"), ("/health", "GET")):
        response = app.request("DELETE", path)
        assert_error(response, 405)
        assert allowed in response.headers["allow"] or "HEAD" in response.headers["allow"]


def test_too_large_a_body_is_an_error_of_the_same_shape() -> None:
    with running_app(max_body=2000) as app:
        assert_error(app.post("/v1/completions", {"prompt": "a" * 3000}), 413, code="payload_too_large")
        for path in ("/tokenize", "/detokenize", "/v1/score"):
            assert_error(app.post(path, b"x" * 2001), 413, code="payload_too_large")


def test_a_body_of_another_type_is_an_error_of_the_same_shape(app: App) -> None:
    response = app.request("POST", "/v1/completions", content=b"{}", headers={"Content-Type": "text/plain"})
    assert_error(response, 415, code="unsupported_media_type")


def test_a_defect_is_a_500_that_tells_the_client_nothing(
    app: App, monkeypatch: pytest.MonkeyPatch, written: io.StringIO
) -> None:
    secret = "zanzi" + "bar"  # so that the line itself, which the log shows, does not have it

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError(secret)

    monkeypatch.setattr(completions, "ask", broken)
    message = assert_error(app.post("/v1/completions", {"prompt": "we"}), 500)
    assert secret not in message
    (defect,) = [line for line in map(json.loads, written.getvalue().splitlines()) if line["level"] == "error"]
    assert "ZeroDivisionError" in defect["message"]
    assert "test_server_app.py" in defect["message"]
    assert secret not in defect["message"]


def asked(app: App, ask: dict[str, Any], answers: list[httpx2.Response]) -> threading.Thread:
    """Ask in a thread of its own."""
    thread = threading.Thread(target=lambda: answers.append(app.post("/v1/completions", ask)))
    thread.start()
    return thread


def test_a_full_queue_is_answered_at_once_with_the_time_to_come_back() -> None:
    decoder = GatedDecoder()
    with running_app(toy_model(decoder), max_queue=1, max_sequences=1) as app:
        ask, answers = {"prompt": "we", "max_tokens": 2}, []
        try:
            threads = [asked(app, ask, answers) for _ in range(2)]
            app.wait_until(lambda: app.service.runner.running + app.service.runner.waiting == 2)
            for body in (ask, {**ask, "stream": True}):
                response = app.post("/v1/completions", body)
                assert_error(response, 429, code="rate_limit_exceeded")
                assert int(response.headers["retry-after"]) >= 1
            assert_error(app.post("/v1/completions", {**ask, "prompt": ["we"] * 100}), 400, "prompt")
            assert app.get("/health").status_code == 200
            assert_error(app.get("/ready"), 503)
        finally:
            decoder.gate.set()
        for thread in threads:
            thread.join(60)
        assert [answer.status_code for answer in answers] == [200, 200]
        assert app.get("/ready").status_code == 200


def test_a_request_that_waits_too_long_is_told_to_come_back() -> None:
    decoder = GatedDecoder()
    with running_app(toy_model(decoder), max_sequences=1, max_wait=0.01) as app:
        answers: list[httpx2.Response] = []
        try:
            threads = [asked(app, {"prompt": "we", "max_tokens": 2}, answers)]
            assert decoder.entered.wait(60)
            threads.append(asked(app, {"prompt": "we", "stream": True}, answers))
            app.wait_until(lambda: app.service.runner.running + app.service.runner.waiting == 2)
            time.sleep(0.02)  # longer than it may wait
        finally:
            decoder.gate.set()
        for thread in threads:
            thread.join(60)
        late = next(answer for answer in answers if answer.status_code != 200)
        assert_error(late, 503)
        assert "retry-after" in late.headers


# ---- pages


def test_metrics_are_what_prometheus_reads(app: App) -> None:
    app.complete(prompt="we", max_tokens=3)
    response = app.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert 'gptwo_requests_total{model_name="shakespeare"' in response.text


def test_every_request_is_counted_once_by_what_became_of_it() -> None:
    with running_app() as app:

        def counts() -> dict[str, int]:
            lines = re.findall(r'gptwo_requests_total\{.*outcome="(\w+)"\} (\S+)', app.get("/metrics").text)
            return {name: int(float(value)) for name, value in lines if float(value)}

        app.complete(prompt="we", max_tokens=1, ignore_eos=True)
        assert counts() == {"length": 1}
        for body in ({"prompt": "we", "n": 0}, {"prompt": "we", "max_tokens": 999}, {}, {"prompt": "a" * 2_000_000}):
            assert app.post("/v1/completions", body).status_code >= 400
        assert counts() == {"length": 1, "invalid": 4}
        app.service.begin_drain()
        assert_error(app.post("/v1/completions", {"prompt": "we"}), 503)
        assert counts() == {"length": 1, "invalid": 4, "draining": 1}


def test_the_description_names_every_address_and_field(app: App) -> None:
    schema = app.get("/openapi.json").json()
    assert {"/v1/completions", "/v1/score", "/tokenize", "/detokenize", *EVERY_PATH} - {"/docs", "/openapi.json"} <= {
        *schema["paths"],
        "/v1/models/{model_id}",
    }
    reference = schema["paths"]["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert reference == {"$ref": "#/components/schemas/CompletionRequest"}
    fields = schema["components"]["schemas"]["CompletionRequest"]["properties"]
    assert fields["n"] == {
        "default": 1,
        "description": fields["n"]["description"],
        "maximum": 128,
        "minimum": 1,
        "title": "N",
        "type": ["integer", "null"],
    }
    text = json.dumps(schema)
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        assert name in schema["components"]["schemas"]


class _Outside(HTMLParser):
    """What a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.codes = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.codes += tag == "code"
        self.loads += [
            str(value) for name, value in attrs if name in ("src", "href") and "openapi.json" not in str(value)
        ]
        assert tag != "script"


def test_the_page_of_docs_loads_nothing(app: App) -> None:
    response = app.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    page = _Outside()
    page.feed(response.text)
    assert page.loads == []
    assert page.codes > 60
    assert "truncate_prompt_tokens" in response.text


def test_the_playground_is_sent_with_headers_that_keep_it_to_itself(
    app: App, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "index.html").write_text("<!doctype html>", encoding="utf-8")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "app.js").write_text("1;", encoding="utf-8")
    monkeypatch.setattr(pages, "_folder", lambda: tmp_path)
    with running_app() as app:
        for path, kind in (("/", "text/html"), ("/playground/parts/app.js", "text/javascript")):
            response = app.get(path)
            assert response.status_code == 200
            assert response.headers["content-type"].startswith(kind)
            assert "default-src 'none'" in response.headers["content-security-policy"]
            assert "unsafe" not in response.headers["content-security-policy"]
            assert response.headers["x-content-type-options"] == "nosniff"
            again = app.get(path, headers={"If-None-Match": response.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            assert app.request("HEAD", path).headers["content-length"] == str(len(response.content))
        assert_error(app.get("/playground/../index.html"), 404)
        assert_error(app.get("/playground/"), 404)
    with running_app(playground=False) as app:
        assert_error(app.get("/"), 404)


def test_pages_of_other_origins_are_let_in_by_name_only() -> None:
    def ask(app: App) -> httpx2.Response:
        headers = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
        return app.request("OPTIONS", "/v1/completions", headers=headers)

    with running_app(cors_origins=["https://a.example"]) as app:
        assert ask(app).headers["access-control-allow-origin"] == "https://a.example"
        other = app.get("/health", headers={"Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
        refused = app.post("/v1/completions", {}, headers={"Origin": "https://a.example"})
        assert refused.status_code == 400
        assert refused.headers["access-control-allow-origin"] == "https://a.example"
    with running_app() as app:
        assert "access-control-allow-origin" not in ask(app).headers
