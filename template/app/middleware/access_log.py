"""Access log: exactly one line a request, whatever becomes of it."""

import logging
from collections.abc import Awaitable, Collection
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from .exchange import Exchange
from .log import line_writer
from .probes import is_probe
from .scope import route_template

_SERVER_ERROR: Final = 500


class AccessLogMiddleware:
    """
    Log each request once: when its last byte was sent, or when it ended without one.

    A client that went away before that is logged as 499; a websocket as one line when it
    closes, with 101 if it was accepted. `duration_ms` ends at the last byte, background tasks
    left out; `bytes` are those of the body on the wire. Header values and the query string are
    never logged. A request for one of `silent_paths` is logged only when it fails (5xx).
    """

    def __init__(self, app: ASGIApp, *, silent_paths: Collection[str]) -> None:
        self.app = app
        self.silent_paths = frozenset(silent_paths)
        self.write_line = line_writer("info")
        # One line a request: uvicorn writes its own only where this logger has a handler.
        server_log = logging.getLogger("uvicorn.access")
        server_log.handlers = []
        server_log.propagate = False

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "lifespan":
            return self.app(scope, receive, send)
        return _Logged(self, scope, send).run(self.app, receive)


class _Logged(Exchange):
    """A request that gets its line when it ended."""

    __slots__ = ("_client", "_layer")

    def __init__(self, layer: AccessLogMiddleware, scope: Scope, send: Send) -> None:
        super().__init__(scope, send)
        self._layer = layer
        # As it stands now: what a layer further in makes of it is not what came in.
        self._client = scope.get("client")

    def ended(self) -> None:
        scope = self.scope
        if self.status < _SERVER_ERROR and is_probe(scope, self._layer.silent_paths):
            return
        user = scope.get("state", {}).get("user")
        line: dict[str, Any] = {
            "event": "request",
            "method": scope.get("method", "WEBSOCKET"),
            "path": scope["path"],
            "route": route_template(scope),
            "status": self.status,
            "duration_ms": int(self.seconds * 1_000_000) / 1000,
            "bytes": self.bytes,
            "client": self._client[0] if self._client else None,
        }
        if user is not None:
            line["user"] = user.id
        self._layer.write_line(line)
