"""Answers of a batch: the same as one would get alone, as rows of JSON and of Parquet."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gptwo
from gptwo.batch.answering import Answer, Answering, open_batch_model
from gptwo.batch.rows import to_line, write_parquet
from gptwo.batch.settings import BatchModel, Work
from gptwo.batch.source import Line
from gptwo.engine import Completion
from gptwo.errors import NumericalError, OutOfMemoryError


def answers_to(
    checkpoint: Path,
    lines: list[Any],
    *,
    max_sequences: int = 3,
    score: bool = False,
    token_ids: bool = False,
    **more: Any,
) -> list[Answer]:
    """The answers to objects, in the order of the lines."""
    work = Work(model=BatchModel(name=str(checkpoint)), score=score, parameters=more, seed=1, token_ids=token_ids)
    answering = Answering(open_batch_model(work, 1), work, max_sequences)
    left = [Line(index, index + 1, json.dumps(value).encode()) for index, value in enumerate(lines)][::-1]
    answers: list[Answer] = []
    while left or answering.busy:
        while left and answering.has_room:
            answering.add(left.pop())
        answers += answering.step()
    assert not answering.busy
    return sorted(answers, key=lambda answer: answer.index)


def rows_of(*args: Any, **more: Any) -> list[dict[str, Any]]:
    rows = [answer.row for answer in answers_to(*args, **more)]
    return [json.loads(to_line(row)) for row in rows]


@pytest.fixture
def model(tiny_checkpoint: Path) -> Iterator[gptwo.LanguageModel]:
    with gptwo.load(tiny_checkpoint, threads=1) as model:
        yield model


def test_each_answer_is_the_one_that_its_prompt_gets_alone(tiny_checkpoint: Path, model: gptwo.LanguageModel) -> None:
    lines = [{"prompt": f"hear me {i}", "max_tokens": 1 + i % 7, "temperature": i / 5} for i in range(12)]
    lines.append({"prompt": [5, 6, 7], "num_beams": 2, "max_tokens": 4})
    rows = rows_of(tiny_checkpoint, lines)
    assert [row["index"] for row in rows] == list(range(13))
    for line, row in zip(lines, rows, strict=True):
        prompt = line.pop("prompt")
        kind = gptwo.BeamParams if "num_beams" in line else gptwo.SamplingParams
        seed = {} if row["seed"] is None else {"seed": row["seed"]}
        alone = model.generate(prompt, kind(**line, **seed))
        assert isinstance(alone, Completion)
        assert (row["prompt"], row["text"], row["finish_reason"]) == (prompt, alone.text, alone.finish_reason)
        assert (row["prompt_tokens"], row["completion_tokens"]) == (
            len(alone.prompt_token_ids),
            len(alone.token_ids),
        )


def test_an_answer_does_not_depend_on_what_else_is_answered(tiny_checkpoint: Path) -> None:
    lines = [{"prompt": f"line {i}"} for i in range(9)]
    one_by_one = rows_of(tiny_checkpoint, lines, max_sequences=1, max_tokens=6)
    assert rows_of(tiny_checkpoint, lines, max_sequences=64, max_tokens=6) == one_by_one
    other_order = {row["index"]: row for row in rows_of(tiny_checkpoint, lines[:5], max_sequences=2, max_tokens=6)}
    assert [other_order[i] for i in range(5)] == one_by_one[:5]


def test_of_several_texts_the_first_stands_in_the_row_and_all_in_its_choices(tiny_checkpoint: Path) -> None:
    (row,) = rows_of(tiny_checkpoint, [{"prompt": "All:", "n": 3, "max_tokens": 4}], token_ids=True)
    assert row["choices"][0]["text"] == row["text"]
    assert len(row["choices"]) == 3
    assert row["completion_tokens"] == sum(len(choice["token_ids"]) for choice in row["choices"])
    assert row["token_ids"] == row["choices"][0]["token_ids"]
    assert row["prompt_token_ids"]


def test_log_probabilities_are_there_if_they_are_asked_for(tiny_checkpoint: Path) -> None:
    lines = [{"prompt": "speak", "logprobs": 2, "prompt_logprobs": 0}, {"prompt": "speak"}]
    asked, not_asked = rows_of(tiny_checkpoint, lines, max_tokens=3)
    assert "logprobs" not in not_asked
    assert [set(token) for token in asked["logprobs"]] == [{"token_id", "token", "logprob", "top"}] * 3
    assert asked["prompt_logprobs"][0] is None
    assert len(asked["prompt_logprobs"]) == asked["prompt_tokens"]


def test_the_others_go_on_when_a_line_cannot_be_answered(tiny_checkpoint: Path) -> None:
    lines = [{"prompt": "a"}, {"prompt": "b", "max_tokens": 1000}, {"prompt": [10**6]}, {"prompt": "word " * 9999}]
    lines += [{"prompt": "c", "stop_token_ids": [10**6]}, {"prompt": "d"}]
    rows = rows_of(tiny_checkpoint, lines, max_tokens=2)
    errors = [row["error"] for row in rows]
    assert errors[0] is errors[5] is None
    assert "together more than the model's 64 positions" in errors[1]
    assert "token id 1000000 is out of range" in errors[2]
    assert "more than the model's 64 positions can hold" in errors[3]
    assert "stop_token_ids has token 1000000" in errors[4]
    assert rows[5]["text"]
    assert rows[4]["text"] is None


def test_a_failure_while_generating_is_the_lines_unless_it_is_the_machines(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_with(error: Exception) -> None:
        def forward(self: object, *args: object) -> None:
            raise error

        monkeypatch.setattr("gptwo.decoder.native.NativeDecoder.forward", forward)

    fail_with(NumericalError("logits are NaN"))
    assert [row["error"] for row in rows_of(tiny_checkpoint, [{"prompt": "a"}] * 2)] == ["logits are NaN"] * 2
    fail_with(MemoryError())
    with pytest.raises(OutOfMemoryError, match="go on with a lower --max-sequences"):
        rows_of(tiny_checkpoint, [{"prompt": "a"}])


def test_a_text_is_scored_as_lm_score_does(tiny_checkpoint: Path, model: gptwo.LanguageModel) -> None:
    texts: list[Any] = ["hear me speak", "First Citizen: " * 40, [5, 6, 7], [5], "", [10**6]]
    rows = rows_of(
        tiny_checkpoint, [{"text": text, "id": i} for i, text in enumerate(texts)], score=True, token_ids=True
    )
    for text, row in zip(texts[:4], rows, strict=False):
        alone = model.score(text)
        assert (row["token_count"], row["total"], row["bits_per_byte"]) == (
            len(alone.token_ids),
            alone.total,
            alone.bits_per_byte,
        )
        assert row["perplexity"] == (None if math.isnan(alone.perplexity) else alone.perplexity)
        assert (row["token_ids"], row["token_logprobs"]) == (list(alone.token_ids), list(alone.logprobs))
    assert "nothing to score" in rows[4]["error"]
    assert "out of range" in rows[5]["error"]


def test_a_line_of_openais_batch_file_is_answered_in_their_shape(tiny_checkpoint: Path) -> None:
    def line(number: int, **body: Any) -> dict[str, Any]:
        body = {"model": "mine", "prompt": "speak", "max_tokens": 2, **body}
        return {"custom_id": f"request-{number}", "method": "POST", "url": "/v1/completions", "body": body}

    good, bad = rows_of(tiny_checkpoint, [line(0, n=2, logprobs=1), line(1, max_tokens=1000)])
    assert (good["id"], good["custom_id"], good["error"]) == ("batch_req_0", "request-0", None)
    assert good["response"]["status_code"] == 200
    body = good["response"]["body"]
    assert (body["object"], body["model"]) == ("text_completion", "mine")
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    for choice in body["choices"]:
        assert set(choice["logprobs"]) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
        assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    assert bad["response"]["status_code"] == 400
    error = bad["response"]["body"]["error"]
    assert (error["param"], error["code"]) == ("max_tokens", "context_length_exceeded")
    assert "together more than the model's 64 positions" in error["message"]


def parquet_of(rows: list[dict[str, Any]], *, score: bool = False) -> list[dict[str, Any]]:
    pq = pytest.importorskip("pyarrow.parquet", reason="needs the extra `batch`, which has pyarrow")
    out = io.BytesIO()
    write_parquet(out, map(to_line, rows), score=score)
    table = pq.read_table(io.BytesIO(out.getvalue()))
    return list(table.to_pylist())


def test_parquet_holds_what_json_holds(tiny_checkpoint: Path) -> None:
    lines = [
        {"prompt": "a", "id": 1, "stop_token_ids": [7], "logit_bias": {"7": 100}},
        {"prompt": [5, 6], "id": "two", "n": 2, "logprobs": 1, "seed": 2**64 - 1},
        {"prompt": 3},
    ]
    rows = rows_of(tiny_checkpoint, lines, max_tokens=2, token_ids=True)
    stored = parquet_of(rows)
    assert [row["id"] for row in stored] == ["1", "two", None]
    assert stored[0]["stop_reason"] == "7"
    assert (stored[1]["prompt"], stored[1]["prompt_token_ids"], stored[1]["seed"]) == (None, [5, 6], -1)
    for name in ("text", "token_ids", "finish_reason", "error", "completion_tokens", "choices", "logprobs"):
        for row, kept in zip(rows, stored, strict=True):
            if name in ("choices", "logprobs") and kept[name] is not None:
                assert [one["text" if name == "choices" else "token"] for one in kept[name]] == [
                    one["text" if name == "choices" else "token"] for one in row[name]
                ]
            else:
                assert kept[name] == row.get(name)


def test_parquet_has_the_same_columns_whatever_the_rows_hold(tiny_checkpoint: Path) -> None:
    full = parquet_of(rows_of(tiny_checkpoint, [{"prompt": "a", "n": 2, "logprobs": 1}], max_tokens=1))
    plain = parquet_of(rows_of(tiny_checkpoint, [{"prompt": "a"}], max_tokens=1))
    assert list(full[0]) == list(plain[0])
    scored = parquet_of(rows_of(tiny_checkpoint, [{"text": [5, 6]}, {"text": 1}], score=True), score=True)
    assert list(scored[0])[:4] == ["index", "id", "text", "token_count"]
    assert (scored[0]["text"], scored[0]["token_ids"]) == (None, [5, 6])
    assert parquet_of([]) == []


def test_parquet_is_written_in_groups_of_bounded_size(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptwo.batch.rows.GROUP_BYTES", 300)
    rows = rows_of(tiny_checkpoint, [{"prompt": "a"}] * 7, max_tokens=1)
    assert [row["index"] for row in parquet_of(rows)] == list(range(7))
