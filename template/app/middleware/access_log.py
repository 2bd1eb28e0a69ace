"""Access log: exactly one line a request, whatever becomes of it."""

import logging
from collections.abc import Collection
from functools import partial
from typing import Any, Final

from starlette.types import ASGIApp, Scope

from .exchange import Exchange, Listener, Watcher
from .log import line_writer
from .probes import is_probe
from .scope import route_template

_SERVER_ERROR: Final = 500


class AccessLogMiddleware(Watcher):
    """
    Log each request once: when its last byte was sent, or when it ended without one.

    A client that went away before that is logged as 499; a websocket as one line when it
    closes, with 101 if it was accepted. `duration_ms` ends at the last byte, background tasks
    left out; `bytes` are those of the body on the wire. Header values and the query string are
    never logged. A request for one of `silent_paths` is logged only when it fails (5xx).
    """

    def __init__(self, app: ASGIApp, *, silent_paths: Collection[str]) -> None:
        super().__init__(app)
        self.silent_paths = frozenset(silent_paths)
        self.write_line = line_writer("info")
        # One line a request: uvicorn writes its own only where this logger has a handler.
        server_log = logging.getLogger("uvicorn.access")
        server_log.handlers = []
        server_log.propagate = False

    def listen(self, scope: Scope) -> Listener:
        # The client as it is now: what a layer further in makes of it is not what came in.
        return partial(self._log, scope, scope.get("client"))

    def _log(self, scope: Scope, client: tuple[str, int] | None, exchange: Exchange) -> None:
        if exchange.status < _SERVER_ERROR and is_probe(scope, self.silent_paths):
            return
        user = scope.get("state", {}).get("user")
        line: dict[str, Any] = {
            "event": "request",
            "method": scope.get("method", "WEBSOCKET"),
            "path": scope["path"],
            "route": route_template(scope),
            "status": exchange.status,
            "duration_ms": int(exchange.seconds * 1_000_000) / 1000,
            "bytes": exchange.bytes,
            "client": client[0] if client else None,
        }
        if user is not None:
            line["user"] = user.id
        self.write_line(line)
