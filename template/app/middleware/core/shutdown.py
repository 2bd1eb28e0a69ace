"""Shutdown: the service learns of SIGTERM at once, and may put the stop of the server off."""

import asyncio
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

_logger: Final = logging.getLogger(__name__)

Handler = Callable[[int, FrameType | None], Any]


class Shutdown:
    """
    Whether this process is to stop.

    The lifespan protocol says so when the last connection has ended, which is too late for a load
    balancer. So SIGTERM is taken here, and given to the server's own handler after `delay`
    seconds. Meanwhile all goes on, and a second SIGTERM changes nothing: systemd and a supervisor
    may both send one. SIGINT stops the server at once, and so does SIGTERM where it reloads.
    """

    def __init__(self, *, delay: float) -> None:
        self.delay = 0 if _reloads() else delay
        self.began = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take SIGTERM while the service runs, where a server handles it in Python."""
        self.began = False
        server = signal.getsignal(signal.SIGTERM)
        if threading.current_thread() is not threading.main_thread() or not callable(server):
            yield  # signals are not ours to take, or none is handled
            return
        loop = asyncio.get_running_loop()

        def take(number: int, frame: FrameType | None) -> None:
            if self.began:
                return
            self.began = True
            if self.delay:
                loop.call_soon_threadsafe(self._put_off, loop, server, number)
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

    def _put_off(self, loop: asyncio.AbstractEventLoop, server: Handler, number: int) -> None:
        _logger.info("the service stops", extra={"seconds": self.delay})
        loop.call_later(self.delay, server, number, None)


def _reloads() -> bool:
    """Say whether this process is started anew for each change of a file."""
    return "--reload" in sys.argv or sys.argv[1:2] == ["dev"]
