"""The metrics, as Prometheus reads them."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import pytest
from random_model import native, random_arrays, tiny_config
from tiny_models import TOKENIZER, VOCABULARY, ToyDecoder

from gptwo.engine import Choice, Completion, Statistics
from gptwo.errors import (
    ContextLengthError,
    DecoderError,
    DrainingError,
    GptwoError,
    InvalidRequestError,
    QueueFullError,
    QueueTimeoutError,
)
from gptwo.loading import OpenModel
from gptwo.sampling import SamplingParams
from gptwo.server.observer import Snapshot
from gptwo.server.runner import Runner

pytest.importorskip("prometheus_client", reason="needs the extra server")

from prometheus_client.parser import text_string_to_metric_families

from gptwo.server.metrics import OUTCOMES, Metrics, outcome_of


def read(metrics: Metrics) -> dict[str, float]:
    """Every sample of ours by its name, with the outcome where there is one; of histograms the sums and counts."""
    text, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            if sample.name.startswith("gptwo_") and not sample.name.endswith(("_bucket", "_created")):
                assert sample.labels["model_name"] == 'a "model"'
                name = sample.name.removeprefix("gptwo_")
                found[f"{name} {sample.labels['outcome']}" if "outcome" in sample.labels else name] = sample.value
    return found


def metrics_of(decoder: Any, work: Any, **options: Any) -> dict[str, float]:
    """What is counted when `work` is done with a runner, before it is closed."""
    metrics = Metrics('a "model"')

    async def serve() -> dict[str, float]:
        runner = Runner(OpenModel("toy", decoder, TOKENIZER), observer=metrics, **options)
        runner.start()
        try:
            await work(runner)
            assert await runner.drain(60)
            return read(metrics)
        finally:
            await runner.close()

    return asyncio.run(serve())


def test_everything_is_there_and_zero_before_anything_happens() -> None:
    found = read(Metrics('a "model"'))
    assert {f"requests_total {outcome}" for outcome in OUTCOMES} <= found.keys()
    assert {
        "num_requests_running",
        "num_requests_waiting",
        "prompt_tokens_total",
        "generation_tokens_total",
        "time_to_first_token_seconds_count",
        "inter_token_latency_seconds_count",
        "e2e_request_latency_seconds_count",
        "request_queue_time_seconds_count",
        "kv_cache_blocks",
        "prefix_cache_blocks",
        "prefix_cache_queries_total",
        "prefix_cache_hits_total",
        "prefix_cache_hit_tokens_total",
        "spec_decode_num_draft_tokens_total",
        "spec_decode_num_accepted_tokens_total",
        "computed_tokens_total",
    } <= found.keys()
    assert set(found.values()) == {0.0}


def test_requests_and_tokens_are_counted() -> None:
    async def work(runner: Runner) -> None:
        params = SamplingParams(max_tokens=5, n=2, seed=1, ignore_eos=True)
        tickets = runner.submit([runner.prepare([1, 2, 3], params), runner.prepare([4], params)])
        with pytest.raises(QueueFullError):
            runner.submit([runner.prepare([5], params)])
        for ticket in tickets:
            await ticket.completion()

    found = metrics_of(ToyDecoder(), work, max_queue=1, max_sequences=2)
    assert found["requests_total length"] == 2
    assert found["requests_total queue_full"] == 1
    assert found["prompt_tokens_total"] == 4
    assert found["generation_tokens_total"] == 20
    assert found["time_to_first_token_seconds_count"] == 4
    assert found["inter_token_latency_seconds_count"] == 16
    assert found["e2e_request_latency_seconds_count"] == 2


@pytest.fixture(scope="module")
def decoder() -> Any:
    config = tiny_config(
        vocab_size=VOCABULARY, n_positions=256, eos_token_id=VOCABULARY - 1, bos_token_id=VOCABULARY - 1
    )
    return native(config, random_arrays(config), threads=1)


def test_the_cache_prefixes_and_speculation_are_those_of_the_engine(decoder: Any) -> None:
    async def work(runner: Runner) -> None:
        prompt = [7, 8, 9] * 50
        for _ in range(2):
            params = SamplingParams(max_tokens=40, temperature=0, speculate=4, ignore_eos=True)
            await runner.submit([runner.prepare(prompt, params)])[0].completion()

    found = metrics_of(decoder, work)
    assert found["prefix_cache_queries_total"] == 2
    assert found["prefix_cache_hits_total"] == 1
    assert found["prefix_cache_hit_tokens_total"] == 128
    assert found["prefix_cache_blocks"] >= 2
    assert found["kv_cache_blocks"] == found["prefix_cache_blocks"]
    assert found["spec_decode_num_draft_tokens_total"] >= found["spec_decode_num_accepted_tokens_total"] > 0
    assert found["generation_tokens_total"] == 80
    assert found["time_to_first_token_seconds_count"] == 2
    assert found["inter_token_latency_seconds_count"] == 78
    assert found["request_queue_time_seconds_count"] == found["e2e_request_latency_seconds_count"] == 2
    assert decoder.cache_blocks == 0  # now that the runner is closed


def test_a_decoder_that_counts_no_blocks_says_so() -> None:
    async def work(runner: Runner) -> None:
        await runner.submit([runner.prepare([1], SamplingParams(max_tokens=2))])[0].completion()

    assert math.isnan(metrics_of(ToyDecoder(), work)["kv_cache_blocks"])


def test_reading_twice_counts_nothing_twice() -> None:
    metrics = Metrics('a "model"')
    statistics = Statistics(computed_tokens=5, accepted_tokens=2)
    metrics.watch(lambda: Snapshot(3, 4, 7, 6, replace(statistics)))
    first, second = read(metrics), read(metrics)
    assert first == second
    assert (first["num_requests_running"], first["num_requests_waiting"]) == (3, 4)
    assert (first["kv_cache_blocks"], first["prefix_cache_blocks"]) == (7, 6)
    assert first["computed_tokens_total"] == 5
    statistics.computed_tokens += 6
    third = read(metrics)
    assert third["computed_tokens_total"] == 11
    assert third["spec_decode_num_accepted_tokens_total"] == 2


@pytest.mark.parametrize(
    ("outcome", "name"),
    [
        (None, "cancelled"),
        (Completion(1, (1,), (Choice(0, "", (), "stop"), Choice(1, "", (), "length"))), "stop"),
        (Completion(1, (1,), (Choice(0, "", (), "length"),)), "length"),
        (InvalidRequestError(""), "invalid"),
        (ContextLengthError(""), "invalid"),
        (QueueFullError(""), "queue_full"),
        (QueueTimeoutError(""), "timeout"),
        (DrainingError(""), "draining"),
        (DecoderError(""), "error"),
        (GptwoError(""), "error"),
    ],
)
def test_every_outcome_has_its_name(outcome: Any, name: str) -> None:
    assert outcome_of(outcome) == name
    assert name in OUTCOMES


def test_what_is_refused_before_it_comes_to_the_runner_is_counted() -> None:
    metrics = Metrics('a "model"')
    metrics.refused(InvalidRequestError("n is 0"))
    assert read(metrics)["requests_total invalid"] == 1
    assert read(metrics)["e2e_request_latency_seconds_count"] == 0
