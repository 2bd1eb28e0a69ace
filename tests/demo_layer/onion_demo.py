"""Demo: a layer that uses whatever the catalogue offers."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from fastapi.telemetry import TelemetryConfig
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from .core.exchange import Exchange
from .core.headers import Clash, HeaderRule
from .core.layer import HTTP, Layer
from .problem import Refusal

_FIXED: Final = b"x-demo-fixed"


class OnionDemoMiddleware(Layer):
    """Send `header` back, and refuse who sends `refuse` in it."""

    scopes = HTTP

    def __init__(self, app: ASGIApp, *, header: str, demo_path: str, suffix: str = "") -> None:
        super().__init__(app)
        self.header = header.lower().encode("ascii")
        self.rule = HeaderRule({self.header: Clash.BOTH, _FIXED: Clash.BOTH})
        self.value = (demo_path + suffix).encode("ascii")

    def enter(self, exchange: Exchange) -> Refusal | None:
        if exchange.header(self.header) == "refuse":
            return Refusal(status=418, detail="As asked.")
        exchange.add(self.rule, [(self.header, self.value), (_FIXED, b"yes")])
        return None


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
