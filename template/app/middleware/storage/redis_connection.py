"""The connection to Redis: one per worker, with a short limit on waiting."""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from contextvars import Context
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, Field, SecretStr

from app.middleware.core.reading import PLACEHOLDER, plain

from .base import StorageLostError
from .redis_clients import AddressError, Command, client

_logger: Final = logging.getLogger(__name__)

# Seconds: a count waits for one or two exchanges; only the start waits for a connection.
_ANSWER_TIMEOUT: Final = 0.1
# Ten values of claims are up to 2.5 MiB, and other workers use the same network.
_RESPONSES_TIMEOUT: Final = 1.0
_TRIAL_TIMEOUT: Final = 1.5
_PAUSE: Final = 1.0
_BETWEEN_LINES: Final = 60.0
_TURNS: Final = 10
_MOST_COMMANDS: Final = 500
_MOST_RESPONSES: Final = 10

_T = TypeVar("_T")
_Waiting = list[tuple[Command, asyncio.Future[Any]]]


class _Lane:
    """A client of Redis, and the commands that wait for its next exchange."""

    def __init__(self, url: SecretStr, *, most: int, seconds: float, replicated: bool) -> None:
        self.client = client(url.get_secret_value())
        self.most = most
        self.seconds = seconds
        self.replicated = replicated
        self.sent: _Waiting = []
        self.waiting: _Waiting = []
        self.sender: asyncio.Task[None] | None = None

    def fail(self) -> None:
        """End the exchange, and let nobody wait any longer."""
        sender, self.sender = self.sender, None
        if sender is not None and sender is not asyncio.current_task():
            sender.cancel()
        for _, future in self.sent + self.waiting:
            if not future.done():
                future.set_exception(StorageLostError())
        self.sent = []
        self.waiting = []


class RedisConnection:
    """
    Send commands to Redis, those of many requests in one exchange.

    Requests that arrive during an exchange share the next one, so a burst needs only a few.
    Those that claim a key have a connection of their own, where a few share an exchange: no count
    waits for their bytes or their replicas. If Redis is unreachable or doesn't respond to
    counts within 100 ms, or to the others within a second, it is lost: all waiting requests fail,
    one line is logged, and one more each minute; further requests fail at once. `trial`, a
    command that writes, is sent each second in the background until it succeeds.
    """

    def __init__(self, url: SecretStr, *, trial: Command) -> None:
        self._counts = _Lane(url, most=_MOST_COMMANDS, seconds=_ANSWER_TIMEOUT, replicated=False)
        self._responses = _Lane(
            url, most=_MOST_RESPONSES, seconds=_RESPONSES_TIMEOUT, replicated=True
        )
        self._lanes = (self._counts, self._responses)
        self._command_of_trial = trial
        self._open = False
        self._trial: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lost_at: float | None = None
        self._next_trial_at = 0.0
        self._next_line_at = 0.0

    @property
    def is_lost(self) -> bool:
        return self._lost_at is not None

    async def open(self) -> None:
        if not self._open:
            self._open = True
            await self._try()

    async def close(self) -> None:
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
        tasks = [task for task in (*(it.sender for it in self._lanes), self._trial) if task]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        with suppress(Exception):  # the rest ends with the process
            await self._disconnect()

    async def ask(self, *command: Any, replicated: bool = False) -> Any:
        """
        Send a command.

        One that claims a key is `replicated`: it fails unless a replica confirms the write.
        """
        loop = asyncio.get_running_loop()
        if self._lost_at is not None:
            if not self._open and loop.time() >= self._next_trial_at:
                self._start_trial()
            raise StorageLostError
        lane = self._responses if replicated else self._counts
        future = loop.create_future()
        lane.waiting.append((command, future))
        if lane.sender is None:
            lane.sender = _in_background(self._send(lane))
        return await future

    async def _send(self, lane: _Lane) -> None:
        try:
            while lane.waiting:
                lane.sent = lane.waiting[: lane.most]
                lane.waiting = lane.waiting[lane.most :]
                commands = [command for command, _ in lane.sent]
                answers = await _within(lane.seconds, self._exchange(lane, commands))
                for (_, future), answer in zip(lane.sent, answers, strict=True):
                    if future.done():
                        continue
                    if isinstance(answer, StorageLostError):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may go on waiting
            self._lose(error)
        finally:
            if lane.sender is asyncio.current_task():
                lane.fail()

    async def _exchange(self, lane: _Lane, commands: list[Command]) -> list[Any]:
        try:
            return await lane.client.exchange(commands, replicated=lane.replicated)
        finally:
            # Without a lifespan (`--lifespan off`, single tests) nothing would close it later.
            if not self._open:
                await lane.client.disconnect()

    async def _disconnect(self) -> None:
        for lane in self._lanes:
            await lane.client.disconnect()

    async def _try(self) -> None:
        client = self._counts.client
        try:
            await self._disconnect()
            await _within(_TRIAL_TIMEOUT, client.try_out(self._command_of_trial))
        except Exception as error:  # noqa: BLE001 - the next trial may go better
            self._lose(error)
        else:
            self._regain()
        finally:
            if not self._open:
                await client.disconnect()
            self._trial = None

    def _start_trial(self) -> None:
        if self._trial is None and self._lost_at is not None:
            self._trial = _in_background(self._try())

    def _lose(self, error: Exception) -> None:
        for lane in self._lanes:
            lane.fail()
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._next_trial_at = now + _PAUSE
        if self._open:
            self._timer = loop.call_later(_PAUSE, self._start_trial)
        if self._lost_at is None:
            self._lost_at = self._next_line_at = now
        if now >= self._next_line_at:
            self._next_line_at = now + _BETWEEN_LINES
            reason = f"{type(error).__name__}: {error}"
            _logger.error("the storage is lost: %s", reason, extra={"reason": reason})

    def _regain(self) -> None:
        if self._lost_at is not None:
            seconds = round(asyncio.get_running_loop().time() - self._lost_at, 1)
            _logger.info("the storage is back after %s s", seconds, extra={"lost_seconds": seconds})
        self._lost_at = None


