"""The playground's files, as they lie in the package, with headers that let the page load nothing from elsewhere."""

from __future__ import annotations

import hashlib
import json
import mimetypes
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gptwo.inspection.page import views_folder
from gptwo.server.playground_parameters import playground_parameters

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SHARED = ("base.css", "views.css")  # stylesheets of the views that are the playground's too
SAFE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
# Those of the system's own table differ from machine to machine.
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
}


@dataclass(frozen=True)
class Page:
    """A file as it is sent."""

    content: bytes
    content_type: str

    @property
    def tag(self) -> str:
        """Its ETag."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'


def add_playground(app: FastAPI) -> None:
    """Serve the package's folder `playground`: its index.html at /, every file at /playground/NAME, and beside them the
    sampling parameters as the page explains them.
    """
    pages = _pages(_folder())
    views = _pages(views_folder())  # of `gptwo explain`, some of which the playground shows too
    pages |= {f"views/{name}": page for name, page in views.items() if name in SHARED or name.endswith(".js")}
    pages["parameters.json"] = Page(json.dumps(playground_parameters()).encode(), TYPES[".json"])

    async def index(request: Request) -> Response:
        return _answer(request, pages.get("index.html"))

    async def file(request: Request, name: str) -> Response:
        return _answer(request, pages.get(name))

    app.add_api_route("/", index, methods=["GET", "HEAD"], include_in_schema=False, response_model=None)
    app.add_api_route(
        "/playground/{name:path}", file, methods=["GET", "HEAD"], include_in_schema=False, response_model=None
    )


def _folder() -> Traversable:
    return resources.files("gptwo.server").joinpath("playground")


def _pages(folder: Traversable, prefix: str = "") -> dict[str, Page]:
    """Every file below a folder, by its path there. They are few and small, and never change while the server runs."""
    found: dict[str, Page] = {}
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.is_dir():
            found |= _pages(entry, f"{prefix}{entry.name}/")
        elif not entry.name.endswith((".py", ".pyc")):
            suffix = entry.name[entry.name.rfind(".") :]
            kind = TYPES.get(suffix) or mimetypes.guess_type(entry.name)[0] or "application/octet-stream"
            found[prefix + entry.name] = Page(entry.read_bytes(), kind)
    return found


def _answer(request: Request, page: Page | None) -> Response:
    if page is None:
        raise HTTPException(404)
    headers = {**SAFE, "Content-Security-Policy": POLICY, "ETag": page.tag, "Cache-Control": "no-cache"}
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if page.tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(page.content, headers={**headers, "Content-Type": page.content_type})
