"""
Requests to a service of every layer, as `python -m app.middleware explain` shows them.

`prepare` adds routes to a rendered service, `explain` runs one request there. As a script it
writes each run into a folder: `python -m tests.explained SERVICE FOLDER [NAME...]`.
"""

import json
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import jwt
import yaml

from .support import LAYERS, Done, python

KEY: Final = "Zq3v8KpT1sXw6YbN4mRj7HcD0fLg9aEu"
PAGE: Final = "https://app.example"
EVIL: Final = "https://evil.example"

SETTINGS: Final = {
    "AUTHENTICATION_REQUIRED": "false",
    "COLUMNS": "80",
    "CORS_ALLOW_ORIGINS": PAGE,
    "CROSS_ORIGIN_TRUSTED": PAGE,
    "JWT_ALGORITHMS": "HS256",
    "JWT_KEY": KEY,
    "SESSION_SECRET": KEY,
    "API_KEYS": f"alice:{'a' * 64}",
}

# Added to the routes of a rendered service, which are the user's.
ADDED_ROUTES: Final = '''

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


router.mount("/mounted", FastAPI())


@router.websocket("/chat")
async def chat(websocket: WebSocket) -> None:
    """Accept, and listen."""
    await websocket.accept()
    await websocket.receive()
'''
_IMPORTS: Final = """import asyncio
from collections.abc import AsyncIterator

from fastapi import APIRouter, FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
"""


@dataclass(frozen=True)
class Run:
    """One request: what is typed after `explain`, further settings, and what comes of it."""

    options: Sequence[str]
    status: int | None = None
    responder: str | None = None
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


def _swapped() -> Iterator[tuple[str, str, Any]]:
    """Yield the rules that a run shows, as the pages of the layers have them."""
    for name, entry in LAYERS.items():
        for rule in entry.get("inside", ()):
            if "explain" in rule:
                yield rule["layer"], name, rule["explain"]
        if run := entry.get("outside_of_refusals", {}).get("explain"):
            yield name, run["inside"], run


def settings_of(text: str) -> dict[str, str]:
    """Return what is set before a command."""
    return dict(item.split("=", 1) for item in shlex.split(text))


SWAPS: Final[dict[str, Run]] = {
    **{
        f"{outside}-{inside}": Run(
            [*shlex.split(run["options"]), "--swap", outside, inside],
            settings=settings_of(run.get("settings", "")),
        )
        for outside, inside, run in _swapped()
    },
    "without cors": Run(["/boom", *_FROM_PAGE, "--without", "cors"]),
}

# What docs/middleware.md shows: what is refused by the first of these layers that a service has.
PAGE_RUNS: Final[dict[str | None, Run]] = {
    None: Run(["/orders/1", *_FROM_PAGE], 200, "routes"),
    "rate_limit": Run(
        ["/orders/1", *_FROM_PAGE, "--repeat", "2"], 429, "rate_limit", {"RATE_LIMIT": "1/minute"}
    ),
    "body_limit": Run(["/orders", *_FROM_PAGE, *_TEA], 413, "body_limit", {"MAX_BODY_BYTES": "10"}),
    "trusted_host": Run(["https://evil.example/", *_FROM_PAGE], 400, "trusted_host"),
    "error_handler": Run(["/boom", *_FROM_PAGE], 500, "error_handler"),
}
# What differs by the layers that a service has, and what scanners take for a secret.
ELIDED: Final = re.compile(
    r"(\+ (?:content-length|etag|access-control-expose-headers): ).*|, \d+ bytes$"
)

_HEADER: Final = (
    "# The runs of `explain` on docs/middleware.md, as a service of every layer prints them:"
    " RUNS=write uv run pytest tests/test_explain.py writes it.\n"
)
# How wide a value is that the terminal cut, whose width a time decides.
_WIDTH: Final = 40


def page_run(layer: str | None, service: Path) -> dict[str, Any]:
    """Return a run of a service of every layer, as hooks/runs.yml has it."""
    run = PAGE_RUNS[layer]
    text = explain(service, run).stdout
    facts = json.loads(explain(service, run, "--json").stdout)
    without = explain(service, run, "--without", "cors", "--changed-only", "--json").stdout
    _, result, way_in, way_out, _ = parts(text)
    return {
        "layer": layer,
        "settings": [f"{name}={value}" for name, value in run.settings.items()],
        "options": shlex.join(run.options),
        "result": result[0],
        "findings": [
            {"label": label, "lines": lines}
            for label, lines in labelled(result[1:])
            if label not in {"Not reached", "Browser"}
        ],
        "never_reached": bool(facts["never_reached"]),
        "passes": f"{facts['fault']['error']} passes" if facts["fault"] else "",
        "browser": facts["browser"],
        "browser_without_cors": json.loads(without)["browser"],
        "way_in": loud(way_in),
        "way_out": loud(way_out),
    }


def page_runs(service: Path) -> str:
    """Return hooks/runs.yml: all runs of the page, in a service of every layer."""
    runs = [page_run(layer, service) for layer in PAGE_RUNS]
    return _HEADER + yaml.safe_dump(runs, allow_unicode=True, sort_keys=False, width=1000)


def parts(text: str) -> list[list[str]]:
    """Return the lines of each part of an explanation, without heading and times."""
    found = re.split(r"\n\n(?:Result|Way in.*|Way out.*|Response, .*)\n", text)
    return [[re.sub(r" +\d+\.\d\d ms$", "", line) for line in part.splitlines()] for part in found]


def labelled(lines: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return the text of each label of a table."""
    rows: list[tuple[str, list[str]]] = []
    for line in lines:
        label, _, text = line.strip().partition("  ") if line[2] != " " else ("", "", line)
        text = text.strip()
        text = f"{text[:_WIDTH]}…" if text.endswith("…") else text
        text = ELIDED.sub(lambda match: f"{match[1]}…" if match[1] else "", text)
        if label:
            rows.append((label, []))
        rows[-1][1].append(text)
    return rows


def loud(lines: Sequence[str]) -> dict[str, list[str]]:
    """Return what the layers did that did something."""
    quiet = re.compile(r"unchanged|\w+ passes")
    return {
        label: found
        for label, found in labelled(lines)
        if not label.endswith(" layers") and not quiet.fullmatch(found[0])
    }


def prepare(service: Path) -> None:
    """Add a stream, a slow route and a websocket to a rendered service."""
    routes = service / "app/routes.py"
    text = routes.read_text("utf-8")
    text = text.replace("from fastapi import APIRouter, Request\n", _IMPORTS)
    routes.write_text(text + ADDED_ROUTES, "utf-8")


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
