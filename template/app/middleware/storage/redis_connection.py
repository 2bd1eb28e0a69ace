"""The connection to Redis: one a worker, and no request waits for it for long."""

import asyncio
import logging
import re
from collections.abc import Coroutine
from contextlib import suppress
from contextvars import Context
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from .base import StorageLostError

_logger: Final = logging.getLogger(__name__)

_SCHEMES: Final = frozenset({"redis", "rediss"})
# Seconds: a request waits for one exchange or two; connecting is nobody's wait but at the start.
_ANSWER_TIMEOUT: Final = 0.1
_CONNECT_TIMEOUT: Final = 1.0
_PAUSE: Final = 1.0
_BETWEEN_LINES: Final = 60.0
_TURNS: Final = 10
_MOST_COMMANDS: Final = 500

_Command = tuple[Any, ...]
_Waiting = list[tuple[_Command, asyncio.Future[Any]]]


class RedisConnection:
    """
    Send commands to Redis, those of many requests in one exchange.

    Requests that come while an exchange runs share the next one, so a burst costs a few. A
    Redis that is gone, or doesn't answer in 100 ms, is lost: all who wait are told, one line is
    logged, and one more each minute; from then on everybody is told at once. Meanwhile `trial`,
    a command that writes, is sent each second in the background, and ends that when it
    succeeds.
    """

    def __init__(self, url: SecretStr, *, trial: _Command) -> None:
        self._redis = _client(url)
        self._waiting: _Waiting = []
        self._sender: asyncio.Task[None] | None = None
        self._command_of_trial = trial
        self._open = False
        self._trial: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lost_at: float | None = None
        self._next_trial_at = 0.0
        self._next_line_at = 0.0

    async def open(self) -> None:
        if not self._open:
            self._open = True
            await self._try()

    async def close(self) -> None:
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
        for task in (self._sender, self._trial):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        with suppress(Exception):  # what is left then is the end of the process's
            await self._redis.aclose()

    async def ask(self, *command: Any) -> Any:
        loop = asyncio.get_running_loop()
        if self._lost_at is not None:
            if not self._open and loop.time() >= self._next_trial_at:
                self._start_trial()
            raise StorageLostError
        future = loop.create_future()
        self._waiting.append((command, future))
        if self._sender is None:
            self._sender = _in_background(self._send())
        return await future

    async def _send(self) -> None:
        batch: _Waiting = []
        try:
            while self._waiting:
                batch = self._waiting[:_MOST_COMMANDS]
                self._waiting = self._waiting[_MOST_COMMANDS:]
                commands = [command for command, _ in batch]
                answers = await _within(_ANSWER_TIMEOUT, self._exchange(commands))
                for (_, future), answer in zip(batch, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may go on waiting
            self._lose(error)
        finally:
            for _, future in batch + self._waiting:
                if not future.done():
                    future.set_exception(StorageLostError())
            self._waiting = []
            self._sender = None

    async def _exchange(self, commands: list[_Command]) -> list[Any]:
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                return await pipeline.execute()
        finally:
            # Without a lifespan (`--lifespan off`, lone tests) nobody would close it later.
            if not self._open:
                await self._redis.connection_pool.disconnect()

    async def _try(self) -> None:
        try:
            await self._redis.connection_pool.disconnect()
            await _within(_CONNECT_TIMEOUT, self._exchange([self._command_of_trial]))
        except Exception as error:  # noqa: BLE001 - the next trial may go better
            self._lose(error)
        else:
            self._regain()
        finally:
            self._trial = None

    def _start_trial(self) -> None:
        if self._trial is None and self._lost_at is not None:
            self._trial = _in_background(self._try())

    def _lose(self, error: Exception) -> None:
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
            _logger.error("the storage is lost", extra={"reason": reason})

    def _regain(self) -> None:
        if self._lost_at is not None:
            seconds = asyncio.get_running_loop().time() - self._lost_at
            _logger.info("the storage is back", extra={"lost_seconds": round(seconds, 1)})
        self._lost_at = None


def _in_background(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    # Its lines are those of no request, so it has none of their fields.
    return asyncio.get_running_loop().create_task(work, context=Context())


async def _within(seconds: float, work: Coroutine[Any, Any, list[Any]]) -> list[Any]:
    """
    Return what `work` returns, or give it up after `seconds`.

    The time is waited for in slices, each at least a turn of the loop: while the loop is late,
    the answer may long be there, and must not be taken for one that didn't come.
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


def _client(url: SecretStr) -> Redis:
    return Redis.from_url(
        url.get_secret_value(),
        protocol=2,
        encoding_errors="surrogatepass",  # else one odd id would pass for a lost connection
        retry=Retry(NoBackoff(), 0),
        socket_timeout=_CONNECT_TIMEOUT,
        socket_connect_timeout=_CONNECT_TIMEOUT,
        driver_info=None,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )


def _redis(value: SecretStr) -> SecretStr:
    value = SecretStr(value.get_secret_value().strip())
    if not _is_address(value):
        msg = (
            "must be the address of a Redis, such as redis://user:password@host:6379/0,"
            " rediss:// for TLS, or unix:///run/redis.sock"
        )
        raise ValueError(msg)
    return value


def _is_address(value: SecretStr) -> bool:
    try:
        url = urlsplit(value.get_secret_value())
        pool: Any = _client(value).connection_pool
        pool.make_connection()  # refuses options that it doesn't know
    except Exception:  # noqa: BLE001 - its text may show the password
        return False
    if url.scheme == "unix":
        return url.path.startswith("/")
    # redis-py takes database 0 for a path that is no number, and localhost for no host.
    return (
        url.scheme in _SCHEMES
        and re.fullmatch(r"[^\s,]+", url.hostname or "") is not None
        and re.fullmatch(r"(/[0-9]*)?", url.path) is not None
    )


StorageUrl = Annotated[SecretStr, AfterValidator(_redis)]