def _in_background(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    # Its log lines belong to no request, so they have no fields of one.
    return asyncio.get_running_loop().create_task(work, context=Context())


async def _within(seconds: float, work: Coroutine[Any, Any, _T]) -> _T:
    """
    Return the result of `work`, or stop waiting after `seconds`.

    It waits in slices of at least one turn of the loop: if the loop is late, the reply may have
    arrived already, and must not count as missing.
    """
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(lambda task: task.cancelled() or task.exception())
    try:
        for _ in range(_TURNS):
            await asyncio.wait({task}, timeout=seconds / _TURNS)
            if task.done():
                return task.result()
    finally:
        task.cancel()
    msg = f"no answer within {seconds} seconds"
    raise TimeoutError(msg)


def _redis(value: SecretStr) -> SecretStr:
    value = SecretStr(value.get_secret_value().strip())
    plain(value.get_secret_value(), shown=False)
    msg = (
        "must be the address of a Redis, such as redis://user:password@host:6379/0,"
        " rediss:// for TLS, or unix:///run/redis.sock; of several,"
        " redis+sentinel://host:26379,host:26379/mymaster or redis+cluster://host:6379,host:6379;"
        " characters such as / # ? @ % in a password are percent-encoded, %2F for /"
    )
    if _is_unfilled(value.get_secret_value()):
        msg = "must hold the real host, user and password, not a placeholder that nothing fills in"
        raise ValueError(msg)
    try:
        client(value.get_secret_value())
    except AddressError as error:
        raise ValueError(str(error)) from None
    except Exception:  # noqa: BLE001 - its text may show the password
        raise ValueError(msg) from None
    return value


def _is_unfilled(url: str) -> bool:
    """Find a placeholder: as the whole user or password, which may look odd, and elsewhere."""
    begin, _, rest = url.partition("?")[0].rpartition("@")
    login = begin.partition("://")[2].split(":", 1)
    return bool(PLACEHOLDER.search(rest) or any(map(PLACEHOLDER.fullmatch, login)))


StorageUrl = Annotated[
    SecretStr,
    AfterValidator(_redis),
    Field(description="the address of a Redis, such as redis://127.0.0.1:6379/0"),
]
