"""The routes that the tests of the layers drive, on an included router with a prefix."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, BackgroundTasks, Request, WebSocket
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

router = APIRouter(prefix="/probe")


class Item(BaseModel):
    name: str


@router.get("/ok")
async def ok() -> dict[str, str]:
    return {"ok": "yes"}


@router.get("/items/{item_id}")
async def item(item_id: int) -> dict[str, int]:
    return {"item_id": item_id}


@router.post("/items")
async def create(item: Item) -> Item:
    return item


@router.post("/upload")
async def upload(request: Request) -> dict[str, int]:
    return {"bytes": sum([len(chunk) async for chunk in request.stream()])}


@router.get("/varied")
async def varied(response: Response) -> None:
    response.headers["Vary"] = "Accept-Language"


@router.get("/sync")
def sync(request: Request) -> dict[str, Any]:
    return {"request_id": getattr(request.state, "request_id", None)}


@router.get("/state")
async def state(request: Request) -> dict[str, Any]:
    return {
        "request_id": getattr(request.state, "request_id", None),
        "client": request.client.host if request.client else None,
        "scheme": request.url.scheme,
    }


@router.get("/slow")
@router.post("/slow")
async def slow(seconds: float = 0.5) -> dict[str, str]:
    await asyncio.sleep(seconds)
    return {"ok": "late"}


@router.get("/slow-sync")
def slow_sync(seconds: float = 0.5) -> dict[str, str]:
    time.sleep(seconds)
    return {"ok": "late"}


@router.get("/boom")
async def boom() -> None:
    msg = "the secret of the exception"
    raise RuntimeError(msg)


@router.get("/raise/{status}")
async def raise_http(status: int) -> None:
    raise HTTPException(status, "as asked")


@router.get("/large")
async def large(size: int = 20_000) -> Response:
    return JSONResponse({"text": "onion " * (size // 6)})


@router.get("/stream")
async def stream(
    chunks: int = 3, seconds: float = 0, media_type: str = "application/x-ndjson"
) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        for number in range(chunks):
            yield f'{{"line": {number}}}\n'
            await asyncio.sleep(seconds)

    return StreamingResponse(lines(), media_type=media_type)


@router.get("/events")
async def events(chunks: int = 3, seconds: float = 0) -> StreamingResponse:
    async def messages() -> AsyncIterator[str]:
        for number in range(chunks):
            yield f"data: {number}\n\n"
            await asyncio.sleep(seconds)

    return StreamingResponse(messages(), media_type="text/event-stream")


@router.post("/late-body")
async def late_body(seconds: float = 0.1, *, breaks: bool = False) -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        await asyncio.sleep(seconds)
        if breaks:
            msg = "the body broke"
            raise RuntimeError(msg)
        yield b"x" * 2000

    headers = {"Content-Length": "2000"}
    return StreamingResponse(body(), media_type="text/plain", headers=headers)


@router.get("/broken-stream")
async def broken_stream() -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        yield "first\n"
        msg = "the stream broke"
        raise RuntimeError(msg)

    return StreamingResponse(lines(), media_type="text/plain")


@router.get("/background")
async def background(
    tasks: BackgroundTasks, request: Request, seconds: float = 0.02
) -> dict[str, str]:
    async def note() -> None:
        await asyncio.sleep(seconds)
        request.app.state.background = "done"

    tasks.add_task(note)
    return {"ok": "yes"}


@router.get("/headers")
async def headers(name: str, value: str) -> Response:
    return PlainTextResponse("ok", headers={name: value})


@router.websocket("/ws")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(await websocket.receive_text())
    # It is over when this returns: the server closes it.


@router.websocket("/ws-boom")
async def ws_boom(websocket: WebSocket) -> None:
    await websocket.accept()
    msg = "the secret of the websocket"
    raise RuntimeError(msg)


@router.websocket("/ws-late-refusal")
async def ws_late_refusal(websocket: WebSocket) -> None:
    await websocket.accept()
    raise HTTPException(404, "as it turns out")


@router.websocket("/ws-boom-early")
async def ws_boom_early(_: WebSocket) -> None:
    msg = "the secret of the handshake"
    raise RuntimeError(msg)
