"""Shutdown: SIGTERM is noted at once, and reaches the server after a delay."""

import asyncio
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

from .logger import layer_logger

_logger: Final = layer_logger(__name__)

Handler = Callable[[int, FrameType | None], Any]


class Shutdown:
    """
    Whether this process has begun to stop.

    The lifespan protocol reports a stop after the last connection has closed, too late for a load
    balancer. So SIGTERM is caught here and passed to the server's own handler after `delay`
    seconds. Until then requests are served. A second SIGTERM is ignored, because systemd and a
    supervisor may both send one. SIGINT, and SIGTERM under a reloader, stop the server at once.
    """

    def __init__(self, *, delay: float) -> None:
        self.delay = delay
        self.began = False
        self._on_begin: Callable[[], None] | None = None

    def begin(self) -> None:
        """Note that this process stops."""
        self.began = True
        if self._on_begin is not None:
            self._on_begin()

    @contextmanager
    def watched(self, on_begin: Callable[[], None] | None = None) -> Generator[None]:
        """
        Catch SIGTERM while the service runs, if the server handles it in Python.

        `on_begin` is called when the process begins to stop.
        """
        self.began = False
        self._on_begin = on_begin
        server = signal.getsignal(signal.SIGTERM)
        if threading.current_thread() is not threading.main_thread() or not callable(server):
            yield  # only the main thread can set handlers; without one there is nothing to delay
            return
        loop = asyncio.get_running_loop()
        delays = self.delay > 0 and not _handles_itself(loop, server) and not _reloads(server)

        def take(number: int, frame: FrameType | None) -> None:
            if self.began:
                return
            self.begin()
            if delays:
                loop.call_soon_threadsafe(self._pass_on_later, loop, server, number)
            else:
                give_back()
                server(number, frame)

        def give_back() -> None:
            if signal.getsignal(signal.SIGTERM) is take:
                signal.signal(signal.SIGTERM, server)

        signal.signal(signal.SIGTERM, take)
        try:
            yield
        finally:
            give_back()

    def _pass_on_later(self, loop: asyncio.AbstractEventLoop, server: Handler, number: int) -> None:
        _logger.info(
            "the service stops after a delay of %s s", self.delay, extra={"seconds": self.delay}
        )
        loop.call_later(self.delay, server, number, None)


def _handles_itself(loop: asyncio.AbstractEventLoop, handler: Handler) -> bool:
    """Return whether a signal reaches the server through the loop, past its handler in Python."""
    owner = getattr(handler, "__self__", None)
    return owner is loop or getattr(handler, "__module__", None) == type(loop).__module__


def _reloads(handler: Handler) -> bool:
    """Return whether uvicorn, which handles the signal, restarts for each change of a file."""
    server = getattr(handler, "__self__", None)
    return bool(getattr(getattr(server, "config", None), "should_reload", False))
