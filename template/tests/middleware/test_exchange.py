"""Exchange: watchers are told once what became of a request, neighbours by one hand."""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.middleware.exchange import Exchange, Watcher


class Witness(Watcher):
    """Keeps what it was told."""

    def __init__(self, app: ASGIApp, *, told: list[Exchange]) -> None:
        super().__init__(app)
        self.told = told

    def began(self, exchange: Exchange) -> None:
        pass

    def ended(self, exchange: Exchange) -> None:
        self.told.append(exchange)


class Teapot:
    """Makes a 418 of every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_418(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "status": 418}
            await send(message)

        await self.app(scope, receive, send_418)


def ask(*middleware: Middleware) -> None:
    routes = [Mount("/", PlainTextResponse("ok"))]
    TestClient(Starlette(routes=routes, middleware=middleware)).get("/")


def test_a_watcher_is_told_once() -> None:
    told: list[Exchange] = []

    ask(Middleware(Witness, told=told))

    assert [(exchange.status, exchange.bytes) for exchange in told] == [(200, 2)]


def test_neighbours_share_an_exchange() -> None:
    outer: list[Exchange] = []
    inner: list[Exchange] = []

    ask(Middleware(Witness, told=outer), Middleware(Witness, told=inner))

    assert len(outer) == 1
    assert outer == inner


def test_what_stands_between_two_is_seen_by_the_outer_one_alone() -> None:
    outer: list[Exchange] = []
    inner: list[Exchange] = []

    ask(Middleware(Witness, told=outer), Middleware(Teapot), Middleware(Witness, told=inner))

    assert [exchange.status for exchange in outer] == [418]
    assert [exchange.status for exchange in inner] == [200]
