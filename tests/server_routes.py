"""Routes for tests/test_server.py, which adds this module to a rendered service."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

router = APIRouter(prefix="/wire")
next_step = asyncio.Event()


@router.get("/steps")
async def steps() -> StreamingResponse:
    """Send an event for each call of `/wire/step`, and one at once."""

    async def events() -> AsyncIterator[str]:
        for number in range(3):
            yield f"data: {number}\n\n"
            await next_step.wait()
            next_step.clear()

    return StreamingResponse(events(), media_type="text/event-stream")


@router.post("/step")
async def step() -> None:
    """Let `/wire/steps` go on."""
    next_step.set()


async def boom(_: Request) -> Response:
    """Raise in a mounted app."""
    msg = "the secret of the mounted app"
    raise RuntimeError(msg)


async def ok(_: Request) -> Response:
    """Answer from a mounted app."""
    return PlainTextResponse("mounted")


def add_routes(app: FastAPI) -> None:
    """Add them all."""
    app.include_router(router)
    app.mount("/mounted", Starlette(routes=[Route("/boom", boom), Route("/ok", ok)]))
