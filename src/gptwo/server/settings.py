"""Everything a server is told, with one line about each; flags and environment variables carry the same names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gptwo.errors import InvalidRequestError
from gptwo.options import (
    MOST_THREADS,
    boolean,
    check_options,
    choice,
    integer,
    number,
    option,
    optional_text,
    refuse,
    refuse_unknown_names,
    text,
)
from gptwo.sampling.params import LARGEST_N, MOST_STOP_STRINGS

LONGEST_TIME = 7 * 24 * 3600.0  # seconds; beyond it a limit is no limit
MOST_WORKERS = 256
MODEL_FIELDS = ("model", "weights", "backend", "cache", "threads", "device", "revision", "tokenizer")


def _names(name: str, value: Any) -> tuple[str, ...]:
    """Texts, as a tuple; None is none, and one text stands for itself."""
    if value is None:
        return ()
    if not isinstance(value, (str, list, tuple)):
        refuse(name, value, "text, or a list of texts")
    return tuple(text(name, item) for item in ([value] if isinstance(value, str) else value))


@refuse_unknown_names
@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How to serve one model. Raises InvalidRequestError, whose `param` names the field.

    Plain values only, so that it can be handed to another process. API keys are not among them: they come from
    `api_key_file` or the environment, where no list of processes shows them.
    """

    # What `gptwo.load` takes.
    model: str = option("shakespeare", text, "An embedded model, a local path, or a name on the hub.")
    weights: str = option("auto", text, "Format of the weights in memory.")
    backend: str = option("auto", text, "What computes the model.")
    cache: Literal["auto", "f32", "bf16"] = option(
        "auto", choice("auto", "f32", "bf16"), "Type of keys and values in the core; auto is f32 beside f32 weights."
    )
    threads: int | None = option(None, integer(1, MOST_THREADS, optional=True), "Threads to compute with.")
    device: str = option("cpu", text, "Where it is computed.")
    revision: str | None = option(None, optional_text, "A branch, tag or commit on the hub.")
    tokenizer: str | None = option(None, optional_text, "A tokenizer in place of the model's own.")

    host: str = option("127.0.0.1", text, "Address to listen on; 0.0.0.0 is every one this machine has.")
    port: int = option(8000, integer(0, 65535), "Port to listen on; 0 takes a free one.")
    workers: int = option(
        1,
        integer(1, MOST_WORKERS),
        "Processes that share the port, each with a model, an engine and threads of its own.",
    )
    root_path: str | None = option(None, optional_text, "Path under which a proxy offers this server, such as /gpt.")
    served_model_name: Sequence[str] = option(
        (), _names, "Name of the model in requests and answers; the first of several is shown. None is --model's."
    )
    playground: bool = option(True, boolean, "Serve the playground at /.")
    cors_origins: Sequence[str] = option(
        (), _names, "Origins whose pages may call this server from a browser; * is all of them."
    )
    allowed_hosts: Sequence[str] = option(
        (),
        _names,
        "Names under which a server without keys that only this machine reaches may be asked; * is any.",
    )

    api_key_file: str | None = option(
        None, optional_text, "File with an API key on each line; also GPTWO_API_KEY or GPTWO_API_KEYS, with commas."
    )
    max_concurrent: int | None = option(
        None, integer(1, optional=True), "Most requests of one API key at a time; none has no limit."
    )

    max_queue: int = option(256, integer(1), "Most prompts that may wait for their turn; beyond it the answer is 429.")
    max_wait: float | None = option(
        60.0, number(0.001, LONGEST_TIME, optional=True), "Longest wait in the queue, in seconds; then it is 503."
    )
    max_sequences: int = option(256, integer(1), "Most texts that are computed in one step.")
    chunk_tokens: int = option(256, integer(1), "Most prompt tokens that are computed in one step.")
    prefix_blocks: int | None = option(
        None, integer(0, optional=True), "Blocks of 64 tokens held for prompts that begin alike; none is 256 MiB."
    )

    max_blocks: int | None = option(
        None,
        integer(1, optional=True),
        "Most blocks of 64 tokens that texts under way may come to hold; none is what half of the free memory holds.",
    )

    max_body: int = option(2**20, integer(1024), "Most bytes in a request's body; beyond it the answer is 413.")
    body_timeout: float = option(
        30.0, number(0.001, LONGEST_TIME), "Longest time for a request's body to arrive, in seconds; then it is 408."
    )
    max_prompts: int = option(128, integer(1), "Most prompts, or texts to score, in one request.")
    max_n: int = option(LARGEST_N, integer(1, LARGEST_N), "Most texts for each prompt (n).")
    max_best_of: int = option(
        LARGEST_N, integer(1, LARGEST_N), "Most texts to choose from for each prompt (best_of), and most beams."
    )
    max_tokens: int | None = option(
        None, integer(1, optional=True), "Most tokens that a request may ask for; none is the model's context."
    )
    max_stop: int = option(16, integer(0, MOST_STOP_STRINGS), "Most stop strings in a request.")
    max_logprobs: int = option(20, integer(0), "Most alternatives for each token (logprobs and prompt_logprobs).")
    max_request_tokens: int = option(
        2**20,
        integer(1),
        "Most tokens of one completion request: those of its prompts and texts, best_of times, and once more for each "
        "alternative of logprobs.",
    )
    max_score_tokens: int = option(2**17, integer(1), "Most tokens that one request may have scored.")

    max_inspect_tokens: int = option(
        256, integer(0), "Most tokens of a text that is looked into; 0 looks into none, and PyTorch is never loaded."
    )

    drain_timeout: float = option(
        30.0, number(0.0, LONGEST_TIME), "Seconds that running requests have to end after SIGTERM or Ctrl-C."
    )
    keep_alive_interval: float = option(
        15.0, number(0.01, LONGEST_TIME), "Seconds of silence in a stream before a comment that keeps it open."
    )
    log_level: Literal["debug", "info", "warning", "error"] = option(
        "info", choice("debug", "info", "warning", "error"), "What is worth a line on standard error."
    )
    log_format: Literal["plain", "json"] = option("plain", choice("plain", "json"), "Lines to read, or JSON lines.")
    log_prompts: bool = option(False, boolean, "Write prompts into the log too.")

    def __post_init__(self) -> None:
        check_options(self)
        if self.root_path is not None and not self.root_path.startswith("/"):
            raise InvalidRequestError(
                f"root_path is {self.root_path!r}, expected a path that begins with /", "root_path"
            )

    @property
    def model_names(self) -> tuple[str, ...]:
        """What requests may call the model; the first is what answers call it."""
        return tuple(self.served_model_name) or (self.model,)

    def model_options(self) -> dict[str, Any]:
        """The arguments of `open_model`."""
        return {"name" if field == "model" else field: getattr(self, field) for field in MODEL_FIELDS}
