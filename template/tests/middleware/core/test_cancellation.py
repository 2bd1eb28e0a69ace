"""Cancellation: the shields of AnyIO hold against what ends a request, and nothing else changes."""

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar

import pytest
from anyio import CancelScope
from anyio.to_thread import run_sync
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.middleware.core import cancellation
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
        exchange.if_cancelled = _stopped, place.depth
        await place.proceed()


async def _stopped(_: Exchange, place: Place) -> None:
    if not place.started:
        await place.respond(PlainTextResponse("stopped", 503))


class Own:
    """A class between two chains of layers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


@pytest.mark.parametrize("between", [None, Own])
@pytest.mark.parametrize("inner", [Layer, Responds])
@pytest.mark.parametrize("outer", [Layer, Responds])
def test_the_client_of_a_cancelled_request_does_not_wait_for_its_thread(
    outer: type[Layer],
    inner: type[Layer],
    between: type[Own] | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The process may have ended before the thread, and then nobody responds or logs the end."""
    monkeypatch.setattr(cancellation, "_CLEAN_UP_SECONDS", 0.05)
    began, may_end = asyncio.Event(), threading.Event()
    seen: list[tuple[int, str]] = []
    service = FastAPI()

    @service.get("/")
    async def work() -> str:
        began.set()
        await run_sync(may_end.wait, 4)
        return "late"

    layer = inner(service)
    app = Watches(outer(between(layer) if between else layer), seen)
    dialogue = Dialogue("GET", "/")

    async def drive() -> None:
        request = asyncio.create_task(app(dialogue.scope, dialogue.receive, dialogue.send))
        await began.wait()
        await asyncio.sleep(0.02)
        for _ in range(2):
            request.cancel("the server stops")
        await cancellation.until_cancelled_have_ended()
        seen.append((0, "the server has stopped"))
        may_end.set()
        await asyncio.wait([request])

    asyncio.run(drive())

    if Responds in {inner, outer}:
        assert seen == [(503, "of the request"), (0, "the server has stopped")]
        assert dialogue.body == b"stopped"
    else:
        assert seen[0] == (0, "the server has stopped")
    assert "still run" in caplog.text
