"""Timeout: a caller learns in time that the service gave up."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from typing import Annotated, Any

import pytest
from anyio.to_thread import current_default_thread_limiter
from fastapi import BackgroundTasks, Depends
from pydantic import ValidationError
from starlette.middleware import Middleware
from starlette.types import Message

from app.middleware import Policy, outermost
from app.middleware.core.exchange import Exchange, Place
from app.middleware.core.layer import Layer
from app.middleware.core.places import Own
from app.middleware.order import LAYERS

from .asgi import Dialogue
from .conftest import WS, ProbeApp, ProbeClient, stack_settings
from .refusals import Refusal

REFUSAL = Refusal(
    status=504, settings={"request_timeout": 0.05}, path="/probe/slow?seconds=5", websocket=False
)


class InTask(Layer):
    """Runs all that is inside in a task of its own."""

    async def around(self, exchange: Exchange, place: Place) -> None:  # noqa: ARG002
        await asyncio.ensure_future(place.proceed())


# The request runs in the server's task, or in that of a layer of one's own.
in_either_task = pytest.mark.parametrize("own", [(), (outermost(Middleware(InTask)),)])


@in_either_task
def test_a_late_endpoint_is_answered_504(own: Sequence[Own], probe_client: ProbeClient) -> None:
    response = probe_client(own=own, request_timeout=0.05).get("/probe/slow?seconds=5")

    assert response.status_code == 504
    assert response.headers["connection"] == "close"
    assert response.json()["detail"] == "No response started within 0.05 seconds."


def test_an_endpoint_in_time_is_not_disturbed(probe_client: ProbeClient) -> None:
    response = probe_client(request_timeout=5).get("/probe/slow?seconds=0.02")

    assert response.status_code == 200
    assert "connection" not in response.headers


def test_a_late_endpoint_is_cancelled(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    app = probe_app(request_timeout=0.5)
    ends: list[str] = []

    @app.get("/waits")
    async def waits() -> None:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    assert probe_client(app=app).get("/waits").status_code == 504
    assert ends == ["cancelled"]


def test_a_thread_does_not_delay_the_response(probe_app: ProbeApp) -> None:
    """It can't be stopped, so what it does may come after the 504."""
    app = probe_app(request_timeout=0.5)
    steps: list[str] = []
    answered = threading.Event()

    def watch(message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            steps.append("answered")
            answered.set()

    @app.get("/thread")
    def thread() -> None:
        answered.wait(4)
        steps.append("done")

    dialogue = Dialogue("GET", "/thread", watch=watch).run(app)

    assert dialogue.status == 504
    assert steps == ["answered", "done"]


@in_either_task
def test_what_a_thread_uses_is_freed_when_it_has_ended(
    own: Sequence[Own], probe_app: ProbeApp
) -> None:
    """Its place in the pool, and the dependencies that it was given."""
    app = probe_app(own=own, request_timeout=1)
    steps: list[str] = []
    counted = threading.Event()

    def session() -> Iterator[None]:
        yield
        steps.append("closed")

    async def connection() -> AsyncIterator[None]:
        yield
        await asyncio.sleep(0.01)
        steps.append("returned")

    @app.get("/thread")
    def thread(
        _: Annotated[None, Depends(session)], __: Annotated[None, Depends(connection)]
    ) -> None:
        counted.wait(4)
        steps.append("used")

    async def drive() -> float:
        answered = asyncio.Event()
        dialogue = Dialogue("GET", "/thread", watch=lambda _: answered.set())
        asking = asyncio.create_task(app(dialogue.scope, dialogue.receive, dialogue.send))
        await answered.wait()
        assert dialogue.status == 504
        taken = current_default_thread_limiter().borrowed_tokens
        counted.set()
        await asking
        return taken

    assert asyncio.run(drive()) == 1
    assert steps == ["used", "returned", "closed"]


def test_clean_up_that_waits_is_cancelled_once(probe_app: ProbeApp) -> None:
    app = probe_app(request_timeout=0.5)
    steps: list[str] = []

    async def connection() -> AsyncIterator[None]:
        try:
            yield
        finally:
            for _ in range(3):
                await asyncio.sleep(0.01)
            steps.append("returned")

    @app.get("/waits")
    async def waits(_: Annotated[None, Depends(connection)]) -> None:
        await asyncio.sleep(5)

    assert Dialogue("GET", "/waits").run(app).status == 504
    assert steps == ["returned"]


def test_who_ignores_cancellation_does_not_delay_the_answer(probe_app: ProbeApp) -> None:
    app = probe_app(request_timeout=0.05)
    answered = asyncio.Event()

    @app.get("/stubborn")
    async def stubborn() -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(5)
        await answered.wait()
        return "after all"

    def watch(message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            answered.set()

    dialogue = Dialogue("GET", "/stubborn", watch=watch).run(app)

    assert dialogue.status == 504
    assert b"after all" not in dialogue.body


def test_a_stream_that_started_is_not_cut(probe_client: ProbeClient) -> None:
    response = probe_client(request_timeout=0.3).get("/probe/stream?chunks=3&seconds=0.15")

    assert response.status_code == 200
    assert response.text.count("line") == 3


def test_an_answer_whose_first_bytes_are_late_is_not_cut(probe_client: ProbeClient) -> None:
    response = probe_client(request_timeout=0.25).post("/probe/late-body?seconds=0.4")

    assert response.status_code == 200
    assert len(response.content) == 2000


def test_background_tasks_live_on(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    app = probe_app(request_timeout=0.25)
    done: list[str] = []

    @app.get("/later")
    async def later(tasks: BackgroundTasks) -> None:
        async def work() -> None:
            await asyncio.sleep(0.35)
            done.append("work")

        tasks.add_task(work)

    assert probe_client(app=app).get("/later").status_code == 200
    assert done == ["work"]


def test_an_upload_that_trickles_in_ends(
    probe_app: ProbeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.middleware.core.upload._LINGER_SECONDS", 0.05)
    upload = Dialogue("POST", "/probe/upload", b"x", endless=True, pause=0.01)

    upload.run(probe_app(request_timeout=0.1))

    assert upload.status == 504
    assert upload.headers["connection"] == "close"


def test_a_cancellation_by_the_server_is_none_of_its_business(probe_app: ProbeApp) -> None:
    dialogue = Dialogue("GET", "/probe/slow?seconds=5").cancel(probe_app(request_timeout=5))

    statuses = [item["status"] for item in dialogue.sent if item["type"] == "http.response.start"]
    assert statuses == ([503] if "error_handler" in LAYERS else [])


def test_a_websocket_may_stay_open(probe_client: ProbeClient) -> None:
    with probe_client(request_timeout=0.02).websocket_connect(WS) as websocket:
        threading.Event().wait(0.05)
        websocket.send_text("hi")

        assert websocket.receive_text() == "hi"


@pytest.mark.parametrize("value", [0, -1, "nan", "inf", "soon"])
def test_nonsense_is_refused_at_start(value: Any) -> None:
    with pytest.raises(ValidationError):
        stack_settings(request_timeout=value)


def test_a_route_has_a_time_of_its_own(probe_client: ProbeClient) -> None:
    routes = {"GET /probe/slow": Policy(request_timeout=5)}
    client = probe_client(request_timeout=0.05, routes=routes)

    assert client.get("/probe/slow?seconds=0.1").status_code == 200
    assert client.post("/probe/slow?seconds=0.2").status_code == 504
