"""Under which names a server may be asked that believes itself to be alone with its machine's users.

A page of anybody's can have its own name lead to this machine (DNS rebinding); to the browser the server then is of the
page's own origin. Only the name in `Host` tells such requests from others.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from gptwo.options import shown
from gptwo.server.failures import response_to


class HostGuard:
    """Middleware: 403 for a request to a name that others can have led here.

    An address is not such a name, nor is localhost; others are let in by name.
    """

    def __init__(self, app: ASGIApp, *, names: Sequence[str]) -> None:
        """names: without ports; * is any."""
        self._app, self._names = app, {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer it here."""
        if scope["type"] == "http" and "*" not in self._names:
            hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
            wrong = next((host for host in hosts if not self._knows(name_of(host))), None)
            if wrong is not None:
                said = f"the server is not known as {shown(name_of(wrong))}; --allowed-hosts lets names in"
                await response_to(HTTPException(403, said))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _knows(self, name: str) -> bool:
        if name in self._names or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def name_of(host: str) -> str:
    """A host without its port, as names are compared.

    Example: name_of("[::1]:80") == "::1"
    """
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".")
