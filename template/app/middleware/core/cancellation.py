"""Cancellation: a task that is cancelled keeps what AnyIO shields, such as a thread at work."""

import asyncio
from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import Any, Final

from anyio._backends._asyncio import _task_states

_CLEAN_UP_SECONDS: Final = 5.0

Steps = Generator[asyncio.Future[Any] | None, None, None]


async def until_cancelled_have_ended() -> None:
    """Wait until the tasks that were cancelled have cleaned up, but not for long."""
    current = asyncio.current_task()
    tasks = [task for task in asyncio.all_tasks() if task.cancelling() and task is not current]
    if tasks:
        await asyncio.wait(tasks, timeout=_CLEAN_UP_SECONDS)


class KeepingShields:
    """
    Do the rest of `steps`, in which the shields of AnyIO hold when the task is cancelled.

    `Task.cancel`, which ends a late request, or one of a server that stops, breaks the shield with
    which AnyIO waits for a worker thread: the thread loses its place in the pool, and its
    dependencies are closed while it uses them. Here the cancellation waits until the shield ends.
    A cancel scope of AnyIO instead would cancel each `await` of the clean-up too.

    Both give a reason. `asyncio.timeout` and `asyncio.TaskGroup`, by which the code inside
    cancels itself, give none, and are let through at once: they would not wait for it either.

    Whenever it waits, it calls and forgets what is in `at_wait`.
    """

    __slots__ = ("_at_wait", "_future", "_held", "_steps")

    def __init__(
        self,
        steps: Any,
        future: asyncio.Future[Any] | None,
        at_wait: list[Callable[[], object]],
    ) -> None:
        self._steps = steps
        self._at_wait = at_wait
        # What the first step waits for.
        self._future = future
        self._held: BaseException | None = None

    def __await__(self) -> Steps:
        future = self._future
        thrown: BaseException | None = None
        try:
            while True:
                while self._at_wait:
                    self._at_wait.pop()()
                try:
                    if _is_shielded():
                        yield from self._shielded(future)
                    elif self._held is None:
                        yield future
                    else:
                        yield from self._cancelled(future)
                except BaseException as exc:  # noqa: BLE001 - it goes where it was sent to
                    thrown = exc
                steps = self._steps
                future = steps.send(None) if thrown is None else steps.throw(thrown)
                thrown = None
        except StopIteration:
            return
        finally:
            thrown = None  # else it would hold this frame, which holds it

    def _shielded(self, future: asyncio.Future[Any] | None) -> Steps:
        """Let the task wait for something that a cancellation of the task does not reach."""
        if future is None:
            yield from self._holding()
            return
        # As the task itself does with what it waits for.
        future._asyncio_future_blocking = False  # noqa: SLF001
        try:
            while not future.done():
                waiter = future.get_loop().create_future()
                future.add_done_callback(partial(_wake, waiter))
                yield from self._holding(waiter)
        except BaseException:
            future.cancel()
            raise

    def _holding(self, waiter: Iterable[asyncio.Future[None] | None] = (None,)) -> Steps:
        try:
            yield from waiter
        except asyncio.CancelledError as exc:
            if not exc.args or not _is_shielded():
                raise
            self._held = exc

    def _cancelled(self, future: asyncio.Future[Any] | None) -> Steps:
        held, self._held = self._held, None
        if future is not None and future.cancel():
            yield future
        elif held is not None:
            raise held


def _wake(waiter: asyncio.Future[None], _: object) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _is_shielded() -> bool:
    """Return whether AnyIO keeps cancellations from outside away from the current task."""
    # AnyIO doesn't expose this, and a scope of our own would slow down every request.
    task = asyncio.current_task()
    state = None if task is None else _task_states.get(task)
    scope = None if state is None else state.cancel_scope
    while scope is not None and not scope.cancel_called:
        if scope.shield:
            return True
        scope = scope._parent_scope  # noqa: SLF001
    return False
