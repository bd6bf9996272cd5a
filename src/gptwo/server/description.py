"""The server's own description: OpenAPI at /openapi.json, and a page made from it at /docs that loads nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from gptwo.server.pages import SAFE
from gptwo.server.schemas import (
    CompletionRequest,
    DetokenizeRequest,
    InspectRequest,
    ScoreRequest,
    TokenizeRequest,
)

_BODIES: tuple[type[BaseModel], ...] = (
    CompletionRequest,
    ScoreRequest,
    InspectRequest,
    TokenizeRequest,
    DetokenizeRequest,
)
_PLACE = "#/components/schemas/"
_TEXT = {"type": ["string", "null"]}
_ERROR = {
    "type": "object",
    "description": "What went wrong, as OpenAI says it.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": {"type": "string"}, "type": {"type": "string"}, "param": _TEXT, "code": _TEXT},
        }
    },
}
_ANSWERS = {
    "400": "The request cannot be answered; `param` says which part of it is at fault.",
    "401": "No API key, or an unknown one.",
    "404": "Another model's name.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The body is not JSON.",
    "429": "Too much is under way; ask again after `Retry-After` seconds.",
    "500": "A defect of the server.",
    "501": "Looking inside is not to be had here: the message says what it needs.",
    "503": "The server is loading its model, or about to end; ask again after `Retry-After` seconds.",
}
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code { font-family: ui-monospace, monospace; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: 0.3rem 0.8rem 0.3rem 0; border-top: 1px solid #8884; }
h2 { margin-top: 2.5rem; }
"""


def body_schema(body: type[BaseModel]) -> dict[str, Any]:
    """What a route's description says of its body, which FastAPI does not read itself, and of its answers."""
    errors = {
        status: {"description": said, "content": {"application/json": {"schema": {"$ref": f"{_PLACE}Error"}}}}
        for status, said in _ANSWERS.items()
    }
    content = {"application/json": {"schema": {"$ref": _PLACE + body.__name__}}}
    return {"requestBody": {"required": True, "content": content}, "responses": errors}


def describe(app: FastAPI, root: str) -> None:
    """Give the app its OpenAPI description. root: the path before all of its paths, or nothing."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            _, bodies = models_json_schema([(body, "validation") for body in _BODIES], ref_template=_PLACE + "{model}")
            components = schema.setdefault("components", {})
            components.setdefault("schemas", {}).update({**bodies["$defs"], "Error": _ERROR})
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            if root:
                schema["servers"] = [{"url": root}]
            schema["security"] = [{"key": []}, {}]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to change it


def docs_page(schema: dict[str, Any], root: str) -> Response:
    """The description as a page to read."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; frame-ancestors 'none'"
    page = "\n".join(_page(schema, root))
    return Response(page, media_type="text/html", headers={**SAFE, "Content-Security-Policy": policy})


def _page(schema: dict[str, Any], root: str) -> Iterator[str]:
    info = schema["info"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>{_STYLE}</style></head><body><main><h1>{title}</h1>"
    yield f"<p>{escape(info['description'])} For programs the same is in "
    yield f'<a href="{escape(root)}/openapi.json">openapi.json</a>.</p>'
    schemas = schema["components"]["schemas"]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if method == "head":
                continue
            yield f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}.</p>"
            body = operation.get("requestBody")
            if body is not None:
                reference = body["content"]["application/json"]["schema"]["$ref"]
                yield from _fields(schemas[reference.removeprefix(_PLACE)])
    yield "<h2>Errors</h2><table><tbody>"
    for status, said in _ANSWERS.items():
        yield f"<tr><th>{status}</th><td>{escape(said)}</td></tr>"
    yield "</tbody></table></main></body></html>"


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    yield "<table><thead><tr><th>Field</th><th>Type</th><th>Default</th><th>Meaning</th></tr></thead><tbody>"
    required = schema.get("required", ())
    for name, field in schema["properties"].items():
        default = "required" if name in required else "" if field.get("default") is None else repr(field["default"])
        cells = (_kind(field), default, field.get("description", ""))
        row = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        yield f"<tr><td><code>{escape(name)}</code></td>{row}</tr>"
    yield "</tbody></table>"


def _kind(field: dict[str, Any]) -> str:
    """A field's type in a word or two."""
    if "anyOf" in field:
        return " or ".join(kind for kind in map(_kind, field["anyOf"]) if kind != "null")
    if "enum" in field:
        return " or ".join(str(value).lower() for value in field["enum"] if value is not None)
    if "$ref" in field:
        return str(field["$ref"]).removeprefix(_PLACE)
    if "const" in field:
        return str(field["const"]).lower()
    kinds = field.get("type", "")
    words = [kinds] if isinstance(kinds, str) else [kind for kind in kinds if kind != "null"]
    items = f" of {_kind(field['items'])}" if "items" in field else ""
    return " or ".join(words) + items
