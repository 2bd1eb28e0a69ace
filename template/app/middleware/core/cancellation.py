"""Cancellation: ends a task once, and never under what a thread still uses."""

import asyncio
from typing import Any, Final

from anyio._backends._asyncio import _task_states

_RETRY_SECONDS: Final = 0.05


class Cancellation:
    """
    Cancel a task as soon as it stands in no shielded scope of AnyIO, and only once.

    `Task.cancel` alone breaks the shield with which AnyIO waits for a worker thread: the thread
    would lose its place in the pool, and its dependencies would be closed while it uses them.
    A cancel scope of AnyIO would cancel each `await` of the clean-up too.
    """

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self._retry: asyncio.TimerHandle | None = None
        self._before = task.cancelling()
        self._requested = False

    def request(self) -> None:
        """Cancel the task now, or as soon as it can be."""
        if _is_shielded(self._task):
            loop = asyncio.get_running_loop()
            self._retry = loop.call_later(_RETRY_SECONDS, self.request)
        else:
            self._requested = True
            self._task.cancel()

    def withdraw(self) -> bool:
        """End it, and say whether a `CancelledError` of the task came from here alone."""
        if self._retry is not None:
            self._retry.cancel()
        return self._requested and self._task.uncancel() <= self._before


def _is_shielded(task: asyncio.Task[Any]) -> bool:
    # AnyIO tells this to nobody, and entering a scope of our own costs each request too much.
    state = _task_states.get(task)
    scope = state.cancel_scope if state is not None else None
    while scope is not None and not scope.shield:
        scope = scope._parent_scope  # noqa: SLF001 - see above
    return scope is not None
