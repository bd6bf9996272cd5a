"""Answers as rows: what a line is answered with, as JSON and as Parquet."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from gptwo.batch.task import Task
from gptwo.engine import Choice, Completion, TokenLogprob
from gptwo.errors import MissingDependencyError
from gptwo.scoring import Score

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]
GROUP_BYTES = 8 * 2**20  # of JSON, that are one row group of Parquet


def completion_row(task: Task, completion: Completion, *, token_ids: bool) -> Row:
    """The answer to a prompt. Of several texts the first stands in the row itself, and all of them in `choices`."""
    first, several = completion.choices[0], len(completion.choices) > 1
    row = {
        **_begin(task, "prompt"),
        **_choice(first, token_ids),
        "prompt_tokens": len(completion.prompt_token_ids),
        "completion_tokens": sum(len(choice.token_ids) for choice in completion.choices),
        "seed": completion.seed,
        "error": None,
    }
    if token_ids:
        row["prompt_token_ids"] = list(completion.prompt_token_ids)
    if completion.prompt_logprobs is not None:
        row["prompt_logprobs"] = [None if token is None else _logprob(token) for token in completion.prompt_logprobs]
    if several:
        row["choices"] = [_choice(choice, token_ids) for choice in completion.choices]
    return row


def score_row(task: Task, score: Score, *, token_ids: bool) -> Row:
    """The answer to a text that was scored."""
    row = {
        **_begin(task, "text"),
        "token_count": len(score.token_ids),
        "total": score.total,
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte,
        "error": None,
    }
    if token_ids:
        row |= {"token_ids": list(score.token_ids), "token_logprobs": list(score.logprobs)}
    return row


def error_row(task: Task, error: str, *, score: bool) -> Row:
    """The answer to a line that has none."""
    empty = ("token_count", "total", "perplexity", "bits_per_byte") if score else ("text", "finish_reason")
    return {**_begin(task, "text" if score else "prompt"), **dict.fromkeys(empty), "error": error}


def to_line(row: Row) -> bytes:
    """A row as a line of JSON; what is no finite number is null."""
    return json.dumps(_finite(row), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def write_parquet(out: BinaryIO, lines: Iterator[bytes], *, score: bool) -> None:
    """Write rows, given as lines of JSON, as Parquet; the columns are the same whatever the rows hold."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _score_schema() if score else _completion_schema()
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for rows in _groups(lines):
            writer.write_table(pa.Table.from_pylist([_columns(row) for row in rows], schema))


def check_pyarrow() -> None:
    """Raise MissingDependencyError if Parquet cannot be written."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "writing Parquet needs pyarrow: pip install '.[batch]' in gptwo's checkout, "
            "or give a name that ends in .jsonl"
        ) from error


def _begin(task: Task, name: str) -> Row:
    return {"index": task.index, "id": task.id, name: task.prompt}


def _choice(choice: Choice, token_ids: bool) -> Row:
    row: Row = {"text": choice.text, "finish_reason": choice.finish_reason}
    if choice.stop_reason is not None:
        row["stop_reason"] = choice.stop_reason
    if choice.score is not None:
        row["score"] = choice.score
    if token_ids:
        row["token_ids"] = list(choice.token_ids)
    if choice.logprobs is not None:
        row["logprobs"] = [_logprob(token) for token in choice.logprobs]
    return row


def _logprob(token: TokenLogprob) -> Row:
    row: Row = {"token_id": token.token_id, "token": token.text, "logprob": token.logprob}
    if token.top:
        row["top"] = [{"token_id": one.token_id, "token": one.text, "logprob": one.logprob} for one in token.top]
    return row


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value


def _groups(lines: Iterator[bytes]) -> Iterator[list[Row]]:
    rows: list[Row] = []
    size = 0
    for line in lines:
        rows.append(json.loads(line))
        size += len(line)
        if size > GROUP_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _columns(row: Row) -> Row:
    """A row in the types that its columns have, where JSON has more than one."""
    row = {**row, "id": None if row["id"] is None else str(row["id"])}
    for name, ids in (("prompt", "prompt_token_ids"), ("text", "token_ids")):
        if isinstance(row.get(name), list):
            row[ids], row[name] = row[name], None
    if (row.get("seed") or 0) >= 2**63:
        row["seed"] -= 2**64  # the same seed, in two's complement
    for one in (row, *(row.get("choices") or ())):
        if "stop_reason" in one:
            one["stop_reason"] = str(one["stop_reason"])
    return row


def _completion_schema() -> pa.Schema:
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    token = [pa.field("token_id", pa.int32()), pa.field("token", pa.string()), pa.field("logprob", pa.float64())]
    logprobs = pa.list_(pa.struct([*token, pa.field("top", pa.list_(pa.struct(token)))]))
    choice = [
        pa.field("text", pa.string()),
        pa.field("finish_reason", pa.string()),
        pa.field("stop_reason", pa.string()),
        pa.field("score", pa.float64()),
        pa.field("token_ids", ids),
        pa.field("logprobs", logprobs),
    ]
    return pa.schema(
        [
            pa.field("index", pa.int64(), nullable=False),
            pa.field("id", pa.string()),
            pa.field("prompt", pa.string()),
            *choice,
            pa.field("prompt_tokens", pa.int64()),
            pa.field("completion_tokens", pa.int64()),
            pa.field("seed", pa.int64()),
            pa.field("prompt_token_ids", ids),
            pa.field("prompt_logprobs", logprobs),
            pa.field("choices", pa.list_(pa.struct(choice))),
            pa.field("error", pa.string()),
        ]
    )


def _score_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("index", pa.int64(), nullable=False),
            pa.field("id", pa.string()),
            pa.field("text", pa.string()),
            pa.field("token_count", pa.int64()),
            pa.field("total", pa.float64()),
            pa.field("perplexity", pa.float64()),
            pa.field("bits_per_byte", pa.float64()),
            pa.field("token_ids", pa.list_(pa.int32())),
            pa.field("token_logprobs", pa.list_(pa.float64())),
            pa.field("error", pa.string()),
        ]
    )
