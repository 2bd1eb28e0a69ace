"""Timing: tells a client how long the service took to answer."""

from collections.abc import Awaitable
from time import perf_counter
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .core.scope import NAME

_PROCESS_TIME: Final = b"x-process-time"


class TimingMiddleware:
    """
    Add `Server-Timing: app;dur=` in milliseconds and `X-Process-Time` in seconds.

    Both tell the time until the response started, since headers can't be sent later; a stream
    takes as long as it takes. What an endpoint put into Server-Timing is kept beside it (W3C
    Server Timing). Browsers show it to pages of other origins only with Timing-Allow-Origin.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self.app(scope, receive, send)
        started_at = perf_counter()

        def send_with_times(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                seconds = perf_counter() - started_at
                headers = message.get("headers", [])
                if _PROCESS_TIME in map(NAME, headers):
                    headers = [item for item in headers if item[0] != _PROCESS_TIME]
                ours = [
                    (b"server-timing", b"app;dur=%.3f" % (seconds * 1000)),
                    (_PROCESS_TIME, b"%.6f" % seconds),
                ]
                message = {**message, "headers": [*headers, *ours]}
            return send(message)

        return self.app(scope, receive, send_with_times)
