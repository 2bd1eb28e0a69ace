"""Threads for work that must not wait for the threads of endpoints."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

Result = TypeVar("Result")

_MOST: Final = 4
_limiter: Final[RunVar[CapacityLimiter]] = RunVar("threads of the layers")


async def run_apart(function: Callable[..., Result], *arguments: Any) -> Result:
    """Run `function` in a thread that endpoints can't use."""
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = CapacityLimiter(_MOST)
        _limiter.set(limiter)
    return await to_thread.run_sync(function, *arguments, limiter=limiter)


def run_at_once(work: Awaitable[None]) -> None:
    """Run a coroutine of a library that never has to wait to its end."""
    for _ in work.__await__():
        pass
