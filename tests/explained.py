"""
Requests to a service of every layer, as `python -m app.middleware explain` shows them.

`prepare` adds routes to a rendered service, `explain` runs one request there. As a script it
writes each run into a folder: `python -m tests.explained SERVICE FOLDER [NAME...]`.
"""

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import jwt

from .support import Done, python

KEY: Final = "Zq3v8KpT1sXw6YbN4mRj7HcD0fLg9aEu"
PAGE: Final = "https://app.example"
EVIL: Final = "https://evil.example"

SETTINGS: Final = {
    "COLUMNS": "80",
    "CORS_ALLOW_ORIGINS": PAGE,
    "CROSS_ORIGIN_TRUSTED": PAGE,
    "JWT_ALGORITHMS": "HS256",
    "JWT_KEY": KEY,
    "SESSION_SECRET": KEY,
}

# Added to the routes of a rendered service, which are the user's.
_ROUTES: Final = '''

@router.get("/events")
async def events() -> StreamingResponse:
    """Stream three events."""

    async def three() -> AsyncIterator[str]:
        for number in range(3):
            yield f"data: {number}\\n\\n"
            await asyncio.sleep(0.01)

    return StreamingResponse(three(), media_type="text/event-stream")


@router.get("/slow")
async def slow() -> None:
    """Take longer than a client waits."""
    await asyncio.sleep(30)


@router.websocket("/chat")
async def chat(websocket: WebSocket) -> None:
    """Accept, and listen."""
    await websocket.accept()
    await websocket.receive()
'''
_IMPORTS: Final = """import asyncio
from collections.abc import AsyncIterator

from fastapi import APIRouter, WebSocket
from fastapi.responses import StreamingResponse
"""


@dataclass(frozen=True)
class Run:
    """One request: what is typed after `explain`, further settings, and what comes of it."""

    options: Sequence[str]
    status: int | None
    responder: str | None
    settings: Mapping[str, str] = field(default_factory=dict)


def _bearer() -> str:
    claims = {"sub": "alice", "exp": int(time.time()) + 3600}
    return f"Authorization: Bearer {jwt.encode(claims, KEY, 'HS256')}"


_TEA: Final = ("-d", '{"item": "tea", "quantity": 1}')
_BAD: Final = ("-H", "Authorization: Bearer not-a-token")
_FORWARDED: Final = ("-H", "X-Forwarded-For: 203.0.113.9")
_FROM_PAGE: Final = ("-H", f"Origin: {PAGE}")

RUNS: Final[dict[str, Run]] = {
    "200": Run(["/orders/1", *_FROM_PAGE], 200, "routes"),
    "201 of a user": Run(["POST", "/orders", *_TEA, "-H", _bearer()], 201, "routes"),
    "304": Run(
        ["/orders/1", "-H", 'If-None-Match: "88ae2f06c96d84d3c45968a1d1149e87"'], 304, "routes"
    ),
    "307": Run(
        ["http://api.example/orders/1"], 307, "https_redirect", {"ALLOWED_HOSTS": "api.example"}
    ),
    "400 host": Run(["https://evil.example/orders/1"], 400, "trusted_host"),
    "401": Run(["/orders/1", *_BAD], 401, "authentication"),
    "403 cross-origin": Run(
        ["POST", "/orders", "-H", f"Origin: {EVIL}", *_TEA], 403, "cross_origin"
    ),
    "404": Run(["/nowhere"], 404, "exceptions"),
    "410": Run(
        ["/orders/1", "-H", "User-Agent: LegacyApp/1.2"],
        410,
        "client_version",
        {"BLOCKED_CLIENTS": "LegacyApp/1."},
    ),
    "413": Run(["POST", "/orders", *_TEA], 413, "body_limit", {"MAX_BODY_BYTES": "10"}),
    "422": Run(["POST", "/orders", "-d", "{}"], 422, "routes"),
    "429": Run(
        ["/orders/1", *_FROM_PAGE, "--repeat", "2"], 429, "rate_limit", {"RATE_LIMIT": "1/minute"}
    ),
    "500": Run(["/boom"], 500, "error_handler"),
    "503": Run(["/orders/1"], 503, "maintenance", {"MAINTENANCE_FILE": "app/routes.py"}),
    "504": Run(["/slow"], 504, "timeout", {"REQUEST_TIMEOUT": "0.1"}),
    "preflight": Run(
        ["OPTIONS", "/orders", *_FROM_PAGE, "-H", "Access-Control-Request-Method: POST"],
        200,
        "cors",
    ),
    "stream": Run(["/events", "-H", "Accept-Encoding: gzip"], 200, "routes"),
    "cut off": Run(["/slow", "--max-time", "0.2"], None, None),
    "websocket accepted": Run(["/chat", "--websocket"], 101, "routes"),
    "websocket refused": Run(
        ["/chat", "--websocket", "-H", f"Origin: {EVIL}"], 403, "cross_origin"
    ),
    "behind a proxy": Run(
        ["/orders/1", *_FORWARDED, "-H", "X-Forwarded-Proto: https"],
        200,
        "routes",
    ),
}
SWAPS: Final[dict[str, Run]] = {
    "cors-rate_limit": Run(
        ["/orders/1", *_FROM_PAGE, "--repeat", "2", "--swap", "cors", "rate_limit"],
        429,
        "rate_limit",
        {"RATE_LIMIT": "1/minute"},
    ),
    "trusted_host-https_redirect": Run(
        ["http://evil.example/", "--swap", "trusted_host", "https_redirect"], 400, "trusted_host"
    ),
    "proxy_headers-rate_limit": Run(
        ["/orders/1", *_FORWARDED, "--swap", "proxy_headers", "rate_limit"],
        200,
        "routes",
    ),
    "request_id-error_handler": Run(
        ["/boom", "--swap", "request_id", "error_handler"], 500, "error_handler"
    ),
    "rate_limit-authentication": Run(
        ["/orders/1", *_BAD, "--repeat", "2", "--swap", "rate_limit", "authentication"],
        429,
        "rate_limit",
        {"RATE_LIMIT": "1/minute"},
    ),
    "without cors": Run(["/boom", *_FROM_PAGE, "--without", "cors"], 500, "error_handler"),
}


def prepare(service: Path) -> None:
    """Add a stream, a slow route and a websocket to a rendered service."""
    routes = service / "app/routes.py"
    text = routes.read_text("utf-8")
    routes.write_text(text.replace("from fastapi import APIRouter\n", _IMPORTS) + _ROUTES, "utf-8")


def explain(service: Path, run: Run, *options: str, **settings: str) -> Done:
    """Explain a request in a rendered service."""
    environment: dict[str, Any] = {**SETTINGS, **run.settings, **settings}
    return python("app.middleware", "explain", *run.options, *options, cwd=service, **environment)


def text_of(service: Path, name: str) -> str:
    """Return a run as a page shows it: what is typed, and what is printed."""
    run = {**RUNS, **SWAPS}[name]
    return f"$ uv run python -m app.middleware explain {shlex.join(run.options)}\n\n" + (
        explain(service, run).stdout
    )


if __name__ == "__main__":
    source, target, *names = sys.argv[1:]
    for name in names or [*RUNS, *SWAPS]:
        Path(target, f"{name}.txt").write_text(text_of(Path(source), name), "utf-8")
