"""`POST /v1/inspect`: what one text does inside the model, for the playground and for programs.

The engine runs the model in the native core, which keeps no activations. So the same checkpoint is opened once more, in
PyTorch and in float32, when the first text is to be looked into; on a thread of its own, one text at a time.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gptwo.engine.request import check_token_ids
from gptwo.errors import (
    ContextLengthError,
    DownloadError,
    DrainingError,
    GptwoError,
    InvalidRequestError,
    MissingDependencyError,
    OutOfMemoryError,
    QueueFullError,
)
from gptwo.inspection.explanation import explain
from gptwo.loading import OpenModel
from gptwo.server.bodies import parse, read_body
from gptwo.server.json_answers import json_bytes
from gptwo.server.log import note, record_of
from gptwo.server.parameters import prompts_of
from gptwo.server.schemas import InspectRequest
from gptwo.server.service import Service
from gptwo.server.settings import ServerSettings
from gptwo.server.sse import unless_gone

if TYPE_CHECKING:
    from gptwo.inspection import InductionScores, Inspector

MOST_WAITING = 8  # texts, with the one that is under way
NOT_HERE = 501


class Asked(NamedTuple):
    """A text that can be looked into."""

    name: str
    """What the answer calls the model."""
    token_ids: tuple[int, ...]
    left_out: int
    """Tokens before these that are not looked into."""


class Inspections:
    """Looks into texts, one after another."""

    def __init__(self, settings: ServerSettings, *, given: bool = False) -> None:
        """given: whether the server's model was opened by somebody else, from who knows where."""
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, "gptwo-inspect")
        self.waiting = 0
        """Texts that are not answered."""
        self._under_way: set[asyncio.Future[bytes]] = set()
        self._ended = False
        self._inspector: Inspector | None = None
        self._induction: InductionScores | None = None
        self._refusal: str | None = None
        if given:
            self._refusal = "this server was given its model open, without the checkpoint to look into"
        elif settings.max_inspect_tokens == 0:
            self._refusal = "this server looks into no texts; --max-inspect-tokens lets it"

    async def create_inspection(self, service: Service, http: HttpRequest) -> Response:
        """Answer a request to look into a text. What is not to be had here is a 501."""
        settings, fields = service.settings, record_of(http.scope)
        with service.counting_refusals():
            model = service.runner.model
            data = await read_body(http, most=settings.max_body, timeout=settings.body_timeout)
            asked = await service.prepare(_ask, service, model, data)
        fields["prompt_tokens"] = len(asked.token_ids)
        if settings.log_prompts and model.tokenizer is not None:
            fields["prompt"] = model.tokenizer.decode(asked.token_ids)
        if self._refusal is not None:
            raise HTTPException(NOT_HERE, self._refusal)
        if self.waiting >= MOST_WAITING:
            raise QueueFullError(f"{self.waiting} texts wait to be looked into; ask again in a moment")
        self.waiting += 1
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._look, asked)
        self._under_way.add(work)
        try:
            content = await unless_gone(http.receive, _result_of(work))
        except asyncio.CancelledError:
            if not self._ended:
                raise
            raise DrainingError("the server ended before the text was looked into") from None
        finally:
            self._under_way.discard(work)
            self.waiting -= 1
        return Response(content, media_type="application/json")

    async def drain(self, seconds: float) -> bool:
        """Wait for the texts under way for so long, and end the others; whether there were none."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=seconds)
        self._ended = True
        left = [work for work in self._under_way if work.cancel()]
        return not left

    def close(self) -> None:
        """Begin nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _look(self, asked: Asked) -> bytes:
        found = explain(self._opened(), asked.token_ids, induction=self._induction)
        self._induction = found.induction
        data = found.as_dict()
        data["model"]["name"] = asked.name
        head = {"id": f"inspect-{uuid.uuid4().hex}", "object": "inspection", "left_out": asked.left_out}
        return json_bytes(head | data)

    def _opened(self) -> Inspector:
        """The model in PyTorch, opened by the first who asks."""
        if self._inspector is None:
            settings = self._settings
            try:
                from gptwo.inspection import Inspector

                self._inspector = Inspector.load(
                    settings.model,
                    device=settings.device,
                    threads=settings.threads,
                    revision=settings.revision,
                    tokenizer=settings.tokenizer,
                )
            except (DownloadError, OutOfMemoryError):
                raise  # another time it may be otherwise
            except (ImportError, MissingDependencyError) as error:
                said = "looking inside needs PyTorch where the server runs: pip install '.[torch]' in gptwo's checkout"
                raise self._refused(said) from error
            except GptwoError as error:  # which may speak of paths, and so is for the log
                note(logging.WARNING, "the model cannot be looked into", reason=str(error))
                raise self._refused("PyTorch cannot open the weights of this server; its log says why") from error
        return self._inspector

    def _refused(self, said: str) -> HTTPException:
        self._refusal = said
        return HTTPException(NOT_HERE, said)


async def _result_of(work: asyncio.Future[bytes]) -> bytes:
    return await work


def _ask(service: Service, model: OpenModel, data: bytes) -> Asked:
    body = parse(InspectRequest, data)
    name = service.check_name(body.model)
    (prompt,) = prompts_of("prompt", body.prompt, 1)
    keep = body.truncate_prompt_tokens
    ids = check_token_ids(model.encode(prompt, endless=keep is not None), model.config.vocab_size)
    if not ids:
        end = None if model.tokenizer is None else model.tokenizer.end_of_text_id
        if end is None:
            raise InvalidRequestError("the prompt has no tokens, so there is nothing to look at", "prompt")
        ids = (end,)
    most = min(service.settings.max_inspect_tokens, model.config.n_positions)
    keep = len(ids) if keep is None else most if keep == -1 else keep
    kept = ids[max(0, len(ids) - keep) :]
    if len(kept) > most > 0:
        raise ContextLengthError(
            f"{len(kept)} tokens are to be looked into, and this server takes up to {most}; truncate_prompt_tokens "
            "keeps those at a prompt's end",
            param="prompt",
        )
    return Asked(name, kept, len(ids) - len(kept))
