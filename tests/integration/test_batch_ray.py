"""A batch on a Ray cluster: a small one of this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gptwo.batch import BatchModel, BatchSettings, parts_of, run_batch
from gptwo.errors import InvalidRequestError

pytestmark = [
    pytest.mark.slow,  # Ray alone takes half a minute to start
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray", reason="needs the extra `ray`")
    pytest.importorskip("ray.data", reason="needs the extra `ray`")
    ray.init(num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def settings(tiny_checkpoint: Path, directory: Path, out: str, **changes: object) -> BatchSettings:
    source = directory / "in.jsonl"
    if not source.exists():
        lines = [{"prompt": f"speak {i}", "max_tokens": 1 + i % 5} for i in range(50)] + [{"prompt": 1}]
        source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = changes.pop("model", BatchModel(name=str(tiny_checkpoint)))
    values = {"source": source, "out": directory / out, "model": model, "seed": 1, "threads": 1, "processes": 2}
    return BatchSettings(**{**values, **changes})  # type: ignore[arg-type]


def test_a_cluster_answers_as_processes_do(tiny_checkpoint: Path, tmp_path: Path) -> None:
    here = run_batch(settings(tiny_checkpoint, tmp_path, "here.jsonl"))
    there = run_batch(settings(tiny_checkpoint, tmp_path, "there.jsonl", ray=True))
    assert here.out.read_bytes() == there.out.read_bytes()
    assert (there.lines, there.errors, there.tokens) == (here.lines, here.errors, here.tokens) == (51, 1, here.tokens)


def test_a_run_goes_on_from_processes_to_a_cluster(tiny_checkpoint: Path, tmp_path: Path) -> None:
    whole = run_batch(settings(tiny_checkpoint, tmp_path, "whole.jsonl")).out.read_bytes()
    out = tmp_path / "out.jsonl"

    def interrupt(progress: object) -> None:
        if len(list(parts_of(out).glob("part-*"))) >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_batch(settings(tiny_checkpoint, tmp_path, "out.jsonl", max_sequences=1), interrupt)
    result = run_batch(settings(tiny_checkpoint, tmp_path, "out.jsonl", ray=True))
    assert result.resumed
    assert out.read_bytes() == whole


def test_a_model_that_cannot_be_opened_on_a_node_is_told(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = BatchModel(name=str(tiny_checkpoint), backend="native", device="cuda")
    with pytest.raises(InvalidRequestError, match="the native backend runs on the CPU only"):
        run_batch(settings(tiny_checkpoint, tmp_path, "out.jsonl", ray=True, model=model))
    assert not parts_of(tmp_path / "out.jsonl").exists()
