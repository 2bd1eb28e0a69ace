"""Redis storage: counts and responses that all workers share."""

import asyncio
from contextlib import suppress
from secrets import token_hex
from typing import Any, Final

from pydantic import SecretStr

from .base import StorageLostError, warn_of_second_run
from .redis_connection import RedisConnection, in_background

_MOST_COUNTS: Final = 500
_MOST_RESPONSES: Final = 10
# Seconds: a count waits for one or two exchanges.
_COUNTS_TIMEOUT: Final = 0.1
# Ten values of claims are up to 2.5 MiB, and other workers use the same network.
_RESPONSES_TIMEOUT: Final = 1.0
# Seconds after which a claim has expired that nobody renews.
_LATEST: Final = 60

# Scripts are atomic, and no key expires between two of their commands. Each runs all of its
# commands for a free key, so a trial finds out whether one of them isn't permitted.
# A count that expires after more than the period, or never, is that of an earlier setting.
_INCREMENT: Final = """
local left = redis.call('PTTL', KEYS[1])
if left < 0 or left > tonumber(ARGV[1]) then redis.call('SET', KEYS[1], 0, 'PX', ARGV[1]) end
return {redis.call('INCR', KEYS[1]), redis.call('PTTL', KEYS[1])}
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

    Each has a connection of its own: no count waits for the bytes or the replicas of a response,
    and one that fails doesn't take the other along. With Sentinel or a Cluster a replica must
    confirm claims and replacements, so that a failover loses neither; it may lose the last counts.
    Each script has one key, so all its data is in one slot. The operations raise `StorageLostError`
    while Redis doesn't respond, or refuses them. What Redis drops, because of `maxmemory` or a
    restart, is lost here too.
    """

    def __init__(self, url: SecretStr) -> None:
        # Keys of this process only: other services may share the Redis and its names.
        mine = f"trial:{token_hex(16)}"
        count, answer = f"limit:{mine}", f"answer:{mine}"
        self._counts = RedisConnection(
            url,
            purpose="counts",
            trial=[("EVAL", _INCREMENT, 1, count, 1000)],
            most=_MOST_COUNTS,
            seconds=_COUNTS_TIMEOUT,
        )
        self._responses = RedisConnection(
            url,
            purpose="responses",
            trial=[
                ("EVAL", _CLAIM, 1, answer, mine, 1000),
                ("EVAL", _REPLACE, 1, answer, mine, "", 0),
            ],
            most=_MOST_RESPONSES,
            seconds=_RESPONSES_TIMEOUT,
            replicated=True,
        )
        self._late: dict[tuple[str, bytes], tuple[float, tuple[Any, ...]]] = {}
        self._catching_up: asyncio.Task[None] | None = None

    async def open(self, *, claims: bool) -> None:
        await (self._responses if claims else self._counts).open()

    async def close(self) -> None:
        if self._catching_up is not None:
            self._catching_up.cancel()
        await self._counts.close()
        await self._responses.close()

    def is_up(self) -> bool:
        """Return whether Redis responded to the last exchanges."""
        return not (self._counts.is_lost or self._responses.is_lost)

    async def increment(self, key: str, seconds: int) -> tuple[int, float]:
        count, milliseconds = await self._counts.ask("EVAL", _INCREMENT, 1, key, seconds * 1000)
        return count, milliseconds / 1000

    async def claim(self, key: str, value: bytes, seconds: int) -> bytes | None:
        command = ("EVAL", _CLAIM, 1, key, value, seconds * 1000)
        was_lost = self._responses.is_lost
        try:
            found: bytes | None = await self._responses.ask(*command)
        except StorageLostError:
            if not was_lost:  # it may be stored, and would block the next attempt
                self._later("EVAL", _REPLACE, 1, key, value, b"", 0)
            raise
        return found

    async def replace(self, key: str, old: bytes, new: bytes | None, seconds: int) -> bool:
        command = ("EVAL", _REPLACE, 1, key, old, new or b"", seconds * 1000)
        try:
            return bool(await self._responses.ask(*command))
        except StorageLostError:
            if new != old:  # the next renewal repeats this one
                self._later(*command)
            raise

    def _later(self, *command: Any) -> None:
        _, _, _, key, old, *_ = command
        self._late[key, old] = asyncio.get_running_loop().time() + _LATEST, command
        if self._catching_up is None:
            self._catching_up = in_background(self._catch_up())

    async def _catch_up(self) -> None:
        """Repeat each replacement that a failover prevented, until its claim expires."""
        loop = asyncio.get_running_loop()
        try:
            while self._late:
                await asyncio.sleep(1)
                for place, (expires_at, command) in list(self._late.items()):
                    if loop.time() > expires_at:
                        del self._late[place]
                        continue
                    with suppress(StorageLostError):
                        await self._repeat(*command)
        finally:
            self._late.clear()
            self._catching_up = None

    async def _repeat(self, *command: Any) -> None:
        _, _, _, key, old, new, _ = command
        replaced = await self._responses.ask(*command)
        self._late.pop((key, old), None)
        if new and not replaced:
            warn_of_second_run(key)
