"""The memory of the texts under way has a bound."""

from __future__ import annotations

from pathlib import Path

import pytest
from server_tools import GatedDecoder, assert_error, running_app, toy_model
from tiny_models import TOKENIZER, ToyDecoder, finish, tiny_config

from gptwo.engine import Completion, Engine
from gptwo.errors import InvalidRequestError
from gptwo.sampling import BeamParams, SamplingParams
from gptwo.server.memory import blocks_in_memory, free_memory

POSITIONS = 1024


@pytest.mark.parametrize(
    ("prompt", "params", "blocks"),
    [
        (100, SamplingParams(max_tokens=100), 4),
        (100, SamplingParams(max_tokens=100, n=3), 1 + 3 * 3),
        (100, SamplingParams(max_tokens=100, n=1, best_of=3), 1 + 3 * 3),
        (64, SamplingParams(max_tokens=0), 1),
        (1, SamplingParams(max_tokens=None), 16),
        (5000, SamplingParams(max_tokens=5, n=2, overflow="slide"), 32),
        (10, BeamParams(num_beams=4, max_tokens=60), 8),
    ],
)
def test_a_request_says_what_its_texts_may_come_to_hold(
    prompt: int, params: SamplingParams | BeamParams, blocks: int
) -> None:
    engine = Engine(ToyDecoder(tiny_config(n_positions=POSITIONS)), TOKENIZER)
    assert engine.prepare([1] * prompt, params).blocks(POSITIONS) == blocks


def test_texts_wait_where_their_memory_would_be_too_much_and_are_the_same() -> None:
    params = SamplingParams(max_tokens=60, n=2, seed=1, ignore_eos=True)
    free, bound = Engine(ToyDecoder(), TOKENIZER), Engine(ToyDecoder(), TOKENIZER, max_blocks=5)
    texts = []
    for engine in (free, bound):
        for n in range(4):
            engine.add([1, 2, n], params)
        most, events = 0, []
        while engine.has_work():
            events += engine.step()
            most = max(most, engine.running)
        assert most == (4 if engine is free else 2)
        texts.append({event.request_id: event.choices for event in events if isinstance(event, Completion)})
    assert texts[0] == texts[1]
    with pytest.raises(InvalidRequestError, match="6 blocks of 64 tokens, and there is memory for 5"):
        bound.prepare([1], SamplingParams(n=6))
    finish(bound, [])


def test_a_server_lets_wait_and_refuses_what_its_memory_does_not_hold() -> None:
    decoder = GatedDecoder()
    with running_app(toy_model(decoder), max_blocks=2, max_queue=1) as app:
        asked = [app.start(app.client.post("/v1/completions", json={"prompt": "we", "n": n})) for n in (2, 1)]
        app.wait_until(lambda: app.service.busy)
        assert_error(app.post("/v1/completions", {"prompt": "we"}), 429, code="rate_limit_exceeded")
        decoder.gate.set()
        assert [answer.result(60).status_code for answer in asked] == [200, 200]
        assert_error(app.post("/v1/completions", {"prompt": "we", "n": 3}), 400, "max_tokens")


def test_the_bound_is_what_the_machine_and_its_control_group_have_left(tmp_path: Path) -> None:
    config = ToyDecoder().config
    assert blocks_in_memory(config, root=tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    1000000 kB\n", encoding="ascii")
    assert free_memory(tmp_path) == 1024 * 10**6
    whole = blocks_in_memory(config, root=tmp_path)
    assert whole is not None
    assert blocks_in_memory(config, 2, tmp_path) in (whole // 2, whole // 2 + 1)
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n", encoding="ascii")
    (group / "memory.current").write_text("5000\n", encoding="ascii")
    assert free_memory(tmp_path) == 1024 * 10**6
    (group / "memory.max").write_text("6000\n", encoding="ascii")
    assert free_memory(tmp_path) == 1000
    (group / "memory.stat").write_text("anon 100\nactive_file 2000\ninactive_file 500\n", encoding="ascii")
    assert free_memory(tmp_path) == 3500  # the system gives back what it keeps of files
    assert blocks_in_memory(config, root=tmp_path) == -(-config.n_positions // 64)
