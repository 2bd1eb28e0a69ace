"""Access log: exactly one line a request, whatever becomes of it."""

import logging
from collections.abc import Collection
from typing import Any, Final

from starlette.types import ASGIApp

from .core.exchange import Exchange
from .core.layer import Layer
from .log import line_writer

_SERVER_ERROR: Final = 500
_OF_WEBSOCKETS: Final = (
    '%s - "WebSocket ',
    "connection open",
    "connection closed",
    "connection rejected",
)


class AccessLogMiddleware(Layer):
    """
    Log each request once: when its last byte was sent, or when it ended without one.

    A client that went away before that is logged as 499; a websocket as one line when it
    closes, with 101 if it was accepted. `duration_ms` ends at the last byte, background tasks
    left out; `bytes` are those of the body on the wire. Header values and the query string are
    never logged. A request for one of `silent_paths` is logged only when it fails (5xx), and so
    is any where it `logs` not.
    """

    def __init__(self, app: ASGIApp, *, silent_paths: Collection[str], logs: bool = True) -> None:
        super().__init__(app)
        self.logs = logs
        self.silent_paths = frozenset(silent_paths)
        self.write = {level: line_writer(level) for level in ("info", "error")}
        # One line a request: uvicorn writes its own only where this logger has a handler.
        server_log = logging.getLogger("uvicorn.access")
        server_log.handlers = []
        server_log.propagate = False
        # Of websockets it tells elsewhere, with the query string.
        logging.getLogger("uvicorn.error").addFilter(_is_of_no_websocket)

    def ended(self, exchange: Exchange) -> None:
        failed = exchange.status >= _SERVER_ERROR
        if not (self.logs or failed):
            return
        if exchange.path in self.silent_paths and not failed and exchange.method != "WEBSOCKET":
            return
        state = exchange.state
        line: dict[str, Any] = {
            "event": "request",
            "method": exchange.method,
            "path": exchange.scope["path"],
            "route": exchange.route,
            "status": exchange.status,
            "duration_ms": int(exchange.seconds * 1_000_000) / 1000,
            "bytes": exchange.body_bytes,
            "client": exchange.client[0] if exchange.client else None,
        }
        user = state.get("user")
        if user is not None:
            line["user"] = user.id
        if "refused_by" in state:
            line["refused_by"] = state["refused_by"]
            line["reason"] = state["refused_because"]
        self.write["error" if failed else "info"](line)


def _is_of_no_websocket(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_OF_WEBSOCKETS)
