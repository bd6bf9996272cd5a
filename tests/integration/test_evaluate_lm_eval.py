"""Tasks of lm-eval through gptwo: the figures that lm-eval finds by itself with transformers' model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# It brings many packages, so it may live in an environment of its own, which has gptwo and transformers too.
PYTHON = os.environ.get("GPTWO_LM_EVAL_PYTHON", sys.executable)
FOUND = subprocess.run(
    [PYTHON, "-c", "import lm_eval, transformers, accelerate, gptwo.evaluation"], capture_output=True, check=False
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        FOUND.returncode != 0,
        reason="lm-eval[hf] is not installed beside gptwo; GPTWO_LM_EVAL_PYTHON may name a Python that has both",
    ),
]

QUESTIONS = [
    {"context": context, "choices": choices, "answer": answer}
    for context, choices, answer in (
        ("First Citizen: Before we proceed any", [" further,", " speak", " know't!"], 0),
        ("All: Speak,", [" speak.", " hear me", " é"], 1),
        ("hear me ", ["speak", "proceed any further"], 0),
        ("", ["We know't!", "All"], 1),
        ("We know't! " * 20, ["All: Speak, speak.", " any"], 0),
    )
]
TEXTS = ["Before we proceed any further, hear me speak.", "We know't! All: Speak. " * 20, "é 😀"]
PROMPTS = [{"text": "hear me", "answer": "speak"}, {"text": "All: Speak, " * 12, "answer": "any"}]
TASKS = {
    "gptwo_choices": """
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "gptwo_texts": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}, {metric: word_perplexity}]
""",
    "gptwo_generated": """
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks that need no download."""
    directory = tmp_path_factory.mktemp("lm-eval")
    data = {"gptwo_choices": QUESTIONS, "gptwo_texts": [{"text": text} for text in TEXTS], "gptwo_generated": PROMPTS}
    for name, task in TASKS.items():
        path = directory / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in data[name]))
        files = json.dumps({"data_files": {"test": str(path)}})  # which is YAML too
        head = f"task: {name}\ndataset_path: json\ndataset_kwargs: {files}\ntest_split: test\n"
        (directory / f"{name}.yaml").write_text(head + task)
    return directory


def python(directory: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(directory / "hub"),
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return subprocess.run(
        [PYTHON, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=directory,
        timeout=600,
    )


def lm_eval(directory: Path, name: str, *arguments: object) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The results, and what the model answered to each document, of a run of lm-eval's own command line."""
    out = directory / name
    done = python(
        directory,
        *arguments,
        *("--include_path", directory, "--tasks", ",".join(TASKS), "--log_samples", "--output_path", out),
    )
    assert done.returncode == 0, done.stderr
    (results,) = out.rglob("results_*.json")
    answers = {}
    for task in TASKS:
        (path,) = out.rglob(f"samples_{task}_*.jsonl")
        lines = sorted((json.loads(line) for line in path.read_text().splitlines()), key=lambda line: line["doc_id"])
        answers[task] = [line["filtered_resps"] for line in lines]
    return json.loads(results.read_text())["results"], answers


@pytest.fixture(scope="module")
def theirs(directory: Path, tiny_checkpoint: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    arguments = f"pretrained={tiny_checkpoint},dtype=float32"
    return lm_eval(directory, "hf", "-m", "lm_eval", "--model", "hf", "--model_args", arguments, "--device", "cpu")


@pytest.fixture(scope="module")
def ours(directory: Path, tiny_checkpoint: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    arguments = f"model={tiny_checkpoint},weights=f32"
    return lm_eval(directory, "gptwo", "-m", "gptwo.evaluation", "--model", "gptwo", "--model_args", arguments)


def test_every_answer_is_that_of_lm_evals_own_model(ours, theirs) -> None:
    for task in ("gptwo_choices", "gptwo_texts"):
        for one, other in zip(ours[1][task], theirs[1][task], strict=True):
            assert numbers(one) == pytest.approx(numbers(other), abs=1e-3), task
    assert ours[1]["gptwo_generated"] == theirs[1]["gptwo_generated"]


def test_the_figures_are_those_of_lm_evals_own_model(ours, theirs) -> None:
    for task, found in theirs[0].items():
        for key, value in found.items():
            if isinstance(value, float):
                assert ours[0][task][key] == pytest.approx(value, rel=1e-4), (task, key)


def test_gptwo_evaluate_runs_the_same_tasks(ours, directory: Path, tiny_checkpoint: Path) -> None:
    arguments = ["evaluate", tiny_checkpoint, "--tasks", ",".join(TASKS), "--include-path", directory, "--json"]
    done = python(directory, "-m", "gptwo", *arguments, "--weights", "f32")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    results = {result["task"].removeprefix("lm-eval:"): result for result in json.loads(done.stdout)["results"]}
    for task, found in ours[0].items():
        for key, value in found.items():
            name, _, chosen = key.partition(",")
            if isinstance(value, float) and chosen == "none" and not name.endswith("_stderr"):
                assert results[task][name] == value, (task, key)


def test_a_task_that_there_is_not_is_one_line(directory: Path, tiny_checkpoint: Path) -> None:
    done = python(directory, "-m", "gptwo", "evaluate", tiny_checkpoint, "--tasks", "gptwo_nothing")
    assert done.returncode == 1
    assert done.stderr == "gptwo: neither gptwo nor lm-eval has a task 'gptwo_nothing'\n"


def numbers(answer: Any) -> list[float]:
    """The log-probabilities, and whether each is greedy, in an answer as lm-eval logs it."""
    if isinstance(answer, list):
        return [number for item in answer for number in numbers(item)]
    return [{"True": 1.0, "False": 0.0}[answer] if answer in ("True", "False") else float(answer)]
