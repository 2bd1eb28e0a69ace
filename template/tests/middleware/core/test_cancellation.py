"""Cancellation: the shields of AnyIO hold against what ends a request, and nothing else changes."""

import asyncio
import json
import threading

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


def test_a_shield_holds_until_its_end_when_the_request_is_cancelled() -> None:
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

    async def drive() -> None:
        dialogue = Dialogue("GET", "/")
        task = asyncio.ensure_future(Layer(app)(dialogue.scope, dialogue.receive, dialogue.send))
        await asyncio.sleep(0.02)
        task.cancel("the server stops")
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(drive())

    assert steps == ["in a thread", "cancelled"]
