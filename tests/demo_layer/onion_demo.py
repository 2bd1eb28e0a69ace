"""Demo: a layer that uses whatever the catalogue offers."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi.telemetry import TelemetryConfig
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .core.scope import only_header
from .problem import refuse


class OnionDemoMiddleware:
    """Send `header` back, and refuse who sends `refuse` in it."""

    def __init__(self, app: ASGIApp, *, header: str, demo_path: str, suffix: str = "") -> None:
        self.app = app
        self.header = header.lower().encode("ascii")
        self.value = (demo_path + suffix).encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if only_header(scope, self.header) == "refuse":
            await refuse(scope, receive, send, layer="onion_demo", status=418, detail="As asked.")
            return

        async def send_with_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(self.header, self.value), (b"x-demo-fixed", b"yes")]
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        await self.app(scope, receive, send_with_header)


class DemoError(Exception):
    """What the handler below answers."""


Handler = Callable[[Request, Exception], Awaitable[Response]]


def demo_handlers() -> dict[type[Exception], Handler]:
    """Return the handlers of the layer's own exceptions."""
    return {DemoError: _answer}


async def _answer(_: Request, __: Exception) -> Response:
    return JSONResponse({"demo": "error"}, status_code=409)


def demo_route(path: str) -> BaseRoute:
    """Return a route of the layer."""
    return Route(path, _page)


async def _page(_: Request) -> Response:
    return PlainTextResponse("demo")


def demo_telemetry() -> TelemetryConfig:
    """Switch telemetry off, in words of our own."""
    return {"tracing": False, "metrics": False, "logs": False}


def demo_setup(secret: SecretStr) -> None:
    """Do what has to be done once."""
    secret.get_secret_value()


def check_demo(*, header: str, path: str) -> None:
    """Refuse a header that is named like the path."""
    if header == path:
        msg = "DEMO_HEADER must not be DEMO_PATH"
        raise ValueError(msg)


def shout(text: Any) -> str:
    """Print NAME in capitals."""
    return str(text).upper()
