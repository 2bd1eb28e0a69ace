"""Cancellation: the shields of AnyIO hold against what ends a request, and nothing else changes."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar

import pytest
from anyio import CancelScope
from anyio.to_thread import current_default_thread_limiter, run_sync
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.middleware.core.cancellation import end_cancelled
from app.middleware.core.exchange import Exchange, Place
from app.middleware.core.layer import Layer
from tests.middleware.asgi import Dialogue


def _app() -> FastAPI:
    app = FastAPI()
    ended = threading.Event()

    async def in_thread() -> None:
        await run_sync(ended.wait, 4)

    @app.get("/timeout")
    async def timeout() -> str:
        try:
            async with asyncio.timeout(0.05):
                await in_thread()
        except TimeoutError:
            ended.set()
        await asyncio.sleep(0)
        return "in time" if ended.is_set() else "late"

    @app.get("/group")
    async def group() -> str:
        async def fail() -> None:
            await asyncio.sleep(0.05)
            raise OSError

        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(fail())
                await in_thread()
        except* OSError:
            ended.set()
        await asyncio.sleep(0)
        return "in time"

    @app.get("/clean-up")
    async def clean_up() -> str:
        try:
            async with asyncio.timeout(0.05):
                with CancelScope(shield=True):
                    await asyncio.sleep(0.2)
        except TimeoutError:
            await asyncio.sleep(0)
        return "in time"

    return app


@pytest.mark.parametrize("path", ["/timeout", "/group", "/clean-up"])
def test_code_that_cancels_itself_goes_on_as_in_any_app(path: str) -> None:
    dialogue = Dialogue("GET", path).run(Layer(_app()))

    assert json.loads(dialogue.body) == "in time"


def _with_a_reason(task: "asyncio.Task[None]") -> None:
    task.cancel("the server stops")


def _without_one(task: "asyncio.Task[None]") -> None:
    task.cancel()


def _by_its_group(_: object) -> None:
    raise InterruptedError


@pytest.mark.parametrize("end", [_with_a_reason, _without_one, _by_its_group])
def test_a_shield_holds_until_its_end_when_the_request_is_cancelled(
    end: Callable[["asyncio.Task[None]"], None],
) -> None:
    """Whichever way: uvicorn gives a reason, gunicorn none; hypercorn has its tasks in a group."""
    steps: list[str] = []
    app = FastAPI()

    @app.get("/")
    async def work() -> None:
        try:
            with CancelScope(shield=True):
                await asyncio.sleep(0.05)
                await run_sync(steps.append, "in a thread")
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            steps.append("cancelled")
            raise

    tasks: list[asyncio.Task[None]] = []

    async def drive() -> None:
        dialogue = Dialogue("GET", "/")
        with suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                request = Layer(app)(dialogue.scope, dialogue.receive, dialogue.send)
                tasks.append(group.create_task(request))
                await asyncio.sleep(0.02)
                end(tasks[0])

    asyncio.run(drive())

    assert tasks[0].cancelled()
    assert steps == ["in a thread", "cancelled"]


_user: ContextVar[str] = ContextVar("user")


class Watches(Layer):
    """Notes the status and the context of each request that is over."""

    def __init__(self, app: ASGIApp, seen: list[tuple[int, str]]) -> None:
        super().__init__(app)
        self.seen = seen

    def enter(self, exchange: Exchange) -> None:  # noqa: ARG002
        _user.set("of the request")

    def ended(self, exchange: Exchange) -> None:
        self.seen.append((exchange.status, _user.get("of nobody")))


class Responds(Layer):
    """Responds where its request was cancelled."""

    async def around(self, exchange: Exchange, place: Place) -> None:
        exchange.if_cancelled = self, place.depth
        await place.proceed()

    async def cancelled(self, exchange: Exchange, place: Place) -> None:  # noqa: ARG002
        if not place.started:
            await place.respond(PlainTextResponse("stopped", 503))


class Own:
    """A class between two chains of layers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def _slow_app(may_end: threading.Event) -> FastAPI:
    app = FastAPI()

    @app.get("/thread")
    def thread() -> None:
        may_end.wait(8)

    @app.get("/pool")
    async def pool() -> None:
        await run_sync(may_end.wait, 8)

    @app.get("/clean-up")
    async def clean_up() -> None:
        try:
            await asyncio.sleep(8)
        finally:
            await run_sync(may_end.wait, 8)

    @app.get("/stream")
    def stream() -> StreamingResponse:
        def lines() -> Iterator[str]:
            yield "first"
            may_end.wait(8)
            yield "late"

        return StreamingResponse(lines())

    return app


@pytest.mark.parametrize("between", [None, Own])
@pytest.mark.parametrize("responds", [True, False])
@pytest.mark.parametrize("path", ["/thread", "/pool", "/clean-up", "/stream"])
def test_at_a_stop_a_late_request_ends_before_its_code_does(
    path: str,
    between: type[Own] | None,
    monkeypatch: pytest.MonkeyPatch,
    *,
    responds: bool,
) -> None:
    """Its client and its log line can't wait for a thread: the process may be gone then."""
    monkeypatch.setattr("app.middleware.core.cancellation._END_SECONDS", 0.05)
    may_end = threading.Event()
    seen: list[tuple[int, str]] = []
    inner: ASGIApp = _slow_app(may_end)
    if responds:
        inner = Responds(inner)
    app = Watches(between(inner) if between else inner, seen)
    dialogue = Dialogue("GET", path)
    # What was sent, and how many threads were busy, when the watcher saw the end.
    found: list[tuple[bytes, float]] = []

    async def drive() -> None:
        request = asyncio.create_task(app(dialogue.scope, dialogue.receive, dialogue.send))
        threads = current_default_thread_limiter()
        while not (threads.borrowed_tokens or path == "/clean-up") or (
            path == "/stream" and not dialogue.sent
        ):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        request.cancel("the server stops")
        stop = asyncio.create_task(end_cancelled())
        while not seen:
            await asyncio.sleep(0.01)
        found.append((dialogue.body, threads.borrowed_tokens))
        assert not request.done()
        may_end.set()
        await asyncio.wait({request, stop})

    asyncio.run(drive())

    answers = responds and path != "/stream"
    body = b"first" if path == "/stream" else b"stopped" if answers else b""
    assert found == [(body, 1)]
    assert dialogue.body == body  # nothing follows what the log line says
    assert seen == [(503 if answers else 499, "of the request")]
