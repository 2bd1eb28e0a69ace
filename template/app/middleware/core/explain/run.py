"""The run: the live app of this process, with a recorder between each two layers."""

import asyncio
import copy
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.middleware.core.check import OrderCheck, policies_of
from app.middleware.core.layer import Layer
from app.middleware.order import dotted_name

from .recorder import Passage, Passages, Recorder
from .request import Request

# After the client went away the service gets this long to end by itself.
_GRACE_SECONDS: Final = 1.0


class CannotStartError(Exception):
    """The service refused to start."""


@dataclass(frozen=True)
class Record:
    """What was noted of one request: a passage for each place that it reached."""

    request: Request
    names: Sequence[str]
    passages: dict[int, Passage]
    cut_off: bool

    @property
    def client(self) -> Passage:
        return self.passages[0]


def names_of(stack: Sequence[Middleware]) -> list[str]:
    """Return the name of each layer, that of its class or function for a plain one."""
    classes: list[Any] = [item.cls for item in stack]
    return [
        cls.name
        if isinstance(cls, type) and issubclass(cls, Layer)
        else dotted_name(cls).rpartition(".")[2]
        for cls in classes
    ]


def declared_stack(app: Starlette) -> list[Middleware]:
    """Return the layers of `app`, outermost first, without the check of their order."""
    declared: Sequence[Any] = app.user_middleware
    return [item for item in declared if item.cls is not OrderCheck]


def recorded(app: Starlette, stack: Sequence[Middleware], passages: Passages) -> ASGIApp:
    """
    Return `app` with `stack` in place of its own, and recorders around each of its layers.

    The app itself isn't touched. Place 0 is what the client sees, place 1 is directly outside of
    the outermost layer, and the last place is directly outside of the routes.
    """
    twin = copy.copy(app)
    twin.middleware_stack = None
    twin.user_middleware = []
    for place, layer in enumerate(stack, start=1):
        twin.user_middleware += [Middleware(Recorder, place=place, passages=passages), layer]
    place = len(stack) + 1
    twin.user_middleware.append(Middleware(Recorder, place=place, passages=passages))
    router: Any = Recorder(app.router, place=place + 1, passages=passages)
    twin.router = router
    built = twin.build_middleware_stack()
    twin.router = app.router
    if policies := policies_of(app):
        policies.install(built)

    async def as_live(scope: Scope, receive: Receive, send: Send) -> None:
        # The layers and the routes see the app that their code refers to.
        scope["app"] = app
        await built(scope, receive, send)

    twin.middleware_stack = as_live
    return Recorder(twin, place=0, passages=passages)


async def run(
    app: Starlette,
    stack: Sequence[Middleware],
    request: Request,
    *,
    repeat: int = 1,
    max_time: float = 60,
) -> Record:
    """
    Start the service with `stack`, send `request` to it, and stop it.

    With `repeat` the request is sent so many times, one after the other; the last is recorded.

    Raises:
        CannotStartError: with the reason.

    """
    passages: dict[int, Passage] = {}
    service = recorded(app, stack, passages)
    record = Record(request, names_of(stack), passages, cut_off=False)
    until_then = None
    async with _lifespan(service) as state:
        for _ in range(repeat):
            passages.clear()
            until_then = await _send(service, request, state, max_time, passages)
    if until_then is None:
        return record
    return replace(record, passages=until_then, cut_off=True)


async def _send(
    service: ASGIApp,
    request: Request,
    state: dict[str, Any],
    max_time: float,
    passages: Passages,
) -> dict[int, Passage] | None:
    """Let `service` respond; return what passed by then where the client has to go away."""
    messages = [request.first_message()]
    over = asyncio.Event()
    ended = {"type": "websocket.disconnect", "code": 1000} if request.websocket else None

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await over.wait()
        return ended or {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        ends = message["type"] in {"websocket.accept", "websocket.close"}
        if ends or ("body" in message and not message.get("more_body", False)):
            over.set()

    async def respond() -> None:
        # What leaves the app was noted already; a server would log it.
        try:
            await service(request.scope(state), receive, send)
        except Exception:  # noqa: BLE001 - the recorder keeps it
            return

    task = asyncio.create_task(respond())
    done, _ = await asyncio.wait({task}, timeout=max_time)
    if done:
        return None
    until_then = {place: copy.copy(passage) for place, passage in passages.items()}
    for passage in until_then.values():
        passage.body = passage.body.copy()
    over.set()
    if not (await asyncio.wait({task}, timeout=_GRACE_SECONDS))[0]:
        task.cancel()
        await asyncio.wait({task})
    return until_then


@asynccontextmanager
async def _lifespan(service: ASGIApp) -> AsyncGenerator[dict[str, Any]]:
    """Start `service` and stop it, as a server does."""
    state: dict[str, Any] = {}
    incoming: asyncio.Queue[Message] = asyncio.Queue()
    outgoing: asyncio.Queue[Message] = asyncio.Queue()
    scope: Scope = {
        "type": "lifespan",
        "asgi": {"version": "3.0", "spec_version": "2.0"},
        "state": state,
    }

    async def live() -> None:
        try:
            await service(scope, incoming.get, outgoing.put)
        finally:
            await outgoing.put({"type": "lifespan.ended"})

    task = asyncio.create_task(live())
    await incoming.put({"type": "lifespan.startup"})
    message = await outgoing.get()
    if message["type"] != "lifespan.startup.complete":
        (error,) = await asyncio.gather(task, return_exceptions=True)
        raise CannotStartError(str(error or message.get("message", "it ended at once")))
    try:
        yield state
    finally:
        await incoming.put({"type": "lifespan.shutdown"})
        await asyncio.gather(task, return_exceptions=True)
