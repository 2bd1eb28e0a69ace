"""For tests: a server that looks at each message of a request, and layers for special cases."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx2 import ASGITransport, AsyncClient, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Dialogue:
    """
    One request with a body of `chunks`, after which the client says no more.

    `endless` repeats the last chunk for ever, each after `pause` seconds. `watch` is called
    with each message that the app sends.
    """

    def __init__(
        self,
        method: str,
        path: str,
        *chunks: bytes,
        headers: dict[str, str] | None = None,
        endless: bool = False,
        pause: float = 0,
        watch: Callable[[Message], object] | None = None,
    ) -> None:
        path, _, query = path.partition("?")
        pairs = {"host": "localhost", **(headers or {})}
        if chunks and "Content-Length" not in pairs:
            # HTTP/1.1 announces a body one way or the other.
            pairs["Transfer-Encoding"] = "chunked"
        self.scope: Scope = {
            "type": "http",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in pairs.items()],
            "client": ("127.0.0.1", 50000),
            "server": ("localhost", 80),
            "http_version": "1.1",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
        }
        self.chunks = list(chunks or [b""])
        self.endless = endless
        self.pause = pause
        self.watch = watch
        self.received = 0
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        self.received += 1
        if not self.chunks:
            await asyncio.Event().wait()
        await asyncio.sleep(self.pause)
        chunk = self.chunks[0] if self.endless else self.chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(self.chunks)}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if self.watch is not None:
            self.watch(message)

    def run(self, app: ASGIApp) -> "Dialogue":
        """Drive `app` until it is done, at most for a few seconds."""

        async def drive() -> None:
            async with asyncio.timeout(5):
                await app(self.scope, self.receive, self.send)

        asyncio.run(drive())
        return self

    def cancel(self, app: ASGIApp) -> "Dialogue":
        """Drive `app` until it is under way, then give it up as a server does that stops."""

        async def drive() -> None:
            task = asyncio.ensure_future(app(self.scope, self.receive, self.send))
            await asyncio.sleep(0.1)
            task.cancel("the server stops")
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(drive())
        return self

    @property
    def status(self) -> int:
        (start,) = (item for item in self.sent if item["type"] == "http.response.start")
        return int(start["status"])

    @property
    def headers(self) -> dict[str, str]:
        (start,) = (item for item in self.sent if item["type"] == "http.response.start")
        return {name.decode(): value.decode() for name, value in start["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(item["body"] for item in self.sent if item["type"].endswith("body"))


class CutOff(Dialogue):
    """A client that goes away in the middle of its body."""

    async def receive(self) -> Message:
        if self.chunks:
            return {**await super().receive(), "more_body": True}
        return {"type": "http.disconnect"}


class Unavailable:
    """A layer that raises an HTTPException for `/probe/ok`, as FastAPI's own code does."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/probe/ok":
            raise HTTPException(503, "closed", {"Retry-After": "7"})
        await self.app(scope, receive, send)


class WithoutDenial:
    """A layer that takes the extension away by which a server can answer a handshake."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            scope["extensions"] = dict[str, object]()
        await self.app(scope, receive, send)


def ask_at_once(
    client: TestClient, *requests: dict[str, Any], host: str = "192.0.2.1"
) -> list[Response]:
    """Send all `requests` at the same time, in the loop where the service of `client` runs."""

    async def ask() -> list[Response]:
        transport = ASGITransport(app=client.app, client=(host, 50000), raise_app_exceptions=False)
        async with AsyncClient(transport=transport, base_url=client.base_url) as peer:
            return await asyncio.gather(*(peer.request(**request) for request in requests))

    assert client.portal is not None
    return client.portal.call(ask)
