"""The apps that are measured, by their names; those with layers are of the service beside."""

from importlib import import_module
from typing import Any, Final, cast

from fastapi import APIRouter, FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .workload import AUDIENCE, HOST, ISSUER, KEY, ORIGIN, add_routes

# As FastAPI is at its fastest; left on and unused, its telemetry is a target of its own.
QUIET: Final = cast("TelemetryConfig", {"tracing": False, "metrics": False, "logs": False})

_SETTINGS: Final = {
    "allowed_hosts": [HOST],
    "authentication_required": False,
    "cors_allow_origins": [ORIGIN],
    "cross_origin_trusted": [ORIGIN],
    "jwt_algorithms": ["HS256"],
    "jwt_audience": AUDIENCE,
    "jwt_issuer": ISSUER,
    "jwt_key": KEY,
    "max_body_bytes": 100_000_000,
    "max_concurrency": 10_000,
    "session_secret": "another secret of more than 32 characters",
}


def make(target: str, *, limit: str, routes: int) -> FastAPI:
    """
    Return the app called `target`, with the routes of the workload outside of so many others.

    `bare`, `telemetry`, `tutorial` and `popular` need no service; `no-op:` and a number has so
    many layers that do nothing. `stack` has all layers of the service, `only:` and names has
    those, where `check` is the check of the order; `headers` only sends what `stack` would.
    `policies:` and a number is `stack` with a policy for so many of the other routes.
    """
    app = _make(target, limit=limit)
    if target == "popular":
        # Its limiter overlooks the routes of a router.
        add_routes(app, others=routes)
    else:
        router = APIRouter()
        add_routes(router, others=routes)
        app.include_router(router)
    return app


def _make(target: str, *, limit: str) -> FastAPI:
    kind, _, told = target.partition(":")
    match kind:
        case "bare":
            return FastAPI(telemetry=QUIET)
        case "telemetry":
            return FastAPI()
        case "tutorial" | "popular":
            app: FastAPI = import_module(f".rivals.{kind}", __package__).make_app(limit=limit)
            return app
        case "headers":
            learn = Middleware(SameHeaders, stack=_make("stack", limit=limit))
            return FastAPI(middleware=[learn])
        case "no-op":
            return FastAPI(middleware=[Middleware(NoOp)] * int(told), telemetry=QUIET)
        case _:
            names = told.split(",") if kind == "only" else None
            return _stack(names, limit=limit, policies=int(told) if kind == "policies" else 0)


class NoOp:
    """The least that a layer can be."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class SameHeaders:
    """Sends the headers that `stack` sent once: what they cost the server, without the work."""

    def __init__(self, app: ASGIApp, *, stack: FastAPI) -> None:
        self.app = app
        self.stack = stack
        self.headers: list[tuple[bytes, bytes]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self.headers is None:
            self.headers = await self._learn({**scope, "state": {}}, receive)
        headers = self.headers

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *headers]}
            await send(message)

        await self.app(scope, receive, send_with_headers)

    async def _learn(self, scope: Scope, receive: Receive) -> list[tuple[bytes, bytes]]:
        sent: list[tuple[bytes, bytes]] = []

        async def send(message: Message) -> None:
            sent.extend(message.get("headers", ()))

        await self.stack(scope, receive, send)
        return [item for item in sent if item[0] not in {b"content-length", b"content-type"}]


def _stack(names: list[str] | None, *, limit: str, policies: int = 0) -> FastAPI:
    from app.middleware import Policy, StackSettings, stack_options
    from app.middleware.order import layer_of

    told = {**_SETTINGS, "rate_limit": limit, "user_rate_limit": limit}
    known = {name: value for name, value in told.items() if name in StackSettings.model_fields}
    settings = StackSettings(_env_file=None, **known)
    others = (f"GET /others/{number}/{{item_id}}" for number in range(policies))
    routes = {name: Policy(max_body_bytes=1000) for name in others}
    options: dict[str, Any] = dict(stack_options(settings, routes=routes))
    if names is not None:
        layers = [
            item for item in options["middleware"] if (layer_of(item.cls) or "check") in names
        ]
        telemetry = options["telemetry"] if "tracing" in names else QUIET
        options |= {"middleware": layers, "telemetry": telemetry}
    return FastAPI(**options)
