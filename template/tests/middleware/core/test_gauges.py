"""The gauges: what they show of the thread pool, and of several workers."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import anyio.to_thread
import pytest
from prometheus_client import CollectorRegistry

from app.middleware.core.gauges import Gauges, Reading
from tests.middleware.conftest import ProbeClient


def test_the_page_shows_how_many_threads_there_may_be(probe_client: ProbeClient) -> None:
    page = probe_client().get("/metrics").text

    assert "\nthreadpool_max_threads 40.0\n" in page
    assert "\nthreadpool_waiting_calls 0.0\n" in page


def test_calls_that_wait_for_a_thread_are_counted() -> None:
    registry = CollectorRegistry()
    gauges = Gauges((), registry, one_worker=True)
    released = threading.Event()

    async def fill() -> tuple[float | None, float | None]:
        limiter = anyio.to_thread.current_default_thread_limiter()
        limiter.total_tokens = 2
        gauges.start()
        calls = [asyncio.create_task(anyio.to_thread.run_sync(released.wait)) for _ in range(5)]
        await asyncio.sleep(0.05)
        names = ("threadpool_busy_threads", "threadpool_waiting_calls")
        busy, waiting = map(registry.get_sample_value, names)
        released.set()
        await asyncio.gather(*calls)
        return busy, waiting

    assert asyncio.run(fill()) == (2, 3)


def test_a_reading_is_taken_when_prometheus_asks() -> None:
    registry = CollectorRegistry()
    values = iter([1.0, 0.0])
    reading = Reading("storage_up", "Whether it responds.", lambda: next(values), "livemin")
    Gauges([reading], registry, one_worker=True)

    shown = [registry.get_sample_value("storage_up") for _ in range(2)]

    assert shown == [1.0, 0.0]


_WORKER: Final = """
import asyncio, sys
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from app.middleware.core import gauges

async def sample():
    gauges._SECONDS_BETWEEN_SAMPLES = 0.01
    last = float(sys.argv[1])
    values = iter([1.0])
    reading = gauges.Reading("storage_up", "Up.", lambda: next(values, last), "livemin")
    gauges.Gauges([reading], CollectorRegistry(), one_worker=False).start()
    await asyncio.sleep(0.1)

asyncio.run(sample())
registry = CollectorRegistry()
MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""


def test_of_several_workers_the_least_or_the_sum_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One worker that has lost the storage is enough, and each has a pool of its own."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))

    *_, output = (
        subprocess.run(  # noqa: S603 - the script above
            [sys.executable, "-c", _WORKER, value], check=True, capture_output=True, text=True
        ).stdout
        for value in ("0", "1")
    )

    assert "\nstorage_up 0.0\n" in output
    assert "\nthreadpool_max_threads 80.0\n" in output
