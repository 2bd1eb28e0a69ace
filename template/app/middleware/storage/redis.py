"""Redis storage: counts and responses that all workers share."""

import asyncio
from contextlib import suppress
from contextvars import Context
from secrets import token_hex
from typing import Any, Final

from pydantic import SecretStr

from .base import StorageLostError, warn_of_second_run
from .redis_connection import RedisConnection

_MOST_ATTEMPTS: Final = 60

# Scripts are atomic, and no key expires between two of their commands.
_INCREMENT: Final = """
local count = redis.call('INCR', KEYS[1])
if count == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return {count, redis.call('PTTL', KEYS[1])}
"""
_CLAIM: Final = """
local found = redis.call('GET', KEYS[1])
if not found then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return found
"""
# What isn't there was lost by a restart; the new value is that of an attempt whose reply was lost.
_REPLACE: Final = """
local found = redis.call('GET', KEYS[1])
if found and found ~= ARGV[1] and found ~= ARGV[2] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1])
else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
"""


class RedisStorage:
    """
    Keep counts and responses in Redis, under keys that expire.

    With Sentinel or a Cluster a replica must confirm claims and replacements, so that a failover
    loses neither; it may lose the last counts. Each script has one key, so all its data is in one
    slot. The operations raise `StorageLostError` while Redis doesn't respond. What Redis drops,
    because of `maxmemory` or a restart, is lost here too.
    """

    def __init__(self, url: SecretStr) -> None:
        # A key of this process only: other services may share the Redis and its names.
        trial = ("EVAL", _INCREMENT, 1, f"limit:trial:{token_hex(16)}", 1000)
        self._connection = RedisConnection(url, trial=trial)
        self._late: dict[tuple[str, bytes], tuple[Any, ...]] = {}
        self._catching_up: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._connection.open()

    async def close(self) -> None:
        if self._catching_up is not None:
            self._catching_up.cancel()
        await self._connection.close()

    def is_up(self) -> bool:
        """Return whether Redis responded to the last command."""
        return not self._connection.is_lost

    async def increment(self, key: str, seconds: int) -> tuple[int, float]:
        count, milliseconds = await self._connection.ask("EVAL", _INCREMENT, 1, key, seconds * 1000)
        return count, milliseconds / 1000

    async def claim(self, key: str, value: bytes, seconds: int) -> bytes | None:
        command = ("EVAL", _CLAIM, 1, key, value, seconds * 1000)
        was_lost = self._connection.is_lost
        try:
            found: bytes | None = await self._connection.ask(*command, replicated=True)
        except StorageLostError:
            if not was_lost:  # it may be stored, and would block the next attempt
                self._later("EVAL", _REPLACE, 1, key, value, b"", 0)
            raise
        return found

    async def replace(self, key: str, old: bytes, new: bytes | None, seconds: int) -> bool:
        command = ("EVAL", _REPLACE, 1, key, old, new or b"", seconds * 1000)
        try:
            return bool(await self._connection.ask(*command, replicated=True))
        except StorageLostError:
            if new != old:  # the next renewal repeats this one
                self._later(*command)
            raise

    def _later(self, *command: Any) -> None:
        _, _, _, key, old, *_ = command
        self._late[key, old] = command
        if self._catching_up is None:
            # Its log lines belong to no request, so they have no fields of one.
            self._catching_up = asyncio.get_running_loop().create_task(
                self._catch_up(), context=Context()
            )

    async def _catch_up(self) -> None:
        """Repeat a replacement that a failover prevented, until the claim expires."""
        try:
            for _ in range(_MOST_ATTEMPTS):
                await asyncio.sleep(1)
                for command in list(self._late.values()):
                    with suppress(StorageLostError):
                        await self._repeat(*command)
                if not self._late:
                    break
        finally:
            self._late.clear()
            self._catching_up = None

    async def _repeat(self, *command: Any) -> None:
        _, _, _, key, old, new, _ = command
        replaced = await self._connection.ask(*command, replicated=True)
        self._late.pop((key, old), None)
        if new and not replaced:
            warn_of_second_run(key)
