"""
Prints how many calls a request costs, as JSON; runs in a rendered service.

Calls of Python and of C functions are counted while the app is driven in process: the numbers
are exact, and the same on a busy machine. "bare" is FastAPI without any layer.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from app.middleware import StackSettings, stack_options
from app.middleware.order import layer_of
from fastapi import FastAPI
from starlette.types import Message, Scope

from tests.middleware.conftest import stack_settings

WARM_UP = 20
REQUESTS = 50
HEADERS = {
    "host": "localhost",
    "user-agent": "count/1",
    "accept": "*/*",
    "accept-encoding": "gzip, br",
    "origin": "https://app.example",
}
# So that no limit is reached, and CORS has something to do.
SETTINGS = {
    "cors_allow_origins": ["https://app.example"],
    "rate_limit": "1000000/second",
    "user_rate_limit": "1000000/second",
}
QUIET: dict[str, Any] = {"tracing": False, "metrics": False, "logs": False}


def apps() -> Iterator[tuple[str, FastAPI]]:
    """Yield the app without any layer, with each one alone, and with everything."""
    chosen = {key: value for key, value in SETTINGS.items() if key in StackSettings.model_fields}
    options: dict[str, Any] = dict(stack_options(stack_settings(**chosen)))
    layers = {layer_of(item.cls): item for item in options["middleware"]}
    yield "bare", FastAPI(telemetry=QUIET)  # type: ignore[arg-type]
    for name, layer in layers.items():
        telemetry = options["telemetry"] if name == "tracing" else QUIET
        yield name or "check", FastAPI(**{**options, "middleware": [layer], "telemetry": telemetry})
    yield "everything", FastAPI(**options)


async def count(app: FastAPI) -> float:
    """Return the calls of one request, the mean of many."""

    @app.get("/items/{item_id}")
    async def read(item_id: int) -> dict[str, int]:
        return {"item_id": item_id}

    calls = 0

    def profile(_: Any, event: str, __: Any) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    for _ in range(WARM_UP):
        await request(app)
    sys.setprofile(profile)
    for _ in range(REQUESTS):
        await request(app)
    sys.setprofile(None)
    return calls / REQUESTS


async def request(app: FastAPI) -> None:
    """Drive one request through the app."""
    status = 0

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/items/1",
        "raw_path": b"/items/1",
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in HEADERS.items()],
        "client": ("127.0.0.1", 50000),
        "server": ("localhost", 80),
        "state": {},
    }
    await app(scope, receive, send)
    if status != 200:
        msg = f"answered {status}"
        raise RuntimeError(msg)


if __name__ == "__main__":
    told = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where the log lines go
    counted = {name: asyncio.run(count(app)) for name, app in apps()}
    json.dump(counted, told)
