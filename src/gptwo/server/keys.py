"""API keys: read from a file or the environment, compared in constant time, counted while they are in use."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from gptwo.errors import AuthenticationError, ServerError, TooManyRequestsError
from gptwo.server.failures import response_to

# What may be asked without a key: nothing of it tells of a text, or costs the model a step.
OPEN_PATHS = frozenset({"/", "/health", "/ready", "/metrics", "/version", "/docs", "/openapi.json"})
OPEN_FOLDER = "/playground/"


class ApiKeys:
    """The keys that a server knows; none at all lets everybody in."""

    def __init__(self, keys: list[str]) -> None:
        """keys: as clients send them."""
        self._digests = [_digest(key.encode()) for key in dict.fromkeys(keys)]

    def __len__(self) -> int:
        """How many there are."""
        return len(self._digests)

    @classmethod
    def read(cls, file: str | None, environment: Mapping[str, str] | None = None) -> ApiKeys:
        """The keys of a file (one on each line; empty lines and those with # in front are none) and the environment.

        environment: GPTWO_API_KEY is a key, GPTWO_API_KEYS are several with commas between them.
        Raises ServerError for a file that cannot be read or has no key in it, an empty variable, and a key that nobody
        could send.
        """
        known = os.environ if environment is None else environment
        for name in ("GPTWO_API_KEY", "GPTWO_API_KEYS"):
            if name in known and not known[name].strip(" ,"):  # a secret that was lost on its way here, perhaps
                raise ServerError(f"{name} is empty; unset it to serve without keys")
        keys = [known.get("GPTWO_API_KEY", ""), *known.get("GPTWO_API_KEYS", "").split(",")]
        if file is not None:
            try:
                # Some editors put a mark in front, which is no part of the first key.
                lines = Path(file).expanduser().read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError, RuntimeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not text"
                raise ServerError(f"the file of API keys {file} cannot be read ({reason})") from error
            found = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
            if not found:
                raise ServerError(f"the file of API keys {file} has no key in it")
            keys += found
        keys = [key.strip() for key in keys if key.strip()]
        if not all(map(str.isprintable, keys)):  # a file in UTF-16, for example
            raise ServerError("an API key holds control characters, which no request can carry; is its file UTF-8?")
        return cls(keys)

    def find(self, authorization: bytes) -> int | None:
        """Which key a header's value carries, or None. The time it takes does not depend on how near a wrong one is."""
        scheme, _, key = authorization.partition(b" ")
        given = _digest(key.strip())
        found = None
        for number, known in enumerate(self._digests):
            if hmac.compare_digest(given, known):
                found = number
        return found if scheme.lower() == b"bearer" else None


class KeyGuard:
    """Middleware: 401 without a known key, 429 with one that has too many requests under way."""

    def __init__(self, app: ASGIApp, *, keys: ApiKeys, most: int | None, root_path: str = "") -> None:
        """most: requests of one key at a time. root_path: what may stand before every path."""
        self._app, self._keys, self._most, self._root = app, keys, most, root_path
        self._running: Counter[int] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer it here."""
        if scope["type"] != "http" or not self._keys or self._is_open(scope["path"].removeprefix(self._root)):
            await self._app(scope, receive, send)
            return
        header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        key = self._keys.find(header)
        if key is None:
            said = "an unknown API key" if header else "no API key; send one as `Authorization: Bearer KEY`"
            await response_to(AuthenticationError(f"the request has {said}"))(scope, receive, send)
            return
        if self._most is not None and self._running[key] >= self._most:
            error = TooManyRequestsError(
                f"{self._running[key]} requests with this API key are under way, the most allowed"
            )
            await response_to(error)(scope, receive, send)
            return
        self._running[key] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running[key] -= 1

    @staticmethod
    def _is_open(path: str) -> bool:
        return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
