"""Readiness: reports to load balancers whether this process takes requests."""

from collections.abc import Awaitable, Collection, Iterator
from typing import Annotated, Any, Final

from pydantic import Field
from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .core.check import readers_of
from .core.exchange import PROBE_METHODS, Decision, Exchange
from .core.health import Checks, Health
from .core.layer import HTTP, Layer
from .core.shutdown import Shutdown
from .problem import Refusal

_NOT_STORED: Final = {"Cache-Control": "no-store"}
_IN_USE: Final = (
    "READINESS_PATH is also the path of a route ({}), which the layer readiness would hide. Make"
    " the route a check, stack_options(settings, checks=[...]), or set another path."
)
_SAME: Final = "{} must not be the path of READINESS_PATH, {}. Set another path."


class Readiness:
    """Whether this process is ready: its checks pass, and it hasn't begun to stop."""

    def __init__(
        self, checks: Checks, *, timeout: float, max_age: float, shutdown_delay: float
    ) -> None:
        self.health = Health(checks, timeout=timeout, max_age=max_age)
        self.shutdown = Shutdown(delay=shutdown_delay)

    @property
    def ready(self) -> bool:
        """Whether it was ready at the last probe and hasn't begun to stop since."""
        return not (self.shutdown.began or self.health.failed)

    async def refusal(self) -> Refusal | None:
        """Return why the process is not ready, None where it is."""
        if self.shutdown.began:
            return Refusal(status=503, detail="The service is stopping.", closes=True)
        if failed := await self.health.find_failed():
            members = {"failed": failed}
            return Refusal(status=503, detail="The service is not ready.", members=members)
        return None


class ReadinessMiddleware(Layer):
    """
    Respond to GET and HEAD for `path`: with 200 while the process is ready, else with 503.

    After SIGTERM it isn't ready, and HTTP/1 connections are closed after their next response,
    whichever layer sends it, so that the server closes no connection that a client is about to use.
    """

    scopes = HTTP

    def __init__(self, app: ASGIApp, *, path: str, readiness: Readiness) -> None:
        super().__init__(app)
        self.path = path
        self.readiness = readiness

    def enter(self, exchange: Exchange) -> Awaitable[Decision] | None:
        if exchange.path == self.path and exchange.method in PROBE_METHODS:
            # Its `path` is the route for the layers outside.
            exchange.scope["route"] = self
            return self._report()
        return None

    async def _report(self) -> Decision:
        ready = JSONResponse({"status": "ready"}, headers=_NOT_STORED)
        return await self.readiness.refusal() or ready

    def faults(self, service: Any) -> Iterator[str]:
        for route in readers_of(service, self.path):
            setting = getattr(route, "setting", None)
            yield _SAME.format(setting, self.path) if setting else _IN_USE.format(self.path)

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        shutdown = self.readiness.shutdown
        service = scope["app"]
        stack = service.middleware_stack

        def close_connections() -> None:
            # Outside of all layers, and only now: until then it costs no request anything.
            service.middleware_stack = _ClosingConnections(stack)

        async def received() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                shutdown.begin()  # the server may have stopped without SIGTERM
                await self.readiness.health.close()
            return message

        with shutdown.watched(close_connections):
            await super().lifespan(scope, received, send)
        service.middleware_stack = stack


class _ClosingConnections:
    """Add `Connection: close` to each response over HTTP/1; later versions forbid it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["http_version"][0] != "1":
            await self.app(scope, receive, send)
            return

        async def send_closing(message: Message) -> None:
            if message["type"] == "http.response.start":
                message.setdefault("headers", [])
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self.app(scope, receive, send_closing)


def check_paths(*, path: str, probe_paths: Collection[str]) -> None:
    """
    Reject a path that is for liveness already.

    Raises:
        ValueError: with a message that says what to set.

    """
    if path in probe_paths:
        msg = f"READINESS_PATH must not be in PROBE_PATHS, which {path!r} is; remove it from there"
        raise ValueError(msg)


TimeLimit = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Delay = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
