"""What a runner does, as Prometheus reads it. The names are vLLM's, with `gptwo_` in place of `vllm:`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict

from gptwo.engine import Completion
from gptwo.errors import DrainingError, GptwoError, InvalidRequestError, QueueFullError, QueueTimeoutError
from gptwo.server.observer import Snapshot

# Bounds of histograms, in seconds.
TOKEN_TIMES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0)
REQUEST_TIMES = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)

OUTCOMES = ("stop", "length", "cancelled", "invalid", "queue_full", "timeout", "draining", "error")
"""What becomes of a request: answered (to a stop, or as long as it may be), left by its client, refused or failed."""

# Counters of the engine's statistics: the field, the metric and its explanation.
STATISTICS = (
    ("computed_tokens", "computed_tokens", "Tokens that went through the model"),
    ("prefix_lookups", "prefix_cache_queries", "Prompts that were looked up among earlier texts"),
    ("prefix_hits", "prefix_cache_hits", "Prompts that begin with a block of an earlier text"),
    ("prefix_tokens", "prefix_cache_hit_tokens", "Prompt tokens that were not computed again"),
    ("drafted_tokens", "spec_decode_num_draft_tokens", "Tokens that were guessed and checked"),
    ("accepted_tokens", "spec_decode_num_accepted_tokens", "Guessed tokens that were right"),
)


class Metrics:
    """An observer of a runner (see `observer.Observer`), with a registry of its own."""

    def __init__(self, model_name: str) -> None:
        """model_name: the label of everything."""
        import prometheus_client as prometheus

        self.registry = registry = prometheus.CollectorRegistry()
        self._generate, self.content_type = prometheus.generate_latest, prometheus.CONTENT_TYPE_LATEST
        prometheus.ProcessCollector(registry=registry)  # memory, processor time, open files
        self._snapshot: Callable[[], Snapshot] | None = None
        self._reading = threading.Lock()
        labels = {"model_name": model_name}

        def counter(name: str, explanation: str) -> prometheus.Counter:
            return prometheus.Counter(f"gptwo_{name}", explanation, labels, registry=registry).labels(**labels)

        def gauge(name: str, explanation: str) -> prometheus.Gauge:
            return prometheus.Gauge(f"gptwo_{name}", explanation, labels, registry=registry).labels(**labels)

        def histogram(name: str, explanation: str, bounds: tuple[float, ...]) -> prometheus.Histogram:
            whole = prometheus.Histogram(f"gptwo_{name}", explanation, labels, registry=registry, buckets=bounds)
            return whole.labels(**labels)

        requests = prometheus.Counter(
            "gptwo_requests", "Requests by what became of them", (*labels, "outcome"), registry=registry
        )
        self._outcomes = {outcome: requests.labels(**labels, outcome=outcome) for outcome in OUTCOMES}
        self._prompt_tokens = counter("prompt_tokens", "Tokens of the prompts of requests that were begun")
        self._generation_tokens = counter("generation_tokens", "Tokens of output")
        self._queue_time = histogram(
            "request_queue_time_seconds", "From a request's coming to its beginning", REQUEST_TIMES
        )
        self._first_token = histogram(
            "time_to_first_token_seconds", "From a request's coming to the first token of a text", REQUEST_TIMES
        )
        self._next_token = histogram("inter_token_latency_seconds", "From a token of a text to the next", TOKEN_TIMES)
        self._whole_time = histogram(
            "e2e_request_latency_seconds", "From a request's coming to its end, however it ends", REQUEST_TIMES
        )
        self._running = gauge("num_requests_running", "Requests that are begun and not answered")
        self._waiting = gauge("num_requests_waiting", "Requests that are not begun")
        self._cache_blocks = gauge("kv_cache_blocks", "Blocks of 64 positions in use, a shared one counted once")
        self._prefix_blocks = gauge("prefix_cache_blocks", "Blocks that are held for prompts to come")
        self._statistics = {field: counter(name, explanation) for field, name, explanation in STATISTICS}
        self._counted = dict.fromkeys(self._statistics, 0)

    def render(self) -> tuple[bytes, str]:
        """The metrics as text, and its content type."""
        with self._reading:
            if self._snapshot is not None:
                self._read(self._snapshot())
            return self._generate(self.registry), self.content_type

    def _read(self, now: Snapshot) -> None:
        self._running.set(now.running)
        self._waiting.set(now.waiting)
        self._cache_blocks.set(float("nan") if now.cache_blocks is None else now.cache_blocks)
        self._prefix_blocks.set(now.prefix_blocks)
        for field, value in asdict(now.statistics).items():
            self._statistics[field].inc(value - self._counted[field])
            self._counted[field] = value

    # ---- what a runner tells

    def watch(self, snapshot: Callable[[], Snapshot]) -> None:
        """See `observer.Observer`."""
        self._snapshot = snapshot

    def begun(self, prompt_tokens: int, waited: float) -> None:
        """See `observer.Observer`."""
        self._prompt_tokens.inc(prompt_tokens)
        self._queue_time.observe(waited)

    def tokens(self, count: int) -> None:
        """See `observer.Observer`."""
        self._generation_tokens.inc(count)

    def first_token(self, seconds: float) -> None:
        """See `observer.Observer`."""
        self._first_token.observe(seconds)

    def next_token(self, seconds: float) -> None:
        """See `observer.Observer`."""
        self._next_token.observe(seconds)

    def refused(self, error: GptwoError) -> None:
        """See `observer.Observer`; also for a request that was refused before it came to the runner."""
        self._outcomes[outcome_of(error)].inc()

    def ended(self, outcome: Completion | GptwoError | None, seconds: float) -> None:
        """See `observer.Observer`."""
        self._outcomes[outcome_of(outcome)].inc()
        self._whole_time.observe(seconds)


def outcome_of(outcome: Completion | GptwoError | None) -> str:
    """One of OUTCOMES. None is a request that was cancelled; several texts count as their first."""
    if outcome is None:
        return "cancelled"
    if isinstance(outcome, Completion):
        return outcome.finish_reason
    for kind, name in (
        (InvalidRequestError, "invalid"),
        (QueueFullError, "queue_full"),
        (QueueTimeoutError, "timeout"),
        (DrainingError, "draining"),
    ):
        if isinstance(outcome, kind):
            return name
    return "error"
