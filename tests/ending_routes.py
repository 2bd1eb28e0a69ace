"""Routes for tests/test_endings.py: what uses a thread, a connection of a pool, an upload."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, UploadFile, WebSocket
from fastapi.responses import StreamingResponse
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

router = APIRouter()
file = Path("pool.db").resolve()
# Each of these appends a line, so that it can be read when the process is gone.
notes = Path("notes.txt").resolve()
engine = create_engine(
    f"sqlite:///{file}",
    poolclass=QueuePool,
    connect_args={"check_same_thread": False},
    pool_size=3,
    max_overflow=0,
)
async_engine = create_async_engine(f"sqlite+aiosqlite:///{file}", pool_size=3, max_overflow=0)


def note(what: str) -> None:
    """Write down what happened."""
    with notes.open("a", encoding="utf-8") as lines:
        lines.write(f"{what}\n")


def session() -> Iterator[Session]:
    """Lend a connection to a thread."""
    with Session(engine) as session:
        try:
            yield session
        finally:
            note("sync closed")


async def async_session() -> AsyncIterator[AsyncSession]:
    """Lend a connection to a task; giving it back takes a while."""
    async with AsyncSession(async_engine) as session:
        try:
            yield session
        finally:
            await asyncio.sleep(0.05)
            note("async closed")


Sync = Annotated[Session, Depends(session)]
Async = Annotated[AsyncSession, Depends(async_session)]


@router.get("/sync")
def sync(database: Sync, seconds: float = 2) -> None:
    """Use a connection in a thread, at the end too."""
    time.sleep(seconds)
    database.execute(text("select 1"))
    note("sync used")


@router.get("/async")
async def asynchronous(database: Async, seconds: float = 2) -> None:
    """Use a connection in a task."""
    await database.execute(text("select 1"))
    await asyncio.sleep(seconds)


@router.get("/sync-stream")
def sync_stream(database: Sync) -> StreamingResponse:
    """Use a connection in a thread for each chunk."""

    def rows() -> Iterator[str]:
        for _ in range(100):
            time.sleep(0.3)
            database.execute(text("select 1"))
            note("sync used")
            yield "row\n"

    return StreamingResponse(rows())


@router.get("/async-stream")
async def async_stream(database: Async) -> StreamingResponse:
    """Use a connection in a task for each chunk."""

    async def rows() -> AsyncIterator[str]:
        for _ in range(100):
            await database.execute(text("select 1"))
            yield "row\n"
            await asyncio.sleep(0.1)

    return StreamingResponse(rows())


@router.get("/events")
async def events() -> StreamingResponse:
    """Send events for ever."""

    async def messages() -> AsyncIterator[str]:
        while True:
            yield "data: onion\n\n"
            await asyncio.sleep(0.1)

    return StreamingResponse(messages(), media_type="text/event-stream")


@router.get("/lent")
async def lent() -> dict[str, int]:
    """Say what is in use."""
    threads = to_thread.current_default_thread_limiter().borrowed_tokens
    sync, asynchronous = engine.pool, async_engine.sync_engine.pool
    assert isinstance(sync, QueuePool)
    assert isinstance(asynchronous, QueuePool)
    return {
        "sync": sync.checkedout(),
        "async": asynchronous.checkedout(),
        "threads": threads,
    }


@router.post("/file")
async def upload(file: UploadFile) -> int:
    """Read a file."""
    return len(await file.read())


@router.websocket("/late")
async def late(websocket: WebSocket) -> None:
    """Accept when the client has left."""
    await asyncio.sleep(0.3)
    await websocket.accept()
    await websocket.receive_text()
