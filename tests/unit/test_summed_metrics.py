"""The metrics of several processes, added up."""

from __future__ import annotations

import prometheus_client as prometheus
from prometheus_client.parser import text_string_to_metric_families

from gptwo.server.summed_metrics import summed


def metrics_of(amount: float, *, label: str = "stop") -> str:
    """What a process says that has counted so much."""
    registry = prometheus.CollectorRegistry()
    prometheus.Counter("gptwo_requests", "Requests", ["outcome"], registry=registry).labels(label).inc(amount)
    prometheus.Gauge("gptwo_running", "Running", registry=registry).set(amount)
    histogram = prometheus.Histogram("gptwo_time", "Time", registry=registry, buckets=(1.0, 2.0))
    for _ in range(int(amount)):
        histogram.observe(1.5)
    return prometheus.generate_latest(registry).decode()


def samples(text: str) -> dict[str, float]:
    return {
        sample.name + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_sample_is_the_sum_of_those_of_its_name_and_labels() -> None:
    found = samples(summed([metrics_of(2), metrics_of(3), metrics_of(4, label="length")]))
    assert found["gptwo_requests_total outcome=stop"] == 5
    assert found["gptwo_requests_total outcome=length"] == 4
    assert found["gptwo_running"] == 9
    assert (found["gptwo_time_bucket le=1.0"], found["gptwo_time_bucket le=2.0"]) == (0, 9)
    assert (found["gptwo_time_count"], found["gptwo_time_sum"]) == (9, 13.5)


def test_the_sum_has_the_kinds_and_explanations_of_what_is_added() -> None:
    families = {
        family.name: family for family in text_string_to_metric_families(summed([metrics_of(2), metrics_of(3)]))
    }
    assert (families["gptwo_requests"].type, families["gptwo_requests"].documentation) == ("counter", "Requests")
    assert families["gptwo_running"].type == "gauge"
    assert families["gptwo_time"].type == "histogram"


def test_a_sum_begins_when_the_first_of_its_parts_did() -> None:
    texts = [metrics_of(1), metrics_of(2)]
    moments = [samples(text)["gptwo_requests_created outcome=stop"] for text in texts]
    assert samples(summed(texts))["gptwo_requests_created outcome=stop"] == min(moments)


def test_of_a_process_that_has_ended_only_what_it_counted_is_left() -> None:
    gone = summed(["", metrics_of(2)], totals_only=True)
    assert "gptwo_running" not in samples(gone)
    found = samples(summed([gone, metrics_of(3)]))
    assert (found["gptwo_requests_total outcome=stop"], found["gptwo_running"], found["gptwo_time_count"]) == (5, 3, 5)
    assert summed([gone], totals_only=True) == gone


def test_the_sum_of_one_is_that_one() -> None:
    text = metrics_of(7)
    assert samples(summed([text])) == samples(text)
    assert summed([]) == ""
