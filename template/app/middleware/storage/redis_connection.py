"""A connection to Redis, with a short limit on waiting."""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, Field, SecretStr

from app.middleware.core.logger import layer_logger
from app.middleware.core.reading import PLACEHOLDER, plain

from .base import StorageLostError
from .redis_clients import AddressError, Command, client

_logger: Final = layer_logger(__name__)

# Only the start, and the background, wait for a connection.
_TRIAL_TIMEOUT: Final = 1.5
_PAUSE: Final = 1.0
_BETWEEN_LINES: Final = 60.0
_TURNS: Final = 10

_T = TypeVar("_T")
_Waiting = list[tuple[Command, asyncio.Future[Any]]]


class RedisConnection:
    """
    Send scripts of one key to Redis, those of many requests in one exchange.

    Requests that arrive during an exchange share the next one, so a burst needs only a few. If
    Redis is unreachable or doesn't respond within `seconds`, it is lost: all waiting requests
    fail, one line is logged, and one more each minute; further requests fail at once. The commands
    of `trial`, which need the same permissions, are sent each second in the background until they
    succeed. One that Redis refuses while they succeed fails alone. `replicated` are those that
    must outlive their server: they fail unless a replica confirms them.
    """

    def __init__(
        self,
        url: SecretStr,
        *,
        purpose: str,
        trial: Sequence[Command],
        most: int,
        seconds: float,
        replicated: bool = False,
    ) -> None:
        self._client = client(url.get_secret_value())
        self._purpose = purpose
        self._commands_of_trial = trial
        self._most = most
        self._seconds = seconds
        self._replicated = replicated
        self._sent: _Waiting = []
        self._waiting: _Waiting = []
        self._sender: asyncio.Task[None] | None = None
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
        tasks = [task for task in (self._sender, self._trial) if task]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        with suppress(Exception):  # the rest ends with the process
            await self._client.disconnect()

    async def ask(self, *command: Any) -> Any:
        loop = asyncio.get_running_loop()
        if self._lost_at is not None:
            if not self._open and loop.time() >= self._next_trial_at:
                self._start_trial()
            raise StorageLostError
        future = loop.create_future()
        self._waiting.append((command, future))
        if self._sender is None:
            self._sender = in_background(self._send())
        return await future

    async def _send(self) -> None:
        try:
            while self._waiting:
                self._sent = self._waiting[: self._most]
                self._waiting = self._waiting[self._most :]
                commands = [command for command, _ in self._sent]
                answers = await _within(self._seconds, self._exchange(commands))
                failed = None
                for (command, future), answer in zip(self._sent, answers, strict=True):
                    if isinstance(answer, Exception):
                        failed = command, answer
                    if future.done():
                        continue
                    if isinstance(answer, Exception):
                        future.set_exception(StorageLostError())
                    else:
                        future.set_result(answer)
                if failed is not None:
                    await self._note_failed(*failed)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may go on waiting
            self._lose(error)
        finally:
            if self._sender is asyncio.current_task():
                self._fail_all()

    async def _note_failed(self, command: Command, error: Exception) -> None:
        """Log that a command failed, unless Redis refuses those of the trial too."""
        await _within(self._seconds, self._try_out())
        _, _, _, key, *_ = command
        self._log(f"the storage failed for {key}", error)

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        try:
            return await self._client.exchange(commands, replicated=self._replicated)
        finally:
            await self._disconnect_alone()

    async def _try_out(self) -> None:
        try:
            await self._client.try_out(self._commands_of_trial, replicated=self._replicated)
        finally:
            await self._disconnect_alone()

    async def _disconnect_alone(self) -> None:
        """Disconnect without a lifespan (`--lifespan off`, single tests): nothing does it later."""
        if not self._open:
            await self._client.disconnect()

    async def _try(self) -> None:
        try:
            await self._client.disconnect()
            await _within(_TRIAL_TIMEOUT, self._try_out())
        except Exception as error:  # noqa: BLE001 - the next trial may go better
            self._lose(error)
        else:
            self._regain()
        finally:
            self._trial = None

    def _start_trial(self) -> None:
        if self._trial is None and self._lost_at is not None:
            self._trial = in_background(self._try())

    def _lose(self, error: Exception) -> None:
        self._fail_all()
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._next_trial_at = now + _PAUSE
        if self._open:
            self._timer = loop.call_later(_PAUSE, self._start_trial)
        if self._lost_at is None:
            self._lost_at = self._next_line_at = now
        self._log(f"the storage is lost for {self._purpose}", error)

    def _fail_all(self) -> None:
        """End the exchange, and let nobody wait any longer."""
        sender, self._sender = self._sender, None
        if sender is not None and sender is not asyncio.current_task():
            sender.cancel()
        for _, future in self._sent + self._waiting:
            if not future.done():
                future.set_exception(StorageLostError())
        self._sent = []
        self._waiting = []

    def _regain(self) -> None:
        if self._lost_at is not None:
            seconds = round(asyncio.get_running_loop().time() - self._lost_at, 1)
            message = "the storage is back for %s after %s s"
            _logger.info(message, self._purpose, seconds, extra={"lost_seconds": seconds})
        self._lost_at = None

    def _log(self, message: str, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._next_line_at:
            self._next_line_at = now + _BETWEEN_LINES
            reason = f"{type(error).__name__}: {error}"
            _logger.error("%s: %s", message, reason, extra={"reason": reason})


def in_background(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Start `work`, whose log lines belong to no request, and have no fields of one."""
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
