"""Threads for work that must not wait for the threads of endpoints, nor for one another."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

Result = TypeVar("Result")


class Threads:
    """At most so many threads, which nothing else can use."""

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


def run_at_once(work: Awaitable[None]) -> None:
    """Run a coroutine of a library that never has to wait to its end."""
    for _ in work.__await__():
        pass
