"""`gptwo serve` with the embedded model, asked by the official client of OpenAI, and as lm-eval asks."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from server_process import SECONDS, Server, running_server

import gptwo
from gptwo.language_model import LanguageModel

KEY = "a key for tests"
PROMPT = "ROMEO:\nBut soft,"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server("shakespeare", GPTWO_API_KEY=KEY) as running:
        yield running
        assert running.end() == 0


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, timeout=SECONDS, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def lm() -> Iterator[LanguageModel]:
    with gptwo.load("shakespeare", threads=1) as model:
        yield model


def post(server: Server, path: str, body: Any) -> Any:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(server.url + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return json.load(answer)


# ---- OpenAI's client


def test_the_client_gets_the_text_that_the_model_makes_alone(client: openai.OpenAI, lm: LanguageModel) -> None:
    params = {"max_tokens": 24, "temperature": 0.8, "top_p": 0.9, "seed": 7}
    answer = client.completions.create(model="shakespeare", prompt=PROMPT, **params)
    expected = lm.generate(PROMPT, gptwo.SamplingParams(**params))
    assert answer.choices[0].text == expected.text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 24
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 24
    assert answer.object == "text_completion"


def test_the_client_streams(client: openai.OpenAI) -> None:
    params: dict[str, Any] = {"max_tokens": 24, "seed": 7, "n": 2, "stop": ["\n\n"]}
    whole = client.completions.create(model="shakespeare", prompt=PROMPT, **params)
    texts, reasons, usage = ["", ""], [None, None], None
    for chunk in client.completions.create(
        model="shakespeare", prompt=PROMPT, stream=True, stream_options={"include_usage": True}, **params
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage


def test_the_client_reads_log_probabilities(client: openai.OpenAI, lm: LanguageModel) -> None:
    answer = client.completions.create(model="shakespeare", prompt=PROMPT, max_tokens=0, echo=True, logprobs=2)
    lists = answer.choices[0].logprobs
    assert lists is not None
    assert lists.token_logprobs == list(lm.score(PROMPT).logprobs)
    assert lists.tokens is not None
    assert "".join(lists.tokens) == answer.choices[0].text == PROMPT


def test_the_client_passes_on_vllms_parameters(client: openai.OpenAI, lm: LanguageModel) -> None:
    extra = {"top_k": 3, "min_tokens": 5, "repetition_penalty": 1.3, "return_token_ids": True}
    answer = client.completions.create(model="shakespeare", prompt=PROMPT, max_tokens=9, seed=1, extra_body=extra)
    expected = lm.generate(
        PROMPT, gptwo.SamplingParams(max_tokens=9, seed=1, top_k=3, min_tokens=5, repetition_penalty=1.3)
    )
    assert answer.choices[0].token_ids == list(expected.token_ids)  # type: ignore[attr-defined]


def test_the_client_lists_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "shakespeare"
    assert client.models.retrieve("shakespeare") == model


def test_the_clients_errors_have_their_own_classes(client: openai.OpenAI, server: Server) -> None:
    ask: dict[str, Any] = {"model": "shakespeare", "prompt": PROMPT}
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(**ask, temperature=-1)
    assert refused.value.param == "temperature"
    assert refused.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(**ask, max_tokens=300)
    assert long.value.code == "context_length_exceeded"
    assert "300" in str(long.value)
    assert "256" in str(long.value)
    with pytest.raises(openai.NotFoundError) as absent:
        client.completions.create(model="davinci-002", prompt=PROMPT)
    assert absent.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError) as unknown:
        client.with_options(api_key="wrong").completions.create(**ask)
    assert unknown.value.code == "invalid_api_key"
    with pytest.raises(openai.APIStatusError) as large:
        client.completions.create(model="shakespeare", prompt="a" * 2_000_000)
    assert large.value.status_code == 413
    with pytest.raises(openai.BadRequestError):  # before the stream begins
        client.completions.create(**ask, stream=True, suffix="end")


def test_the_client_comes_back_after_a_429() -> None:
    with (
        running_server("shakespeare", "--max-sequences", "1", "--max-queue", "1") as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=SECONDS, max_retries=30) as client,
    ):
        ask: dict[str, Any] = {"model": "shakespeare", "prompt": PROMPT, "max_tokens": 60, "seed": 1}
        texts: list[str] = []
        threads = [
            threading.Thread(target=lambda: texts.append(client.completions.create(**ask).choices[0].text))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert len(texts) == 6
        assert len(set(texts)) == 1
        assert server.log.count("status=429") > 0


def test_many_clients_get_what_each_would_get_alone(server: Server, lm: LanguageModel) -> None:
    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, timeout=SECONDS) as client:

            async def ask(seed: int) -> str:
                prompt, length = PROMPT[: 4 + seed % 11], 5 + seed % 13
                if seed % 2:
                    answer = await client.completions.create(
                        model="shakespeare", prompt=prompt, max_tokens=length, seed=seed
                    )
                    return answer.choices[0].text
                stream = await client.completions.create(
                    model="shakespeare", prompt=prompt, max_tokens=length, seed=seed, stream=True
                )
                return "".join([chunk.choices[0].text async for chunk in stream])

            return list(await asyncio.gather(*map(ask, range(48))))

    answers = asyncio.run(ask_all())
    for seed, text in enumerate(answers):
        params = gptwo.SamplingParams(max_tokens=5 + seed % 13, seed=seed)
        assert text == lm.generate(PROMPT[: 4 + seed % 11], params).text
    server.wait_for("gptwo_num_requests_running", 0)


def test_the_python_of_the_documentation_runs(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "server.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    code = code.replace("http://127.0.0.1:8000", server.url).replace('"none"', repr(KEY))
    names: dict[str, Any] = {}
    exec(compile(code, "server.md", "exec"), names)
    names["client"].close()
    assert capsys.readouterr().out.strip()


# ---- lm-eval's local-completions


def test_what_lm_eval_reads_is_what_the_model_says(server: Server, lm: LanguageModel) -> None:
    pairs = [
        ("ROMEO:\nBut soft, what", " light through yonder window"),
        ("JULIET:", " O Romeo"),
        ("KING", " HENRY:\nI"),
    ]

    def encode(text: str) -> list[int]:
        return list(post(server, "/tokenize", {"prompt": text, "add_special_tokens": False})["tokens"])

    contexts = [encode(context) for context, _ in pairs]
    whole = [context + encode(end) for context, (_, end) in zip(contexts, pairs, strict=True)]
    body = {
        "model": "shakespeare",
        "prompt": whole,
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    answer = post(server, "/v1/completions", body)
    for choice, ids, context in zip(answer["choices"], whole, contexts, strict=True):
        lists = choice["logprobs"]
        values = lists["token_logprobs"][len(context) : -1]
        tops = lists["top_logprobs"][len(context) : -1]
        expected = lm.score(ids).logprobs[len(context) :]
        assert values == list(expected)
        greedy = [int(row.argmax()) for row in lm.logits(ids)[len(context) - 1 : -1]]
        assert all(value == max(top.values()) for value, top in zip(values, tops, strict=True)) == (
            greedy == ids[len(context) :]
        )
    assert post(server, "/detokenize", {"tokens": whole[0]})["prompt"] == "".join(pairs[0])


def test_scores_over_http_are_those_of_the_model(server: Server, lm: LanguageModel, shared_text: str) -> None:
    (found,) = post(server, "/v1/score", {"input": shared_text})["data"]
    score = lm.score(shared_text)
    assert found["token_logprobs"] == list(score.logprobs)
    assert (found["total"], found["perplexity"]) == (score.total, score.perplexity)


@pytest.fixture
def shared_text() -> str:
    """Longer than the model's positions."""
    card = Path(gptwo.__file__).parent / "embedded" / "shakespeare" / "README.md"
    return card.read_text(encoding="utf-8")[:1800]
