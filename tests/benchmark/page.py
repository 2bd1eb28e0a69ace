"""The page of the figures: a section a part, each written when its part has run."""

import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Final

from ..support import ROOT

PAGE: Final = ROOT / "docs" / "performance.md"

_INTRODUCTION: Final = """\
# What a stack costs

Written by `uv run --group benchmark python -m tests.benchmark`; each section says what it ran and on what.
All figures but those of time and memory are ratios to the same request through bare FastAPI in the same run: one route of an included router, telemetry as FastAPI ships it.
*Instructions* are those of the process under callgrind and repeat to about 0.2 %; *calls* of Python and C functions are exact; both leave the kernel out.
*CPU* is the median of paired slices, shuffled; *rate* is what `wrk` gets over loopback from one worker, server and client on a core each. Both are witnesses, and noisy.
A part of the rate is the server's own work on headers: the stack *with the headers of the twelve* sends them and does nothing else.
*Rate, modelled* repeats: uvicorn under callgrind, one kept-alive connection, a request costs its instructions and ten more for each miss of the first-level caches and each mispredicted branch.

The twelve concerns are a log line, a request id, timing, CORS, security headers, the host check, compression, a rate limit, metrics, JWT, a body limit and error responses.
*Popular libraries* have the same twelve from asgi-correlation-id, Starlette, slowapi, prometheus-fastapi-instrumentator, secure, PyJWT and structlog, as their pages show them; *the tutorial way* has a function under `@app.middleware("http")` for each.
"""


def write(title: str, body: str) -> None:
    """Put a section onto the page, in place of the one that has this title."""
    page = PAGE.read_text("utf-8") if PAGE.exists() else _INTRODUCTION
    sections = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", page, re.MULTILINE))
    sections[title] = f"\n{body.strip()}\n\n{_where()}\n"
    text = "\n".join(f"## {name}\n\n{section.strip()}\n" for name, section in sections.items())
    PAGE.write_text(f"{_INTRODUCTION}\n{text.rstrip()}\n", "utf-8")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column is text and whose others are figures."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


@cache  # since each section that is written makes the tree dirty
def _where() -> str:
    commit = subprocess.run(
        ("git", "describe", "--always", "--dirty"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    packages = ", ".join(f"{name} {version(name)}" for name in ("fastapi", "starlette", "uvicorn"))
    return (
        f"<sub>{datetime.now(UTC):%Y-%m-%d}, {commit.stdout.strip()}: Python"
        f" {platform.python_version()}, {packages}, {os.cpu_count()} cores.</sub>"
    )


def ratio(value: float) -> str:
    """Write a ratio with as many digits as it deserves."""
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def seconds(value: float) -> str:
    return f"{value:.2f} s"


def megabytes(value: float) -> str:
    return f"{value / 1_000_000:.0f} MB"
