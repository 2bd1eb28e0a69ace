"""Exchange: layers see once how a request ended, neighbours in one exchange."""

import asyncio
import tracemalloc
from asyncio import CancelledError
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from app.middleware.core.exchange import Exchange, Filter, Place
from app.middleware.core.headers import LONGEST
from app.middleware.core.layer import Layer
from app.middleware.problem import Refusal
from tests.middleware.asgi import CutOff, Dialogue
from tests.middleware.conftest import ProbeApp

# Those that some layer or library reads, and one that none does.
HEADERS = (
    "Accept",
    "Accept-Encoding",
    "Access-Control-Request-Headers",
    "Access-Control-Request-Method",
    "Authorization",
    "Content-Length",
    "Content-Type",
    "Cookie",
    "Host",
    "Idempotency-Key",
    "If-None-Match",
    "Origin",
    "Range",
    "Sec-Fetch-Site",
    "User-Agent",
    "X-API-Key",
    "X-Environment",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Nothing",
    "X-Request-ID",
)
LONG = 32 * LONGEST

OK = PlainTextResponse("ok")


@pytest.fixture(autouse=True)
def _neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let layers of these tests share an exchange, as those of the stack do."""

    def changes_nothing(_: Layer) -> bool:
        return False

    monkeypatch.setattr("app.middleware.core.layer._may_change_scope", changes_nothing)


class Witness(Layer):
    """Records the outcome that it gets."""

    def __init__(self, app: ASGIApp, *, told: list[Exchange]) -> None:
        super().__init__(app)
        self.told = told

    def ended(self, exchange: Exchange) -> None:
        self.told.append(exchange)


class Broken(Layer):
    """Raises when a request has ended, and at its exit."""

    def enter(self, exchange: Exchange) -> None:
        exchange.at_exit(self.fail)

    def ended(self, exchange: Exchange) -> None:  # noqa: ARG002
        self.fail()

    def fail(self) -> None:
        raise ConnectionError


class Watchful(Layer):
    """Records that a request waits."""

    def __init__(self, app: ASGIApp, *, waits: list[str]) -> None:
        super().__init__(app)
        self.waits = waits

    def enter(self, exchange: Exchange) -> None:
        exchange.when_waiting(lambda: self.waits.append("waits"))


class Again(Layer):
    """Tries a failed request once more, as no layer can."""

    async def around(self, exchange: Exchange, place: Place) -> None:  # noqa: ARG002
        with suppress(OSError):
            await place.proceed()
        await place.proceed()


class Late(Layer):
    """Responds with 504 while what is inside still works."""

    async def around(self, exchange: Exchange, place: Place) -> None:  # noqa: ARG002
        rest = asyncio.ensure_future(place.proceed())
        await asyncio.sleep(0)
        await place.respond(PlainTextResponse("late", 504))
        await rest


class Holding(Layer):
    """Holds the head back for a moment."""

    def head(self, exchange: Exchange, message: Message) -> Filter:  # noqa: ARG002
        def holding(send: Send) -> Send:
            async def send_later(message: Message) -> None:
                for _ in range(3):
                    await asyncio.sleep(0)
                await send(message)

            return send_later

        return holding


class LateHolding(Late, Holding):
    """Responds while it holds back the head of another response."""


class Open(Layer):
    """Records whether the websocket is open when all inside has returned."""

    def __init__(self, app: ASGIApp, *, seen: list[bool]) -> None:
        super().__init__(app)
        self.seen = seen

    async def around(self, exchange: Exchange, place: Place) -> None:  # noqa: ARG002
        await place.proceed()
        self.seen.append(place.is_open)


class Leaving:
    """Records the exceptions that pass it."""

    def __init__(self, app: ASGIApp, *, seen: list[type[Exception]]) -> None:
        self.app = app
        self.seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception as exc:
            self.seen.append(type(exc))
            raise


class Copying:
    """Copies the scope before it changes it, as ASGI asks."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app({**scope, "state": {**scope["state"]}, "tenant": "a"}, receive, send)


