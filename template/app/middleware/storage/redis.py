"""Redis storage: counts and answers that all workers share."""

from secrets import token_hex
from typing import Final

from pydantic import SecretStr

from .redis_connection import RedisConnection

# Scripts are atomic, and in them time stands still: no key ends between two commands.
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
_REPLACE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1])
else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
"""


class RedisStorage:
    """
    Keep counts and answers in Redis, under keys that end by themselves.

    Its operations raise `StorageLostError` while Redis doesn't answer. What Redis forgets, by
    its own `maxmemory` or at a restart, is forgotten here as well.
    """

    def __init__(self, url: SecretStr) -> None:
        # A key of this process alone: others may share the Redis, and the names in it.
        trial = ("EVAL", _INCREMENT, 1, f"limit:trial:{token_hex(16)}", 1000)
        self._connection = RedisConnection(url, trial=trial)

    async def open(self) -> None:
        await self._connection.open()

    async def close(self) -> None:
        await self._connection.close()

    async def increment(self, key: str, seconds: int) -> tuple[int, float]:
        count, milliseconds = await self._connection.ask("EVAL", _INCREMENT, 1, key, seconds * 1000)
        return count, milliseconds / 1000

    async def claim(self, key: str, value: bytes, seconds: int) -> bytes | None:
        found: bytes | None = await self._connection.ask(
            "EVAL", _CLAIM, 1, key, value, seconds * 1000
        )
        return found

    async def replace(self, key: str, old: bytes, new: bytes | None, seconds: int) -> bool:
        command = ("EVAL", _REPLACE, 1, key, old, new or b"", seconds * 1000)
        return bool(await self._connection.ask(*command))
