"""The arithmetic of `gptwo bench`: bytes, times, lines, cases, the ladder, tables."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest

from gptwo.bench.ladder import Climbed, Rung, ladder_lines, rungs
from gptwo.bench.machine import Machine, read_bandwidth, this_machine
from gptwo.bench.measures import Case, Result, cases
from gptwo.bench.peers.comparison import Contender, ratios
from gptwo.bench.peers.table import OURS, PEERS, missing, pythons
from gptwo.bench.random_model import random_checkpoint, shape_config
from gptwo.bench.report import Report, table
from gptwo.bench.timing import Times, turn_by_turn
from gptwo.bench.traffic import cache_bytes, pass_operations, step_bytes, weight_bytes
from gptwo.config import GPTConfig
from gptwo.errors import BenchError, InvalidRequestError, MissingDependencyError

GPT2 = GPTConfig()
MACHINE = Machine("a processor", 2, ("avx2",), "avx2", 2**34, "Linux", "0.1.0", "2026-11-22T03:00:00+00:00", 0.1)


def test_a_step_in_f32_reads_every_parameter_but_the_positions():
    assert weight_bytes(GPT2, "f32") == 4 * (GPT2.parameter_count - 1024 * 768) == 494_613_504


def test_smaller_formats_read_their_matrices_scales_and_an_int8_head():
    matrices, head, vectors = 12 * 12 * 768**2, 50257 * 768, 12 * 13 * 768 + 2 * 768
    assert weight_bytes(GPT2, "bf16") == 2 * (matrices + head) + 4 * vectors
    assert weight_bytes(GPT2, "int8") == (matrices + head) * 17 // 16 + 4 * vectors
    assert weight_bytes(GPT2, "int4") == matrices * 9 // 16 + head * 17 // 16 + 4 * vectors


def test_a_step_reads_the_weights_once_and_each_sequences_cache():
    assert cache_bytes(GPT2, 1000) == 2 * 12 * 768 * 1000 * 4
    assert step_bytes(GPT2, "int8", context=16, sequences=8) == weight_bytes(GPT2, "int8") + 8 * cache_bytes(GPT2, 16)


def test_a_pass_over_one_token_multiplies_each_weight_once():
    weights = 12 * 12 * 768**2 + 50257 * 768
    assert pass_operations(GPT2, 1) == 2 * (weights + 12 * 2 * 768)


def test_a_line_reads_as_the_style_has_it():
    result = Result(Case("decode", "int8", 2), Times((0.00281, 0.00301)), 130_946_000, 0, 55.5e9)
    assert result.line() == (
        "decode int8  2.81 ms/token  356 tokens/s  46.6 GB/s  (84% of read bandwidth)  median 2.91"
    )


def test_turns_go_round_and_the_first_round_does_not_count():
    order: list[str] = []

    def task(name: str):
        def run() -> float:
            order.append(name)
            return float(len(order))

        return run

    times = turn_by_turn({"a": task("a"), "b": task("b")}, 2)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert times == {"a": Times((3.0, 5.0)), "b": Times((4.0, 6.0))}
    assert (times["a"].minimum, times["a"].median) == (3.0, 4.0)


def test_what_is_hopelessly_slow_is_run_no_more_than_it_must() -> None:
    seconds = {"fast": 1.0, "slow": 7.9, "hopeless": 8.1, "utterly": 24.1, "failed": 0.0}
    runs = dict.fromkeys(seconds, 0)

    def task(name: str) -> float:
        runs[name] += 1
        return seconds[name]

    times = turn_by_turn({name: functools.partial(task, name) for name in seconds}, 3, hopeless=8.0)
    assert runs == {"fast": 4, "slow": 4, "hopeless": 2, "utterly": 1, "failed": 4}
    assert {name: len(found.seconds) for name, found in times.items()} == {
        "fast": 3,
        "slow": 3,
        "hopeless": 1,
        "utterly": 1,
        "failed": 3,
    }


def test_cases_fit_into_the_model():
    every = cases(GPT2, ["context", "batch", "prefill"], ["int8"], 2)
    assert [case.label for case in every if case.measure == "context"] == [
        "context 16 int8", "context 256 int8", "context 512 int8", "context 1000 int8",
    ]  # fmt: skip
    assert [case.sequences for case in every if case.measure == "batch"] == [1, 2, 4, 8, 16, 32]
    short = cases(GPT2.replace(n_positions=256), ["context", "prefill"], ["int8"], 2)
    assert [case.context for case in short] == [128, 16]


def test_threads_are_measured_up_to_as_many_as_there_are():
    assert [case.threads for case in cases(GPT2, ["threads"], ["int8"], 6)] == [1, 2, 4, 6]
    assert [case.threads for case in cases(GPT2, ["threads"], ["int8"], 1)] == [1]


def test_the_ladder_adds_one_thing_at_a_time_in_the_published_order():
    names = [rung.name for rung in rungs(2, speculation=True)]
    assert names == [
        "recompute everything", "cache keys and values", "last position's logits only", "2 threads", "bf16 weights",
        "int8 weights", "int4 weights", "speculation",
    ]  # fmt: skip
    assert [rung.name for rung in rungs(1, speculation=False)][2:4] == ["last position's logits only", "bf16 weights"]
    assert not any(rung.speculate for rung in rungs(2, speculation=True)[:-1])


def test_the_ladder_says_what_each_rung_gains_on_the_one_before_and_on_the_first():
    climbed = [Climbed(Rung("one"), Times((0.4,))), Climbed(Rung("two"), Times((0.1,)), "a note")]
    assert ladder_lines(climbed)[1] == "two    100.00 ms/token   4.00x     4.0x in all  (a note)"


def test_random_weights_are_the_same_every_time_and_of_the_shape_asked_for():
    one, two = random_checkpoint("tiny"), random_checkpoint("tiny")
    assert one.config == shape_config("tiny")
    for name, tensor in one.tensors.items():
        np.testing.assert_array_equal(tensor.float32(), two.tensors[name].float32())
    with pytest.raises(InvalidRequestError, match="'gpt2-xxl' is not known; did you mean 'gpt2-xl'"):
        shape_config("gpt2-xxl")


def test_read_bandwidth_is_a_speed():
    assert read_bandwidth(1, seconds=0.0, size=1 << 20) > 0
    assert read_bandwidth(2, seconds=0.0, size=1 << 20) > 0
    assert this_machine().cpus >= 1


def contender(peer: str, seconds: float, peak: int = 2**20, weights: str = "int8") -> Contender:
    kind = OURS if peer == "gptwo" else PEERS[peer]
    return Contender(kind, weights, "1.0", {"decode": Times((seconds, 2 * seconds))}, peak, 16)


def test_ratios_are_against_the_fastest_peer_of_the_same_format():
    found = ratios(
        [contender("gptwo", 0.002), contender("openvino", 0.005, 2**21), contender("llama_cpp", 0.004),
         contender("transformers", 0.001, weights="f32")]
    )  # fmt: skip
    assert [ratio.line() for ratio in found] == [
        "decode int8: 2.00 times as fast as the fastest peer, llama.cpp Q8_0",
        "memory int8: 1.00 times as little memory as the leanest peer, llama.cpp Q8_0",
    ]


def test_a_report_is_one_object_of_json_and_a_page():
    report = Report("gpt2-shape", 124_439_808, 2, 5, MACHINE, {2: 50e9})
    report.contenders = [contender("gptwo", 0.002), contender("llama_cpp", 0.004)]
    report.skipped = {"ONNX Runtime": "python lacks onnx"}
    assert json.loads(json.dumps(report.as_dict()))["ratios"][0]["ratio"] == 2.0
    page = report.markdown()
    assert "| gptwo int8 (1.0) | 2.00 / 3.00 | – | – | – | 1 | 16/16 |" in page
    assert "- ONNX Runtime: python lacks onnx" in page


def test_results_are_written_under_date_and_model(tmp_path):
    path = Report("gpt2-shape, random weights", 1, 2, 5, MACHINE, {2: 50e9}).save(tmp_path / "results")
    assert path.name == "2026-11-22T0300-gpt2-shape-random-weights.md"
    assert json.loads(path.with_suffix(".json").read_text())["machine"]["processor"] == "a processor"
    with pytest.raises(BenchError, match="cannot be written"):
        Report("a", 1, 2, 5, MACHINE, {2: 50e9}).save(path)


def test_a_table_has_a_rule_and_no_stray_bars():
    assert table(["a", "b"], [["x|y", "1"]]) == "| a | b |\n|---|---:|\n| x\\|y | 1 |"


def test_pythons_come_by_name_or_for_all_peers():
    found = pythons(["all=/usr/bin/a", "openvino=/usr/bin/b"])
    assert found["llama_cpp"] == "/usr/bin/a"
    assert found["openvino"] == "/usr/bin/b"
    assert Path(found["gptwo"]).exists()
    for wrong in ("openvino", "openvino=", "opnvino=/a"):
        with pytest.raises(InvalidRequestError, match="peer-python"):
            pythons([wrong])


def test_what_a_peers_python_lacks_is_named(tmp_path):
    assert missing(PEERS["openvino"], str(tmp_path / "none")) == "its Python cannot be run (FileNotFoundError)"
    fake = PEERS["openvino"].__class__("x", "x", {}, ("json", "no_such_module_here"))
    reason = missing(fake, pythons([])["gptwo"])
    assert reason is not None
    assert reason.endswith(" lacks no_such_module_here")


def test_the_ladder_is_drawn(tmp_path):
    from gptwo.bench.ladder_plot import draw_ladder

    climbed = [Climbed(rung, Times((0.4 / 2**i,))) for i, rung in enumerate(rungs(2, speculation=True))]
    try:
        draw_ladder(climbed, tmp_path / "ladder.png", title="a", caption="b")
    except MissingDependencyError:
        pytest.skip("matplotlib, the extra `plot`, is not installed")
    assert (tmp_path / "ladder.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(BenchError, match="cannot be written"):
        draw_ladder(climbed, tmp_path / "none" / "ladder.png", title="a", caption="b")
