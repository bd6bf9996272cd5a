"""The app: every address that the server answers at."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gptwo.errors import GptwoError, NotReadyError, RetryLaterError
from gptwo.loading import OpenModel
from gptwo.options import shown
from gptwo.server.bodies import Linger
from gptwo.server.completions import create_completion
from gptwo.server.description import body_schema, describe, docs_page
from gptwo.server.failures import body_of, response_to, shortage, status_of
from gptwo.server.hosts import HostGuard
from gptwo.server.inspections import Inspections
from gptwo.server.json_answers import json_response
from gptwo.server.keys import ApiKeys, KeyGuard
from gptwo.server.log import RequestLog, record_of
from gptwo.server.pages import add_playground
from gptwo.server.schemas import (
    CompletionRequest,
    DetokenizeRequest,
    InspectRequest,
    ScoreRequest,
    TokenizeRequest,
)
from gptwo.server.scores import create_score
from gptwo.server.service import Service
from gptwo.server.settings import ServerSettings
from gptwo.server.tokens import detokenize, tokenize, tokenizer_info
from gptwo.version import __version__

Endpoint = Callable[[Service, Request], Awaitable[Response]]


def create_app(
    settings: ServerSettings | None = None, *, model: OpenModel | None = None, local: bool = False
) -> FastAPI:
    """The app of one model; `app.state.service` is what it works with.

    settings: None is the defaults. model: one that is open already, in place of the one that the settings name, which
    is loaded in the background as soon as the app starts. local: whether only this machine can reach it; it is then
    asked under this machine's names only, unless there are keys. API keys come from the settings' file and the
    environment. Raises ServerError for keys that cannot be read.
    """
    settings = ServerSettings() if settings is None else settings
    keys = ApiKeys.read(settings.api_key_file)
    service, inspections = Service(settings, model), Inspections(settings, given=model is not None)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        inspections.close()
        await service.stop()

    app = FastAPI(
        title="gptwo",
        version=__version__,
        description="OpenAI's completions from a GPT-2, with vLLM's additions; scores and tokens beside them.",
        docs_url=None,  # FastAPI's page loads its parts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # such an answer would name whatever host the request does
        lifespan=lifespan,
    )
    app.state.service, app.state.inspections = service, inspections
    service.drain_others = inspections.drain
    _add_model_routes(app, service, inspections)
    _add_status_routes(app, service)
    if settings.playground:
        add_playground(app)
    describe(app, settings.root_path or "")
    app.add_exception_handler(GptwoError, _on_error)
    app.add_exception_handler(HTTPException, _on_error)
    app.add_middleware(
        KeyGuard, keys=keys, most=settings.max_concurrent, root_path=(settings.root_path or "").rstrip("/")
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )
    if local and not keys:
        app.add_middleware(HostGuard, names=settings.allowed_hosts)
    app.add_middleware(Linger)
    app.add_middleware(RequestLog, with_messages=settings.log_prompts)
    if settings.root_path:
        app.add_middleware(UnderPath, root=settings.root_path.rstrip("/"))
    return app


class UnderPath:
    """Middleware, the outermost: every path begins with `root`, whether a proxy has taken that off or not."""

    def __init__(self, app: ASGIApp, *, root: str) -> None:
        """root: as in /gpt."""
        self._app, self._root = app, root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            path = scope["path"] if scope["path"].startswith(f"{self._root}/") else self._root + scope["path"]
            scope = {**scope, "root_path": self._root, "path": path}
        await self._app(scope, receive, send)


def _add_model_routes(app: FastAPI, service: Service, inspections: Inspections) -> None:
    def add(path: str, endpoint: Endpoint, body: type[Any], summary: str, tag: str) -> None:
        async def answer(request: Request) -> Response:
            return await endpoint(service, request)

        app.add_api_route(
            path,
            answer,
            methods=["POST"],
            name=endpoint.__name__,
            summary=summary,
            tags=[tag],
            response_model=None,
            openapi_extra=body_schema(body),
        )

    add("/v1/completions", create_completion, CompletionRequest, "Continue prompts", "OpenAI")
    add("/v1/score", create_score, ScoreRequest, "Log-probabilities of given texts", "gptwo")
    add("/v1/inspect", inspections.create_inspection, InspectRequest, "What a text does inside the model", "gptwo")
    add("/tokenize", tokenize, TokenizeRequest, "The tokens of a text", "vLLM")
    add("/detokenize", detokenize, DetokenizeRequest, "The text of tokens", "vLLM")

    @app.get("/v1/models", summary="The models that are served", tags=["OpenAI"], response_model=None)
    async def list_models() -> Response:
        return json_response(
            {"object": "list", "data": [_model(service, name) for name in service.settings.model_names]}
        )

    @app.get("/v1/models/{model_id:path}", summary="One model", tags=["OpenAI"], response_model=None)
    async def retrieve_model(model_id: str) -> Response:
        return json_response(_model(service, service.check_name(model_id)))

    @app.get("/tokenizer_info", summary="What is to be known of the tokenizer", tags=["vLLM"], response_model=None)
    async def get_tokenizer_info() -> Response:
        return json_response(tokenizer_info(service.runner))


def _model(service: Service, name: str) -> dict[str, Any]:
    model = service.runner.model
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "gptwo",
        "max_model_len": model.config.n_positions,
        "parameters": model.config.parameter_count,
        "weights": getattr(model.decoder, "weights", service.settings.weights),
        "vocab_size": model.config.vocab_size,
    }


def _add_status_routes(app: FastAPI, service: Service) -> None:
    def status(*, busy_counts: bool) -> Response:
        try:
            _ = service.runner
        except RetryLaterError as error:
            return response_to(error, status=service.state)
        except GptwoError as error:
            return response_to(HTTPException(503, str(error)), status=service.state)
        if busy_counts and service.busy:
            return response_to(NotReadyError("the queue is full; ask again in a moment"), status="busy")
        return json_response({"status": "ok"})

    @app.head("/health", include_in_schema=False)
    @app.get("/health", summary="Whether it works", tags=["status"], response_model=None)
    async def health() -> Response:
        return status(busy_counts=False)

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready", summary="Whether it takes requests now", tags=["status"], response_model=None)
    async def ready() -> Response:
        return status(busy_counts=True)

    @app.get("/version", summary="gptwo's version", tags=["status"], response_model=None)
    async def version() -> Response:
        return json_response({"version": __version__})

    @app.get("/metrics", summary="Figures for Prometheus", tags=["status"], response_model=None)
    async def metrics() -> Response:
        content, content_type = await service.render_metrics()
        return Response(content, headers={"Content-Type": content_type})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return docs_page(app.openapi(), service.settings.root_path or "")


async def _on_error(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code in (404, 405):
        path = shown(request.url.path)
        said = f"{path} takes no {request.method}" if error.status_code == 405 else f"there is nothing at {path}"
        if request.url.path.endswith("/chat/completions"):
            said += ": GPT-2 continues text and has no chat; ask /v1/completions"
        error = HTTPException(error.status_code, said, dict(error.headers or {}))
    error = shortage(error) or error
    body, status = body_of(error), status_of(error)
    fields = record_of(request.scope)
    fields |= {"error": type(error).__name__, "param": body["error"]["param"]}
    if status >= 500 and not hasattr(error, "retry_after"):
        fields["cause"] = type(error.__cause__).__name__
    return response_to(error)
