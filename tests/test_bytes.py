"""What a client sends is kept nowhere: not in memory, not in the log."""

import http.client
import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import jwt
import pytest

from .serving import SECONDS, SETTINGS, Server, serving, with_main
from .support import ROOT

TIMES: Final = 40
FLAT: Final = 20 * 1024 * 1024
LONGEST_LINE: Final = 16 * 1024
MEGABYTE: Final = 1024 * 1024
# Each header that some layer reads.
HEADERS: Final = sorted(
    {
        name
        for file in (ROOT / "hooks/layers").glob("*.yml")
        for name in re.findall(r"\b(?:[A-Z][A-Za-z]+-)+[A-Z][A-Za-z]+\b", file.read_text())
    }
    | {"Accept", "Authorization", "Cookie", "Host", "Origin", "User-Agent"}
    - {"Content-Length", "Transfer-Encoding"}
)
PARTS: Final = [*HEADERS, "path", "query", "method", "client"]
SAMPLE: Final = ["Authorization", "Host", "Origin", "client", "method", "path"]
ADDED: Final = """

import os
from fastapi import Request, Response
from app.big import Big


@app.get("/memory")
async def memory() -> int:
    import gc

    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


app = Big(app)
"""
# The server refuses long heads long before, so what is long is put in behind it.
BIG: Final = '''
"""Makes what is sent long, as other servers pass it on."""

MEGABYTE = 1024 * 1024


class Big:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            size = int(headers.pop(b"x-big", b"0"))
            name = headers.pop(b"x-part", b"").decode()
            number = headers.pop(b"x-number", b"")
            if size:
                text = b"/" + number + b"onion" * (size // 5)
                if name == "path":
                    scope["path"], scope["raw_path"] = text.decode(), text
                elif name == "query":
                    scope["query_string"] = text
                elif name == "method":
                    scope["method"] = text.decode()
                elif name == "client":
                    scope["client"] = (text.decode(), 1)
                else:
                    headers[name.lower().encode()] = headers.get(b"x-start", b"") + text
            headers.pop(b"x-start", None)
            scope["headers"] = list(headers.items())
        await self.app(scope, receive, send)
'''


@pytest.fixture(scope="module")
def server(everything: Path) -> Iterator[Server]:
    copy = with_main(everything, ADDED)
    (copy / "app/big.py").write_text(BIG)
    with serving(copy) as server:
        yield server
    shutil.rmtree(copy)


@pytest.mark.parametrize(
    ("size", "parts"),
    [
        (MEGABYTE, SAMPLE),
        pytest.param(MEGABYTE, PARTS, marks=pytest.mark.matrix),
        pytest.param(10 * MEGABYTE, PARTS, marks=pytest.mark.matrix),
    ],
)
def test_what_a_client_sends_is_not_kept(size: int, parts: list[str], server: Server) -> None:
    _send(server, 10_000, parts)
    before = _memory(server)

    _send(server, size, parts)

    assert _memory(server) - before < FLAT
    assert max(map(len, server.output.read_text("utf-8").splitlines())) < LONGEST_LINE


def _send(server: Server, size: int, parts: list[str]) -> None:
    """Send each part at a length, each time another one, as a user."""
    token = jwt.encode({"sub": "leek", "exp": 9_999_999_999}, SETTINGS["JWT_KEY"])
    starts = {"Authorization": f"Bearer {token}   ", "Idempotency-Key": '"'}
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)) as client:
        for part in parts:
            for number in range(TIMES):
                headers = {
                    "Authorization": f"Bearer {token}",
                    "Host": "localhost",
                    "X-Big": str(size),
                    "X-Number": str(number),
                    "X-Part": part,
                    "X-Start": starts.get(part, ""),
                }
                client.request("POST", "/orders", b"{}", headers)
                client.getresponse().read()


def _memory(server: Server) -> int:
    return int(server.request("/memory").body)
