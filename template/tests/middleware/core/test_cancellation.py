"""Cancellation: the shields of AnyIO hold against what ends a request, and nothing else changes."""

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest
from anyio import CancelScope
from anyio.to_thread import run_sync
from fastapi import FastAPI

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
