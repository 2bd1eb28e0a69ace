"""Shutdown: SIGTERM is known at once, and comes to the server when the delay is over."""

import asyncio
import signal
from collections.abc import Iterator
from time import perf_counter

import pytest
from uvicorn import Config, Server

from app.middleware.core.shutdown import Shutdown

Received = list[float]


@pytest.fixture
def received() -> Iterator[Received]:
    """Handle SIGTERM as a server does; note when it comes."""
    times: Received = []
    before = signal.signal(signal.SIGTERM, lambda *_: times.append(perf_counter()))
    yield times
    signal.signal(signal.SIGTERM, before)


def stop(shutdown: Shutdown, *, times: int = 1, wait: float = 0) -> list[bool]:
    """Send SIGTERM, and return whether the service was to stop before and after."""

    async def run() -> list[bool]:
        with shutdown.watched():
            seen = [shutdown.began]
            for _ in range(times):
                signal.raise_signal(signal.SIGTERM)
            seen.append(shutdown.began)
            await asyncio.sleep(wait)
        return seen

    return asyncio.run(run())


def test_the_server_gets_it_when_the_delay_is_over(received: Received) -> None:
    began = perf_counter()

    seen = stop(Shutdown(delay=0.1), wait=0.3)

    assert seen == [False, True]
    assert len(received) == 1
    assert received[0] - began >= 0.1


def test_a_server_that_has_the_signal_from_its_loop_is_not_delayed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The loop gets it past every handler in Python, so the server stops at once."""

    async def run() -> bool:
        stopped, shutdown = asyncio.Event(), Shutdown(delay=5)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        with shutdown.watched():
            signal.raise_signal(signal.SIGTERM)
            await asyncio.wait_for(stopped.wait(), 1)
        return shutdown.began

    with caplog.at_level("INFO"):
        assert asyncio.run(run())

    assert caplog.records == []


def test_a_second_one_changes_nothing(received: Received) -> None:
    began = perf_counter()

    stop(Shutdown(delay=0.1), times=3, wait=0.3)

    assert len(received) == 1
    assert received[0] - began >= 0.1


def test_without_a_delay_the_server_gets_each_at_once(received: Received) -> None:
    assert stop(Shutdown(delay=0), times=2) == [False, True]
    assert len(received) == 2


@pytest.mark.parametrize("reload", [True, False])
@pytest.mark.usefixtures("received")
def test_a_server_that_reloads_does_not_wait(*, reload: bool) -> None:
    """Whatever makes it reload: an option, a variable, or `fastapi dev`."""
    server = Server(Config("app.main:app", reload=reload, log_config=None))
    signal.signal(signal.SIGTERM, server.handle_exit)

    stop(Shutdown(delay=5))

    assert server.should_exit is reload


def test_the_handler_of_the_server_is_back_afterwards(received: Received) -> None:
    before = signal.getsignal(signal.SIGTERM)

    stop(Shutdown(delay=0), times=0)

    assert signal.getsignal(signal.SIGTERM) is before
    assert received == []


def test_a_signal_that_nobody_handles_ends_the_process() -> None:
    async def run() -> object:
        with Shutdown(delay=5).watched():
            return signal.getsignal(signal.SIGTERM)

    assert asyncio.run(run()) is signal.SIG_DFL


def test_signals_are_left_alone_outside_of_the_main_thread(received: Received) -> None:
    async def run() -> bool:
        before = signal.getsignal(signal.SIGTERM)
        with Shutdown(delay=5).watched():
            return signal.getsignal(signal.SIGTERM) is before

    async def apart() -> bool:
        return await asyncio.to_thread(lambda: asyncio.run(run()))

    assert asyncio.run(apart())
    assert received == []
