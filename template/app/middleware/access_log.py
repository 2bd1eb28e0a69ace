"""Access log: logs one line per request, including rejected and failed ones."""

import logging
from collections.abc import Collection
from typing import Final

from starlette.types import ASGIApp

from .core.exchange import PROBE_METHODS, Exchange
from .core.layer import Layer
from .log import begin_line, line_writer

_SERVER_ERROR: Final = 500
_UNAVAILABLE: Final = 503
_OF_WEBSOCKETS: Final = (
    '%s - "WebSocket ',
    "connection open",
    "connection closed",
    "connection rejected",
    # It says so after a rejection with a response, too.
    "ASGI callable returned without completing handshake",
)


class AccessLogMiddleware(Layer):
    """
    Log each request once: after its last byte was sent, or when it ended without one.

    A client that disconnected early is logged with 499, if that was noticed: while a body is read
    or streamed. A websocket is logged when it closes, with 101 if it was accepted. An exception
    half-way adds `aborted`, and so does a close with 1011. `duration_ms` ends at the last byte and
    leaves out background tasks. `bytes` counts the body as it was sent. Header values and the query
    string are never logged. GET and HEAD of `silent_paths` are logged only when they fail (5xx), a
    layer's 503 aside; requests with `logs=False` when they fail.
    """

    once = True

    def __init__(self, app: ASGIApp, *, silent_paths: Collection[str], logs: bool = True) -> None:
        super().__init__(app)
        self.logs = logs
        self.silent_paths = frozenset(silent_paths)
        self.write = {level: line_writer(level) for level in ("info", "error")}
        # uvicorn writes a line of its own only if this logger has a handler, which
        # `uvicorn.run(app)` can give it later.
        server_log = logging.getLogger("uvicorn.access")
        server_log.handlers = []
        server_log.propagate = False
        server_log.addFilter(_nothing)
        # It logs websockets through this one, with the query string.
        logging.getLogger("uvicorn.error").addFilter(_is_of_no_websocket)

    def spares(self, path: str, method: str) -> bool:
        return method in PROBE_METHODS and path in self.silent_paths

    def ended(self, exchange: Exchange) -> None:
        failed = exchange.status >= _SERVER_ERROR or exchange.aborted
        if not (self.logs or failed):
            return
        state = exchange.state
        if exchange.path in self.silent_paths and self.spares(exchange.path, exchange.method):
            # A 503 of a layer is what a prober asks for.
            expected = exchange.status == _UNAVAILABLE and "refused_by" in state
            if expected or not failed:
                return
        level = "error" if failed else "info"
        # Field by field, since a second dictionary would be copied into this one.
        line = begin_line(level, "request")
        line["method"] = exchange.method
        line["path"] = exchange.scope["path"]
        line["route"] = exchange.route
        line["status"] = exchange.status
        line["duration_ms"] = int(exchange.seconds * 1_000_000) / 1000
        line["bytes"] = exchange.body_bytes
        line["client"] = exchange.client[0] if exchange.client else None
        if exchange.aborted:
            line["aborted"] = True
        user = state.get("user")
        if user is not None:
            try:
                line["user"] = user.id
            except Exception:  # noqa: BLE001 - an app can keep anything there
                line["user"] = None
        if "authentication_scheme" in state:
            line["scheme"] = state["authentication_scheme"]
        if "refused_by" in state:
            line["refused_by"] = state["refused_by"]
            line["reason"] = state.get("refused_because")
        self.write[level](line)


def _nothing(_: logging.LogRecord) -> bool:
    return False


def _is_of_no_websocket(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_OF_WEBSOCKETS)
