"""Cancellation: a task that is cancelled keeps what AnyIO shields, such as a thread at work."""

import asyncio
import sys
from collections.abc import Generator, Iterator
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from anyio._backends._asyncio import _task_states

from .logger import layer_logger

if TYPE_CHECKING:
    from .exchange import Exchange

_CLEAN_UP_SECONDS: Final = 5.0
_logger: Final = layer_logger(__name__)

# The functions of asyncio by which code cancels the task that it runs in.
_CANCEL_THEIR_OWN_TASK: Final = frozenset({"Timeout._on_timeout", "TaskGroup._on_task_done"})

_Awaited: TypeAlias = asyncio.Future[Any] | None
Steps = Generator[_Awaited, None, None]


async def until_cancelled_have_ended() -> None:
    """Wait until the tasks that were cancelled have cleaned up, but not for long."""
    current = asyncio.current_task()
    tasks = [task for task in asyncio.all_tasks() if task.cancelling() and task is not current]
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=_CLEAN_UP_SECONDS)
    if late:
        _logger.warning("the service stops, although %d cancelled tasks still run", len(late))


class KeepingShields:
    """
    Do the rest of `steps`, in which the shields of AnyIO hold when the task is cancelled.

    `Task.cancel`, which ends a late request, and by which servers end one that is late at a stop or
    whose client has left, breaks the shield with which AnyIO waits for a worker thread: the thread
    loses its place in the pool, and its dependencies are closed while it uses them. Here the
    cancellation waits until the shield ends. A cancel scope of AnyIO instead would cancel each
    `await` of the clean-up too. The client doesn't wait: a layer can respond at once, by
    `if_cancelled` of the exchange.

    `asyncio.timeout` and `asyncio.TaskGroup`, by which the code inside cancels itself, are let
    through at once: they would not wait for it either.

    Whenever it waits, it calls and forgets what is in `at_wait` of the exchange, which `waits`
    until the next step.
    """

    __slots__ = ("_exchange", "_future", "_is_held", "_steps")

    def __init__(self, steps: Any, future: _Awaited, exchange: "Exchange") -> None:
        self._steps = steps
        self._exchange = exchange
        # What the first step waits for.
        self._future = future
        self._is_held = False

    def __await__(self) -> Steps:
        task = asyncio.current_task()
        exchange = self._exchange
        future = self._future
        thrown: BaseException | None = None
        try:
            while True:
                while exchange.at_wait:
                    exchange.at_wait.pop()()
                exchange.waits = True
                try:
                    if _is_shielded(task):
                        yield from self._shielded(task, future)
                    elif self._is_held:
                        yield from self._cancelled(future)
                    else:
                        yield future
                except BaseException as exc:  # noqa: BLE001 - it goes where it was sent to
                    thrown = exc
                exchange.waits = False
                steps = self._steps
                future = steps.send(None) if thrown is None else steps.throw(thrown)
                thrown = None
        except StopIteration:
            return
        finally:
            thrown = None  # else it would hold this frame, which holds it

    def _shielded(self, task: "asyncio.Task[Any] | None", future: _Awaited) -> Steps:
        """Let the task wait for something that a cancellation of the task does not reach."""
        waiter = _Waiter(task, future, self._exchange)
        if future is None:
            waiter.get_loop().call_soon(waiter.wake)
        else:
            # As the task itself does with what it waits for.
            future._asyncio_future_blocking = False  # noqa: SLF001
            future.add_done_callback(waiter.wake)
        try:
            yield from waiter
        except BaseException:
            if future is not None:
                future.cancel()
            raise
        finally:
            self._is_held |= waiter.is_held
            del waiter  # else a cancelled task would hold this frame, which holds it

    def _cancelled(self, future: _Awaited) -> Steps:
        self._is_held = False
        if future is None or not future.cancel():
            raise asyncio.CancelledError
        yield future


class _Waiter(asyncio.Future[None]):
    """What `task` waits for instead, which `Task.cancel` asks to end, and which decides."""

    def __init__(
        self, task: "asyncio.Task[Any] | None", future: _Awaited, exchange: "Exchange"
    ) -> None:
        super().__init__()
        self._task = task
        # That of an exchange inside, where there is one.
        self._inner = future if isinstance(future, _Waiter) else None
        self._exchange = exchange
        self._context = copy_context()
        self._responding: list[asyncio.Task[None]] = []
        self.is_held = False

    def cancel(self, msg: Any = None) -> bool:
        own = sys._getframe(1).f_code.co_qualname in _CANCEL_THEIR_OWN_TASK  # noqa: SLF001
        if own or not _is_shielded(self._task):
            return super().cancel(msg)
        if not self.is_held:
            self.is_held = True
            self._responding = [*self._respond()]
        return True

    def _respond(self) -> Iterator["asyncio.Task[None]"]:
        """Respond to the client, which can't wait for a thread, from the inside out."""
        if self._inner is not None:
            yield from self._inner._respond()  # noqa: SLF001
        yield self.get_loop().create_task(self._exchange.give_up(), context=self._context)

    def wake(self, *_: object) -> None:
        if not self.done():
            self.set_result(None)


def _is_shielded(task: "asyncio.Task[Any] | None") -> bool:
    """Return whether AnyIO keeps cancellations from outside away from `task`."""
    # AnyIO doesn't expose this, and a scope of our own would slow down every request.
    state = None if task is None else _task_states.get(task)
    scope = None if state is None else state.cancel_scope
    while scope is not None and not scope.cancel_called:
        if scope.shield:
            return True
        scope = scope._parent_scope  # noqa: SLF001
    return False
