"""The requests that are measured, and the routes that answer them."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

import jwt
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Scope

HOST: Final = "localhost"
ORIGIN: Final = "https://app.example"
KEY: Final = "a shared secret of more than 32 characters"
ISSUER: Final = "https://id.example"
AUDIENCE: Final = "orders"

CHUNKS: Final = 1000
TICKS: Final = 20
_CHUNK: Final = b"x" * 100
_LARGE: Final = b"[" + b",".join(b"%d" % number for number in range(13_000)) + b"]"

Headers = dict[str, str]

_USUAL: Final = {
    "host": HOST,
    "user-agent": "benchmark/1",
    "accept": "*/*",
    "accept-encoding": "gzip, br",
}
_IDENTITY: Final = {**_USUAL, "accept-encoding": "identity"}
_FIRST_ADDRESS: Final = IPv4Address("192.0.2.1")
_numbers = itertools.count()


class Item(BaseModel):
    name: str
    quantity: int


def _other(item_id: str) -> str:
    return item_id


def add_routes(app: FastAPI | APIRouter, *, others: int) -> None:
    """Add the routes, inside of so many `others` that no request is for."""
    for number in range(others):
        app.get(f"/others/{number}/{{item_id}}")(_other)

    @app.get("/items/{item_id}")
    async def read_item(item_id: int) -> dict[str, int]:
        return {"item_id": item_id}

    @app.post("/items")
    async def create_item(item: Item) -> Item:
        return item

    @app.get("/large")
    async def read_large() -> Response:
        return Response(_LARGE, media_type="application/json")

    @app.get("/stream")
    async def read_stream() -> StreamingResponse:
        return StreamingResponse(chunks(), media_type="application/octet-stream")

    @app.get("/ticks")
    async def read_ticks() -> StreamingResponse:
        return StreamingResponse(ticks(), media_type="application/octet-stream")

    @app.post("/upload")
    async def upload(request: Request) -> dict[str, int]:
        return {"bytes": sum([len(chunk) async for chunk in request.stream()])}


async def chunks() -> AsyncIterator[bytes]:
    for _ in range(CHUNKS):
        yield _CHUNK


async def ticks() -> AsyncIterator[bytes]:
    for _ in range(TICKS):
        await asyncio.sleep(0)  # so that many streams run side by side
        yield _CHUNK


def token(key: str = KEY) -> str:
    """Return a token that was never seen, since each has an id of its own."""
    claims = {"sub": "ann", "iss": ISSUER, "aud": AUDIENCE, "jti": str(next(_numbers))}
    return jwt.encode({**claims, "exp": int(time.time()) + 86400}, key, algorithm="HS256")


def bearer(text: str) -> Headers:
    return {"origin": ORIGIN, "authorization": f"Bearer {text}"}


@dataclass(frozen=True)
class Workload:
    """One kind of request."""

    label: str
    method: str
    path: str
    headers: Headers
    status: int = 200
    """What a stack with the concerns answers; a bare app may answer otherwise."""
    body: bytes = b""
    limit: str = "100000000/hour"
    """How many requests an address may send."""
    fresh_token: bool = False
    count: int = 200
    """How many make a measurement."""

    def scope(self, client: int) -> Scope:
        """Return a new scope as uvicorn makes it, from an address of this number."""
        fresh = bearer(token()) if self.fresh_token else {}
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [
                (name.encode(), value.encode()) for name, value in {**self.headers, **fresh}.items()
            ],
            "client": (str(_FIRST_ADDRESS + client), 50000),
            "server": ("127.0.0.1", 8000),
            "state": {},
        }


_BODY: Final = b'{"name": "onion", "quantity": 3}'

WORKLOADS: Final = {
    "get": Workload("small GET", "GET", "/items/1", _USUAL),
    "user": Workload("GET with Origin and token", "GET", "/items/1", {**_USUAL, **bearer(token())}),
    "first": Workload("GET with a token never seen", "GET", "/items/1", _USUAL, fresh_token=True),
    "post": Workload(
        "POST with a typed body",
        "POST",
        "/items",
        {
            **_USUAL,
            **bearer(token()),
            "content-type": "application/json",
            "content-length": str(len(_BODY)),
        },
        body=_BODY,
    ),
    "401": Workload(
        "401: a forged token",
        "GET",
        "/items/1",
        {**_USUAL, **bearer(token("another secret of more than 32 characters"))},
        status=401,
    ),
    "429": Workload(
        "429: too many", "GET", "/items/1", {**_USUAL, **bearer(token())}, 429, limit="1/hour"
    ),
    "404": Workload("404", "GET", "/nowhere", {**_USUAL, **bearer(token())}, status=404),
    "large": Workload("64 KB, not compressed", "GET", "/large", _IDENTITY, count=50),
    "compressed": Workload("64 KB, compressed", "GET", "/large", _USUAL, count=20),
    "upload": Workload(
        "an upload", "POST", "/upload", {**_IDENTITY, "transfer-encoding": "chunked"}
    ),
    "ticks": Workload("streams side by side", "GET", "/ticks", _IDENTITY),
    "stream": Workload(f"stream of {CHUNKS:,} chunks", "GET", "/stream", _IDENTITY, count=4),
}
