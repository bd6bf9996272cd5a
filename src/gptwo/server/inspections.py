"""`POST /v1/inspect`: what one text does inside the model, for the playground and for programs.

The engine runs the model in the native core, which keeps no activations. So the same checkpoint is opened once more, in
PyTorch and in float32, when the first text is to be looked into; on a thread of its own, one text at a time.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gptwo.engine.request import check_token_ids
from gptwo.errors import ContextLengthError, GptwoError, MissingDependencyError, QueueFullError, RetryLaterError
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

MOST_WAITING = 8  # texts at a time, those under way and those behind it
NOT_HERE = 501


class Inspections:
    """Looks into texts, one after another. Everything but `close` is for the event loop."""

    def __init__(self, settings: ServerSettings) -> None:
        """settings: of the server, whose model it is."""
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, "gptwo-inspect")
        self._waiting = 0
        self._inspector: Inspector | None = None
        self._induction: InductionScores | None = None
        self._refusal: str | None = None

    async def look(self, ids: tuple[int, ...]) -> dict[str, Any]:
        """The data of a page about these tokens. Raises QueueFullError, and HTTPException for what is not here."""
        if self._waiting >= MOST_WAITING:
            raise QueueFullError(f"{self._waiting} texts wait to be looked into; ask again in a moment")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._look, ids)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Begin nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _look(self, ids: tuple[int, ...]) -> dict[str, Any]:
        inspector = self._opened()
        found = explain(inspector, ids, induction=self._induction)
        self._induction = found.induction
        return found.as_dict()

    def _opened(self) -> Inspector:
        if self._refusal is not None:
            raise HTTPException(NOT_HERE, self._refusal)
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
            except (ImportError, MissingDependencyError) as error:
                self._refusal = "looking inside needs PyTorch on the server: pip install '.[torch]' in gptwo's checkout"
                raise HTTPException(NOT_HERE, self._refusal) from error
            except RetryLaterError:
                raise
            except GptwoError as error:
                note(logging.WARNING, "the model cannot be looked into", reason=str(error))
                self._refusal = "PyTorch cannot open the weights that this server runs; its log says why"
                raise HTTPException(NOT_HERE, self._refusal) from error
        return self._inspector


async def create_inspection(service: Service, http: HttpRequest) -> Response:
    """Answer a request to look into a text."""
    settings, fields = service.settings, record_of(http.scope)
    with service.counting_refusals():
        runner = service.runner
        data = await read_body(http, most=settings.max_body, timeout=settings.body_timeout)
        name, ids, left_out = await service.prepare(_ask, service, runner.model, data)
    fields["prompt_tokens"] = len(ids)
    if settings.log_prompts and runner.model.tokenizer is not None:
        fields["prompt"] = runner.model.tokenizer.decode(ids)
    found = await unless_gone(http.receive, service.inspections.look(ids))
    head = {"id": f"inspect-{uuid.uuid4().hex}", "object": "inspection", "left_out": left_out}
    found["model"] |= {"name": name}
    return Response(await service.in_thread(json_bytes, head | found), media_type="application/json")


def _ask(service: Service, model: OpenModel, data: bytes) -> tuple[str, tuple[int, ...], int]:
    """The model's name, the tokens that are looked into, and how many before them are not."""
    body = parse(InspectRequest, data)
    name = service.check_name(body.model)
    most = min(service.settings.max_inspect_tokens, model.config.n_positions)
    if most == 0:
        raise HTTPException(NOT_HERE, "this server looks into no texts; --max-inspect-tokens lets it")
    (prompt,) = prompts_of("prompt", body.prompt, 1)
    keep = body.truncate_prompt_tokens
    ids = check_token_ids(model.encode(prompt, endless=keep is not None), model.config.vocab_size)
    ids = ids or _end_of_text(model)
    kept = ids if keep is None else ids[-(most if keep == -1 else keep) :]
    if len(kept) > most:
        raise ContextLengthError(
            f"the prompt has {len(kept)} tokens, this server looks into {most} at a time; truncate_prompt_tokens "
            "keeps those at its end",
            param="prompt",
        )
    return name, kept, len(ids) - len(kept)