class Demanding:
    """Raises where it gets no response, as Starlette's BaseHTTPMiddleware does."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientDisconnect):
            await self.app(scope, receive, send)
        msg = "No response returned."
        raise RuntimeError(msg)


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


async def answer(_: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


COPIED = [Middleware(Layer), Middleware(Copying)]


def ask(*middleware: Middleware, method: str = "GET", path: str = "/") -> None:
    routes = [
        Mount("/of/{tenant:int}", routes=[Route("/{name}", answer)]),
        Mount("/twice/{name}", routes=[Route("/{name}", answer)]),
        Mount("/in/{outer}", routes=[Mount("/of/{tenant}", routes=[Route("/{name}", answer)])]),
        Mount("/raw/{name}", PlainTextResponse("ok")),
        Mount("/files", StaticFiles(directory=Path(__file__).parent)),
        Mount("/app", FastAPI()),
        Mount("/copied", FastAPI(routes=[Route("/{name}", answer)], middleware=COPIED)),
        Mount("/", PlainTextResponse("ok")),
    ]
    TestClient(Starlette(routes=routes, middleware=middleware)).request(method, path)


def test_a_watcher_is_told_once() -> None:
    told: list[Exchange] = []

    ask(Middleware(Witness, told=told))

    assert [(exchange.status, exchange.body_bytes) for exchange in told] == [(200, 2)]


@pytest.mark.parametrize(
    ("error", "status"), [(OSError, 500), (SystemExit, 500), (CancelledError, 499)]
)
def test_what_ends_a_request_without_an_answer_is_told(
    error: type[BaseException], status: int
) -> None:
    """A server responds to any exception with 500, unless the client is gone."""
    told: list[Exchange] = []

    async def fail(*_: object) -> None:
        raise error

    with pytest.raises(error):
        Dialogue("GET", "/").run(Witness(fail, told=told))

    assert [exchange.status for exchange in told] == [status]


@pytest.mark.parametrize(
    ("kind", "messages", "status", "size"),
    [
        ("http", [], 500, 0),
        (
            "http",
            [
                {"type": "http.response.start", "status": 200, "headers": []},
                {"type": "http.response.body", "body": b"no", "more_body": True},
            ],
            200,
            2,
        ),
        ("websocket", [], 500, 0),
        ("websocket", [{"type": "websocket.close"}], 403, 0),
        (
            "websocket",
            [
                {"type": "websocket.http.response.start", "status": 418, "headers": []},
                {"type": "websocket.http.response.body", "body": b"no", "more_body": True},
                {"type": "websocket.http.response.body", "body": b"!"},
            ],
            418,
            3,
        ),
    ],
    ids=["nothing", "half", "no handshake", "closed", "denied"],
)
def test_what_a_client_was_answered_is_told(
    kind: str, messages: list[Message], status: int, size: int
) -> None:
    """What the app leaves without a response, or cut off, is no client's doing."""
    told: list[Exchange] = []

    async def answer(_: Scope, __: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    dialogue = Dialogue("GET", "/")
    dialogue.scope.update(type=kind, extensions={"websocket.http.response": {}})
    dialogue.run(Witness(answer, told=told))

    assert [(exchange.status, exchange.body_bytes) for exchange in told] == [(status, size)]
    assert told[0].aborted == (kind == "http" and status == 200)


@pytest.mark.parametrize(("code", "aborted"), [(1000, False), (4000, False), (1011, True)])
@pytest.mark.parametrize("fails", [False, True])
def test_a_websocket_ends_when_it_closes(*, code: int, aborted: bool, fails: bool) -> None:
    """Whatever raises later, such as a dependency at its end."""
    told: list[Exchange] = []

    async def answer(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": code})
        assert [(exchange.status, exchange.aborted) for exchange in told] == [(101, aborted)]
        if fails:
            raise LookupError

    dialogue = Dialogue("GET", "/")
    dialogue.scope["type"] = "websocket"
    with pytest.raises(LookupError) if fails else nullcontext():
        dialogue.run(Witness(answer, told=told))

    assert [(exchange.status, exchange.aborted) for exchange in told] == [(101, aborted)]


def test_a_handshake_is_closed_where_the_server_takes_no_response() -> None:
    told: list[Exchange] = []

    async def deny(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no"})

    dialogue = Dialogue("GET", "/")
    dialogue.scope["type"] = "websocket"
    dialogue.run(Witness(deny, told=told))

    assert [message["type"] for message in dialogue.sent] == ["websocket.close"]
    assert [exchange.status for exchange in told] == [403]


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("left", [False, True])
def test_only_the_client_of_the_request_is_one_that_left(
    kind: str, *, grouped: bool, left: bool
) -> None:
    """An endpoint may lose a connection of its own, and a task group wraps what it raises."""
    told: list[Exchange] = []
    error = ClientDisconnect() if kind == "http" else WebSocketDisconnect(1006)
    raised = ExceptionGroup("", [error]) if grouped else error

    async def lose(_: Scope, receive: Receive, __: Send) -> None:
        if left:
            await receive()
        raise raised

    async def receive() -> Message:
        return {"type": f"{kind}.disconnect"}

    dialogue = Dialogue("GET", "/")
    dialogue.scope["type"] = kind
    with nullcontext() if left else pytest.raises(type(raised)):
        asyncio.run(Witness(lose, told=told)(dialogue.scope, receive, dialogue.send))

    assert [exchange.status for exchange in told] == [499 if left else 500]


def test_a_client_that_has_the_whole_response_may_leave() -> None:
    """The next thing that the server reports is that it left."""
    told: list[Exchange] = []
    gone = asyncio.Event()

    async def answer(_: Scope, receive: Receive, send: Send) -> None:
        watching = asyncio.ensure_future(receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"yes"})
        await watching

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            gone.set()
            for _ in range(3):
                await asyncio.sleep(0)

    scope = Dialogue("GET", "/").scope
    asyncio.run(Witness(answer, told=told)(scope, receive, send))

    assert [(exchange.status, exchange.body_bytes) for exchange in told] == [(200, 3)]


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


class Once(Witness):
    """Records the outcome, once for a request."""

    once = True


class Known(Layer):
    """Names a user of its own, or none."""

    def __init__(self, app: ASGIApp, *, user: str | None) -> None:
        super().__init__(app)
        self.user = user

    def enter(self, exchange: Exchange) -> None:
        exchange.state["user"] = self.user


def mounted(outer: list[Middleware], inner: list[Middleware], app: ASGIApp = OK) -> Starlette:
    """Return an app with layers, in which another one with layers is mounted."""
    own = Starlette(routes=[Mount("/", app)], middleware=inner)
    plain = Starlette(routes=[Mount("/plain", own), Mount("/", own)])
    return Starlette(routes=[Mount("/mounted", plain)], middleware=outer)


@pytest.mark.parametrize("path", ["/mounted/", "/mounted/plain/"])
def test_what_is_done_once_is_done_by_the_outer_app(path: str) -> None:
    outer: list[Exchange] = []
    inner: list[Exchange] = []
    own = [Middleware(Witness, told=[]), Middleware(Teapot), Middleware(Once, told=inner)]

    app = mounted([Middleware(Once, told=outer)], own)
    response = TestClient(app).get(path)

    assert response.status_code == 418
    assert [exchange.status for exchange in outer] == [418]
    assert inner == []


def test_what_only_a_mounted_app_has_is_done_there() -> None:
    told: list[Exchange] = []
    own = [Middleware(Once, told=told)]

    TestClient(mounted([Middleware(Witness, told=[])], own)).get("/mounted/")
    TestClient(Starlette(routes=[Mount("/", OK)], middleware=own)).get("/")

    assert len(told) == 2


@pytest.mark.parametrize(
    ("outer", "inner", "inside", "outside"),
    [
        ("alice", None, None, "alice"),
        ("alice", "bob", "bob", "alice"),
        (None, "bob", "bob", "bob"),
    ],
)
def test_a_mounted_app_has_a_state_of_its_own(
    outer: str | None, inner: str | None, inside: str | None, outside: str | None
) -> None:
    """Its layers may not recognize a user, whose response is no less theirs for the outer ones."""
    told: list[Exchange] = []
    around = [Middleware(Witness, told=told), Middleware(Known, user=outer)]

    async def tell(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(str(scope["state"]["user"]))(scope, receive, send)

    response = TestClient(mounted(around, [Middleware(Known, user=inner)], tell)).get("/mounted/")

    assert response.text == str(inside)
    assert told[0].state["user"] == outside


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_rejection_of_a_mounted_app_is_known_outside(kind: str) -> None:
    told: list[Exchange] = []
    app = mounted([Middleware(Witness, told=told)], [Middleware(Closed)])

    async def receive() -> Message:
        return {"type": f"{kind}.connect"}

    async def send(_: Message) -> None:
        pass

    asyncio.run(app({**Dialogue("GET", "/mounted/").scope, "type": kind}, receive, send))

    assert told[0].status == 403
    assert told[0].state["refused_by"] == "closed_shop"


class Closed(Layer):
    """Rejects everything."""

    name = "closed_shop"

    def enter(self, exchange: Exchange) -> Refusal:  # noqa: ARG002
        return Refusal(status=403, detail="closed")


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("HEAD", 200), ("DELETE", 403)])
def test_only_probes_of_an_exempt_path_pass(method: str, status: int) -> None:
    """A route with a parameter has that path too, and other methods do something."""
    app = Closed(PlainTextResponse("ok"), exempt_paths=["/healthz"])

    assert Dialogue(method, "/healthz").run(app).status == status


@pytest.mark.parametrize(("sent", "seen"), [("post", "POST"), ("M-Search", "M-SEARCH")])
def test_a_method_has_capitals(sent: str, seen: str) -> None:
    """WSGI apps in a mount take `post` for POST, so no layer may take it for another method."""
    methods: list[str] = []

    class Noting(Layer):
        def enter(self, exchange: Exchange) -> None:
            methods.append(exchange.method)

    Dialogue(sent, "/").run(Noting(PlainTextResponse("ok")))

    assert methods == [seen]


def test_the_layers_inside_see_a_request_once() -> None:
    """The second time they would not reject what they rejected the first time."""

    async def fail(*_: object) -> None:
        raise OSError

    with pytest.raises(RuntimeError, match="once"):
        Dialogue("GET", "/").run(Again(fail))


@pytest.mark.parametrize(
    "app",
    [Late(Holding(PlainTextResponse("ok"))), LateHolding(PlainTextResponse("ok"))],
    ids=["directly-inside", "itself"],
)
def test_a_response_that_comes_too_late_is_dropped(app: ASGIApp) -> None:
    """Even one that a layer held back."""
    dialogue = Dialogue("GET", "/").run(app)

    assert (dialogue.status, dialogue.body) == (504, b"late")


@pytest.mark.parametrize("last", [{}, {"more_body": True}], ids=["complete", "cut"])
def test_what_nobody_waits_for_is_a_499(last: Message) -> None:
    told: list[Exchange] = []

    async def answer(_: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.body", "body": b"", **last})

    CutOff("POST", "/", b"a").run(Witness(answer, told=told))

    assert [exchange.status for exchange in told] == [499]


@pytest.mark.parametrize(
    ("message", "is_open"),
    [
        ({"type": "websocket.receive", "text": "hello"}, True),
        ({"type": "websocket.disconnect"}, False),
    ],
    ids=["hello", "goodbye"],
)
def test_a_websocket_is_open_until_the_client_leaves(message: Message, is_open: bool) -> None:  # noqa: FBT001
    seen: list[bool] = []

    async def accept(_: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await receive()

    async def receive() -> Message:
        return message

    dialogue = Dialogue("GET", "/")
    dialogue.scope["type"] = "websocket"
    asyncio.run(Open(accept, seen=seen)(dialogue.scope, receive, dialogue.send))

    assert seen == [is_open]


def test_a_layer_between_two_sees_a_client_leave() -> None:
    """The outermost one alone keeps it from the server."""
    seen: list[type[Exception]] = []

    async def leave(_: Scope, receive: Receive, __: Send) -> None:
        await receive()
        raise ClientDisconnect

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    app = Witness(Leaving(Witness(leave, told=[]), seen=seen), told=[])
    dialogue = Dialogue("GET", "/")
    asyncio.run(app(dialogue.scope, receive, dialogue.send))

    assert seen == [ClientDisconnect]


@pytest.mark.parametrize("left", [False, True])
def test_what_others_raise_for_a_client_that_left_is_no_failure(*, left: bool) -> None:
    told: list[Exchange] = []

    async def lose(_: Scope, receive: Receive, __: Send) -> None:
        if left:
            await receive()
            raise ClientDisconnect

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    app = Witness(Demanding(Witness(lose, told=[])), told=told)
    with nullcontext() if left else pytest.raises(RuntimeError):
        asyncio.run(app(Dialogue("GET", "/").scope, receive, Dialogue("GET", "/").send))

    assert [exchange.status for exchange in told] == [499 if left else 500]


def test_a_watcher_that_fails_takes_nothing_from_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outer: list[Exchange] = []
    inner: list[Exchange] = []
    app = Witness(Broken(Witness(PlainTextResponse("ok"), told=inner)), told=outer)

    dialogue = Dialogue("GET", "/").run(app)

    assert dialogue.body == b"ok"
    assert [exchange.status for exchange in (*outer, *inner)] == [200, 200]
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


@pytest.mark.parametrize("waits", [False, True])
def test_a_request_that_waits_is_noticed_once(*, waits: bool) -> None:
    noticed: list[str] = []

    async def answer_later(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(3 * waits):
            await asyncio.sleep(0)
        await PlainTextResponse("ok")(scope, receive, send)

    Dialogue("GET", "/").run(Watchful(answer_later, waits=noticed))

    assert noticed == ["waits"] * waits


def test_a_request_that_waits_in_a_task_of_a_layer_is_noticed() -> None:
    """The driver waits for the task already, in which `Open` lets the request enter."""
    noticed: list[str] = []
    seen: list[bool] = []

    Dialogue("GET", "/").run(Late(Open(Watchful(OK, waits=noticed), seen=seen)))

    assert noticed == ["waits"]


def test_an_answer_to_head_has_no_bytes() -> None:
    told: list[Exchange] = []

    ask(Middleware(Witness, told=told), method="HEAD")

    assert [(exchange.status, exchange.body_bytes) for exchange in told] == [(200, 0)]


def test_the_bytes_of_a_file_count_that_the_server_sends_itself() -> None:
    told: list[Exchange] = []
    dialogue = Dialogue("GET", "/")
    dialogue.scope["extensions"] = {"http.response.pathsend": dict[str, object]()}

    dialogue.run(Witness(FileResponse(__file__), told=told))

    assert dialogue.sent[-1]["type"] == "http.response.pathsend"
    assert [exchange.body_bytes for exchange in told] == [Path(__file__).stat().st_size]


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/of/7/x", "/of/{tenant}/{name}"),
        ("/of/7/7", "/of/{tenant}/{name}"),
        ("/of/7/of", "/of/{tenant}/{name}"),
        ("/of/007/x", "/of/{tenant}/{name}"),
        ("/twice/7/x", "/twice/{name}/{name}"),
        ("/in/a/of/7/x", "/in/{outer}/of/{tenant}/{name}"),
        # Where no route inside is taken, those below a mount share one.
        ("/in/a/of/7/8/x", "/in/{outer}/of/{tenant}/{path}"),
        ("/in/a/x", "/in/{outer}/{path}"),
        ("/raw/7/x", "/raw/{name}/{path}"),
        (f"/files/{Path(__file__).name}", "/files/{path}"),
        ("/files/x", "/files/{path}"),
        ("/app/x", "/app/{path}"),
        ("/app/docs", "/app/docs"),
        ("/copied/x", "/copied/{name}"),
        ("/x/y", "/{path}"),
    ],
)
@pytest.mark.parametrize("inner", [[], COPIED[1:], [*COPIED, *COPIED]])
def test_the_routes_of_a_mount_are_few_whatever_is_asked(
    path: str, route: str, inner: list[Middleware]
) -> None:
    told: list[Exchange] = []

    ask(Middleware(Witness, told=told), *inner, path=path)

    assert [exchange.route for exchange in told] == [route]


@pytest.mark.parametrize("path", ["/items/7", "/orders/7"])
def test_what_copies_the_scope_hides_no_route(path: str) -> None:
    told: list[Exchange] = []
    app = FastAPI(middleware=[Middleware(Witness, told=told), *COPIED[1:]])
    orders = APIRouter()

    @app.get("/items/{number}")
    @orders.get("/{number}")
    async def one(number: int) -> int:
        return number

    app.include_router(orders, prefix="/orders")

    for _ in range(2):
        Dialogue("GET", path).run(app)

    assert [exchange.route for exchange in told] == [path.replace("7", "{number}")] * 2


@pytest.mark.parametrize("lines", [1, 64])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("name", HEADERS)
def test_no_layer_parses_a_long_header(
    name: str, method: str, lines: int, probe_app: ProbeApp
) -> None:
    """Some servers take megabytes; all requests would wait, and each part takes its own memory."""

    class Plain:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if "session" in scope:
                scope["session"]["changed"] = True
            await PlainTextResponse("onion " * 500)(scope, receive, send)

    app = probe_app(
        cors_allow_origins=["https://app.example"],
        metrics_allow=["0.0.0.0/0"],
        required_headers=["X-Environment: test"],
        trusted_proxies=["127.0.0.1"],
    )
    app.router.routes.append(Route("/plain", Plain(), methods=["GET", "POST"]))
    others = {"X-Environment": "test"}
    if method == "OPTIONS":
        others |= {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
    for path in ("/plain", "/metrics"):
        for part in ("ab,", "ab;", '"a",', "a."):
            dialogue = Dialogue(method, path, headers={**others, name: ""})
            value = (part * (LONG // lines // len(part)) + "session=x").encode()
            sent = [item for item in dialogue.scope["headers"] if item[1]]
            dialogue.scope["headers"] = sent + [(name.lower().encode(), value)] * lines

            # As a text, in one piece, and in lower case. Once in a while the interpreter needs more
            # for tables of its own.
            peaks = (_peak(dialogue, app) for _ in range(2))
            assert any(peak < 5 * LONG for peak in peaks), (path, part)


def _peak(dialogue: Dialogue, app: ASGIApp) -> int:
    """Return the bytes that a request takes at most."""
    again = Dialogue("", "")
    again.scope = {**dialogue.scope}
    tracemalloc.start()
    again.run(app)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("version", ["1.1", "2", "3"])
def test_the_body_of_a_refused_request_is_read(version: str) -> None:
    """Servers would close the connection, over HTTP/2 with the requests of others."""
    upload = Dialogue("POST", "/", *[b"x" * 10] * 5)
    upload.scope["http_version"] = version

    upload.run(Closed(OK))

    assert upload.received == 5
    assert "connection" not in upload.headers
    assert len(upload.body) == int(upload.headers["content-length"])


@pytest.mark.parametrize(("version", "closes"), [("1.1", True), ("2", False)])
def test_a_body_that_was_held_back_closes_the_connection(version: str, *, closes: bool) -> None:
    """The server can't know whether the next bytes are the body."""
    headers = {"Content-Length": "5", "Expect": "100-continue"}
    upload = Dialogue("POST", "/", b"hello", headers=headers)
    upload.scope["http_version"] = version

    upload.run(Closed(OK))

    assert (upload.status, upload.received) == (403, 0)
    assert upload.headers.get("connection") == ("close" if closes else None)
