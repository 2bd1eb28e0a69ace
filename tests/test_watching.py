"""What operators need in an incident depends on nothing that the incident takes."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from .serving import Server, serving, with_main

BLOCKING: Final = 40
# More than the default executor of asyncio has threads on a machine of a few cores.
EXECUTING: Final = 12
BOUND_SECONDS: Final = 0.1
ADDED: Final = """

import asyncio
import time


@app.get("/block")
def block() -> None:
    time.sleep(3)


@app.get("/block-executor")
async def block_executor() -> None:
    await asyncio.to_thread(time.sleep, 3)
"""


@pytest.fixture(scope="module", params=["one process", "several processes"])
def server(
    request: pytest.FixtureRequest, everything: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    metrics = str(tmp_path_factory.mktemp("metrics"))
    several = request.param == "several processes"
    mode: dict[str, Any] = {"PROMETHEUS_MULTIPROC_DIR": metrics} if several else {}
    with serving(with_main(everything, ADDED), REQUEST_TIMEOUT="30", **mode) as server:
        yield server


def test_metrics_and_probes_respond_while_every_thread_is_taken(server: Server) -> None:
    server.request("/metrics")
    with ThreadPoolExecutor(BLOCKING + EXECUTING) as clients:
        for path in [*BLOCKING * ["/block"], *EXECUTING * ["/block-executor"]]:
            clients.submit(server.request, path)
        time.sleep(1)

        for path in ("/metrics", "/healthz"):
            # The best of some, since the machine may be busy with other tests.
            assert min(_seconds(server, path) for _ in range(5)) < BOUND_SECONDS


def _seconds(server: Server, path: str) -> float:
    begin = time.perf_counter()
    assert server.request(path).status == 200
    return time.perf_counter() - begin
