"""What operators need in an incident depends on nothing that the incident takes."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from copier import run_copy

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
    request: pytest.FixtureRequest, template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("watching") / "service"
    data = {"preset": "everything"}
    run_copy(str(template), folder, data=data, defaults=True, quiet=True, vcs_ref="HEAD")
    metrics = folder / "metrics"
    metrics.mkdir()
    several = request.param == "several processes"
    with ExitStack() as stack:
        if several:
            variables = stack.enter_context(pytest.MonkeyPatch.context())
            variables.setenv("PROMETHEUS_MULTIPROC_DIR", str(metrics))
        server = stack.enter_context(serving(with_main(folder, ADDED), REQUEST_TIMEOUT="30"))
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
