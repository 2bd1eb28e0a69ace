"""Threads: small pools for work that must not wait for the threads of endpoints."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

Result = TypeVar("Result")


class Threads:
    """A pool of at most `most` threads, apart from AnyIO's."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limiter: RunVar[CapacityLimiter] = RunVar("threads of a layer")

    async def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run `function` in one of them."""
        try:
            limiter = self._limiter.get()
        except LookupError:
            limiter = CapacityLimiter(self._most)
            self._limiter.set(limiter)
        return await to_thread.run_sync(function, *arguments, limiter=limiter)


async def nothing(*_: object) -> Any:
    """Act as the app, the `receive` or the `send` of a class of a library."""


def run_at_once(work: Awaitable[None]) -> None:
    """Run to its end a coroutine that never suspends."""
    for _ in work.__await__():
        pass
