"""Whatever a config.json holds, reading it gives a configuration or a ConfigError, and allocates little."""

from __future__ import annotations

import dataclasses
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptwo.config import ALIASES, GPTConfig
from gptwo.errors import ConfigError

SLACK = 200_000  # bytes: what Python itself needs to read and refuse any small file

fuzz = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400)

numbers = st.one_of(
    st.integers(-3, 2000),
    st.sampled_from([2**31 - 1, 2**31, 2**63, 10**39, 10**41, 10**400, -(10**400)]),
    st.floats(),
    st.sampled_from([1e-5, 1e308, -1e308, 0.1, 5e-324]),
)
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
fields = [field.name for field in dataclasses.fields(GPTConfig)]
keys = st.sampled_from([*fields, *ALIASES, "model_type", "add_cross_attention", "architectures"]) | st.text(max_size=8)
configurations = st.dictionaries(keys, anything, max_size=6) | anything


def outcome(file: Path, content: bytes) -> GPTConfig | None:
    """The configuration, if one was read. Fails on any error but ConfigError, and on a large allocation."""
    file.write_bytes(content)
    tracemalloc.start()
    try:
        return GPTConfig.load(file)
    except ConfigError as error:
        message = str(error)
        assert message.startswith(str(file))
        assert "\n" not in message.removeprefix(str(file))
        assert len(message) < len(str(file)) + 400
        return None
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak <= len(content) + SLACK


@fuzz
@given(values=configurations)
def test_any_json_is_a_configuration_or_a_config_error(tmp_path: Path, values: Any) -> None:
    config = outcome(tmp_path / "config.json", json.dumps(values).encode())
    if config is not None:
        # What was accepted is usable, and survives being written.
        assert config.head_size * config.n_head == config.n_embd
        assert config.parameter_count > 0
        assert config.attention_scale(0) > 0
        config.save(tmp_path / "again.json")
        again = GPTConfig.load(tmp_path / "again.json")
        assert json.dumps(again.to_dict(), sort_keys=True) == json.dumps(config.to_dict(), sort_keys=True)


@fuzz
@given(content=st.binary(max_size=100))
def test_any_bytes_are_a_configuration_or_a_config_error(tmp_path: Path, content: bytes) -> None:
    outcome(tmp_path / "config.json", content)


@pytest.mark.parametrize("seed", range(4))
def test_any_damage_to_a_configuration_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    whole = json.dumps({**GPTConfig().to_dict(), "task_specific_params": {"a": [1, 2.5, None]}}).encode()
    outcomes = []
    for _ in range(500):
        content = bytearray(whole)
        for _ in range(generator.choice([1, 1, 2, 10])):
            at = generator.randrange(len(content))
            if generator.random() < 0.5:
                content[at] = generator.randrange(256)
            else:
                content[at:at] = generator.choice(
                    [b"0", b"9" * 5000, b"-", b"e9", b"{", b"[" * 3000, b'"', b"\\ud800", b"NaN"]
                )
        outcomes.append(outcome(tmp_path / "config.json", bytes(content)) is not None)
    assert 0 < sum(outcomes) < len(outcomes)
