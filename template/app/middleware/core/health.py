"""Health: the checks of a service, run on demand, with results kept for a moment."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextvars import Context
from functools import partial
from typing import Any, Final, TypeVar

from starlette._utils import is_async_callable

from .environment import refuse_to_start
from .logger import layer_logger

Check = Callable[[], Awaitable[bool | None]]
Checks = Sequence[Check]

_logger: Final = layer_logger(__name__)
_CLEAN_UP_SECONDS: Final = 1.0

_T = TypeVar("_T")


class Health:
    """
    The `checks` of one process, and the names of those that failed last.

    All run at the same time, each at most `timeout` seconds; one passes if it returns True or None.
    Results are kept for `max_age` seconds, and callers at the same time share one run. A check that
    ignores its cancellation isn't started again before it ends.
    """

    def __init__(self, checks: Checks, *, timeout: float, max_age: float) -> None:
        self.checks = _by_name(checks)
        self.timeout = timeout
        self.max_age = max_age
        self.failed: tuple[str, ...] = ()
        self._tasks: dict[str, asyncio.Task[Exception | None]] = {}
        self._run: asyncio.Task[None] | None = None
        self._holds_until = float("-inf")

    async def find_failed(self) -> tuple[str, ...]:
        """Return the names of the checks that fail."""
        now = asyncio.get_running_loop().time()
        if self.checks and self._run is None and now >= self._holds_until:
            self._run = _in_background(self._check())
        if self._run is not None:
            await asyncio.shield(self._run)
        return self.failed

    async def close(self) -> None:
        """End what still runs."""
        tasks = [task for task in (self._run, *self._tasks.values()) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLEAN_UP_SECONDS)
        self._tasks.clear()
        self._holds_until = float("-inf")

    async def _check(self) -> None:
        try:
            tasks = {name: self._task(name) for name in self.checks}
            await asyncio.wait(tasks.values(), timeout=self.timeout)
            errors = ((name, self._error(task)) for name, task in tasks.items())
            self._note({name: error for name, error in errors if error is not None})
        finally:
            self._run = None
            self._holds_until = asyncio.get_running_loop().time() + self.max_age

    def _task(self, name: str) -> asyncio.Task[Exception | None]:
        """Return the task of a check, possibly one from an earlier run."""
        if name not in self._tasks:
            self._tasks[name] = _in_background(_error_of(self.checks[name], self.timeout))
            self._tasks[name].add_done_callback(lambda _: self._tasks.pop(name, None))
        return self._tasks[name]

    def _error(self, task: asyncio.Task[Exception | None]) -> Exception | None:
        """Return why a check fails, None if it passes; cancel it if it takes too long."""
        if not task.done():
            task.cancel()
            return _late(self.timeout)
        return RuntimeError("it was cancelled") if task.cancelled() else task.result()

    def _note(self, errors: Mapping[str, Exception]) -> None:
        """Log what has changed."""
        for name, error in errors.items():
            if name not in self.failed:
                _logger.error(
                    "a readiness check fails: %s", name, exc_info=error, extra={"check": name}
                )
        for name in self.failed:
            if name not in errors:
                _logger.info("a readiness check passes again: %s", name, extra={"check": name})
        self.failed = tuple(errors)


def _in_background(work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
    # Several probes share it, so it runs in the context of none.
    return asyncio.get_running_loop().create_task(work, context=Context())


async def _error_of(check: Check, most: float) -> Exception | None:
    clock = asyncio.get_running_loop().time
    started_at = clock()
    try:
        result = await check()
    except Exception as error:  # noqa: BLE001 - whatever it is, the check fails
        return error
    if clock() - started_at > most:
        return _late(most)  # one that blocks the loop stops its timer too
    return None if result is None or result is True else ValueError(f"it returned {result!r}")


def _late(most: float) -> TimeoutError:
    return TimeoutError(f"no result within {most:g} s")


def _by_name(checks: Checks) -> dict[str, Check]:
    """
    Return the checks by the names of their functions, or of the classes of objects.

    Raises:
        SystemExit: after a message, if one isn't a check or two have the same name.

    """
    named: dict[str, Check] = {}
    given: Any = checks  # from code that nobody may have checked
    if callable(given):
        refuse_to_start("checks= takes a list, such as checks=[database_is_up].")
    for check in given:
        if not (is_async_callable(check) and _needs_nothing(check)):
            refuse_to_start(
                "checks= takes `async def` functions without arguments, such as"
                " checks=[database_is_up], or checks=[partial(database_is_up, engine)] for one with"
                f" arguments, not {check!r}."
            )
        name = _name_of(check)
        if named.setdefault(name, check) is not check:
            refuse_to_start(
                f"checks= has two functions that are called {name}. Call one of them in an"
                " `async def` function of another name."
            )
    return named


def _name_of(check: Any) -> str:
    """Return the name, which a partial and an object have from what they call."""
    called = check.func if isinstance(check, partial) else type(check)
    return getattr(check, "__name__", None) or _name_of(called)


def _needs_nothing(check: Check) -> bool:
    try:
        inspect.signature(check).bind()
    except TypeError:
        return False
    return True
