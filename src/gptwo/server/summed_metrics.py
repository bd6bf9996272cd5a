"""The metrics of several processes as those of one server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

# What is no amount, of which the earliest is taken: when a process, or a counter in it, began.
_MOMENTS = ("_created", "process_start_time_seconds")


def summed(texts: Iterable[str], *, totals_only: bool = False) -> str:
    """The sum of what several processes give to Prometheus, sample by sample, in its text format.

    totals_only: leave out what tells of the moment, such as requests under way: what a process that has ended is to be
    remembered by.
    """
    import prometheus_client as prometheus
    from prometheus_client.metrics_core import Metric
    from prometheus_client.parser import text_string_to_metric_families
    from prometheus_client.registry import Collector

    families: dict[str, Metric] = {}
    values: dict[tuple[str, str, tuple[tuple[str, str], ...]], float] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            moment = family.name.endswith(_MOMENTS)
            if totals_only and family.type not in ("counter", "histogram"):
                continue
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                key = (family.name, sample.name, tuple(sorted(sample.labels.items())))
                before = values.get(key)
                if before is None:
                    values[key] = sample.value
                else:
                    values[key] = min(before, sample.value) if moment else before + sample.value
    for (family_name, name, labels), value in values.items():
        families[family_name].add_sample(name, dict(labels), value)

    class Sums(Collector):
        def collect(self) -> Iterator[Metric]:
            return iter(families.values())

    registry = prometheus.CollectorRegistry(auto_describe=False)
    registry.register(Sums())
    return prometheus.generate_latest(registry).decode()
