"""`gptwo bench` as it is typed, on a tiny shape."""

from __future__ import annotations

import json

from gptwo.cli import main


def test_a_quick_run_ends_with_one_line_of_json_and_leaves_its_files(tmp_path, capfd):
    out, results = tmp_path / "bench.json", tmp_path / "results"
    words = ["bench", "--quick", "--shape", "tiny", "--threads", "1", "--out", str(out), "--results", str(results)]
    assert main(words) == 0
    lines = capfd.readouterr().out.splitlines()
    whole = json.loads(lines[-1])
    assert whole == json.loads(out.read_text())
    measured = [result["measure"] for result in whole["results"]]
    assert list(dict.fromkeys(measured)) == ["decode", "engine", "prefill", "batch", "context", "threads"]
    assert sum("% of read bandwidth)" in line for line in lines) == len(measured)
    assert len(list(results.iterdir())) == 2


def test_the_ladder_is_climbed(tmp_path, capfd):
    assert main(["bench", "--quick", "--shape", "tiny", "--threads", "1", "--ladder", "--repetitions", "1"]) == 0
    text = capfd.readouterr().out
    assert [rung["rung"] for rung in json.loads(text.splitlines()[-1])["ladder"]][:2] == [
        "recompute everything",
        "cache keys and values",
    ]
    assert "in all" in text


def test_a_model_of_ones_own_is_measured(capfd):
    words = ["bench", "shakespeare", "--measure", "decode", "--weights", "f32", "--steps", "2", "--repetitions", "1"]
    assert main([*words, "--threads", "1"]) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["model"] == "shakespeare"


def test_peers_that_are_not_installed_are_named(tmp_path, capfd):
    words = ["bench", "--quick", "--shape", "tiny", "--threads", "1", "--peers", "--peer", "openvino"]
    words += ["--peer-python", f"all={tmp_path / 'no-python'}", "--weights", "f32", "--cache", str(tmp_path)]
    assert main(words) == 0
    text = capfd.readouterr().out
    assert "OpenVINO GenAI: skipped" in text
    assert json.loads(text.splitlines()[-1])["peers"][0]["engine"] == "gptwo"


def test_mistakes_are_one_line(capfd):
    assert main(["bench", "--shape", "gpt3"]) == 1
    assert "shape 'gpt3' is not known" in capfd.readouterr().err
    assert main(["bench", "shakespeare", "--shape", "gpt2"]) == 2
    assert main(["bench", "--threads", "0"]) == 2
    assert main(["bench", "--shape", "tiny", "--peers", "--peer", "llama", "--quick"]) == 1
    assert "no peer 'llama'" in capfd.readouterr().err
