"""lm-eval's `local-completions`, through the server, finds the numbers that `lm.score` gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from server_process import running_server

import gptwo

# It brings many packages, so it may live in an environment of its own.
PYTHON = os.environ.get("GPTWO_LM_EVAL_PYTHON", sys.executable)
FOUND = subprocess.run([PYTHON, "-c", "import lm_eval, aiohttp"], capture_output=True, check=False).returncode == 0
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not FOUND, reason="lm-eval[api] is not installed; GPTWO_LM_EVAL_PYTHON may name a Python that has it"
    ),
]

QUESTIONS = [
    {"context": context, "choices": choices, "answer": answer}
    for context, choices, answer in (
        ("ROMEO:\nBut soft, what light through yonder", [" window breaks", " banana sings", " is"], 0),
        ("First Citizen:\nBefore we proceed any further, hear me", [" speak.", " not", " quickly:"], 0),
        ("To be, or not to be, that is the", [" question", " fish", " king and the queen"], 0),
        ("é — ", ["naïve", "…", "☃"], 1),
    )
]
TEXTS = ["Now is the winter of our discontent\nMade glorious summer by this sun of York;", "word " * 300]

TASKS = {
    "gptwo_choices": """
task: gptwo_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}/choices.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
""",
    "gptwo_texts": """
task: gptwo_texts
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}/texts.jsonl}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: bits_per_byte}}]
""",
}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, object]]]:
    """What lm-eval logged of each document, by task."""
    directory = tmp_path_factory.mktemp("lm-eval")
    (directory / "choices.jsonl").write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
    (directory / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    for name, task in TASKS.items():
        (directory / f"{name}.yaml").write_text(task.format(data=directory))
    with running_server("shakespeare") as server:
        settings = f"model=shakespeare,base_url={server.url}/v1/completions,tokenizer_backend=remote,max_length=256"
        arguments = ["--model", "local-completions", "--model_args", settings, "--include_path", str(directory)]
        arguments += ["--tasks", ",".join(TASKS), "--log_samples", "--output_path", str(directory / "out")]
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(directory / "hub"),
            "TOKENIZERS_PARALLELISM": "false",
        }
        done = subprocess.run(
            [PYTHON, "-m", "lm_eval", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=directory,
        )
    assert done.returncode == 0, done.stderr
    found = {}
    for name in TASKS:
        (path,) = (directory / "out").rglob(f"samples_{name}_*.jsonl")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found[name] = sorted(lines, key=lambda line: line["doc_id"])
    return found


@pytest.fixture(scope="module")
def lm() -> gptwo.LanguageModel:
    return gptwo.load("shakespeare")


def test_every_choice_has_the_log_probability_that_the_score_gives(samples, lm) -> None:
    for question, sample in zip(QUESTIONS, samples["gptwo_choices"], strict=True):
        before = len(lm.tokenizer.encode(question["context"].rstrip(" ")))
        for choice, (response, _) in zip(question["choices"], sample["filtered_resps"], strict=True):
            logprobs = lm.score(question["context"] + choice).logprobs[before:]
            assert float(response) == pytest.approx(sum(logprobs), abs=1e-4), (question["context"], choice)


def test_a_text_has_the_bits_per_byte_that_the_score_gives_behind_the_end_of_text(samples, lm) -> None:
    end = lm.tokenizer.end_of_text_id
    for text, sample in zip(TEXTS[:1], samples["gptwo_texts"][:1], strict=True):
        score = lm.score([end, *lm.tokenizer.encode(text)])
        (loglikelihood,) = sample["filtered_resps"]
        assert float(loglikelihood if not isinstance(loglikelihood, list) else loglikelihood[0]) == pytest.approx(
            score.total, abs=1e-3
        )
