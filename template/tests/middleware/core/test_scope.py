"""Every layer runs with a scope that has only what ASGI demands."""

import asyncio
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.middleware.order import LAYERS, layer_of
from app.middleware.stack import build_stack
from tests.middleware.conftest import stack_settings

MINIMAL: dict[str, Scope] = {
    "http": {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/",
        "headers": [(b"host", b"localhost"), (b"content-length", b"4")],
    },
    "websocket": {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "path": "/",
        "headers": [(b"host", b"localhost")],
    },
}


async def _accepting(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
    else:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})


@pytest.mark.parametrize("kind", MINIMAL)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_needs_no_more_than_asgi_demands(name: str, kind: str) -> None:
    sent: list[Message] = []
    first: Message = {"type": "http.request", "body": b"leek"}
    if kind == "websocket":
        first = {"type": "websocket.connect"}

    async def receive() -> Message:
        return first

    async def send(message: Message) -> None:
        sent.append(message)

    async def drive() -> None:
        # The session is what another layer brings, outside of the one that reads it.
        scope: Scope = {**MINIMAL[kind], "headers": [*MINIMAL[kind]["headers"]], "session": {}}
        await app(scope, receive, send)

    layers = {layer_of(item.cls): item for item in build_stack(stack_settings())}
    if name not in layers:
        pytest.skip("it stands around the stack")
    layer = layers[name]
    make: Any = layer.cls
    app: ASGIApp = make(_accepting, *layer.args, **layer.kwargs)
    asyncio.run(drive())

    # A layer whose job it is may refuse what lacks a header, but in its own words.
    assert sent
    assert sent[0].get("status", 200) < 500
