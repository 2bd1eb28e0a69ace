"""Redis storage: exact for all workers, and under keys that end by themselves."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from pydantic import SecretStr

from app.middleware.storage import redis, redis_clients, redis_connection
from app.middleware.storage.base import StorageLostError
from app.middleware.storage.redis import RedisStorage

from .redis_server import RedisServer, fresh_url

T = TypeVar("T")


def using(scenario: Callable[[RedisStorage, RedisStorage], Awaitable[T]]) -> T:
    """Run `scenario` with the storages of two workers."""

    async def run() -> T:
        url = SecretStr(fresh_url())
        one, other = RedisStorage(url), RedisStorage(url)
        try:
            return await scenario(one, other)
        finally:
            await one.close()
            await other.close()

    return asyncio.run(run())


def test_workers_count_together() -> None:
    async def scenario(one: RedisStorage, other: RedisStorage) -> list[int]:
        asked = [storage.increment("a", 60) for storage in (one, other) for _ in range(150)]
        return sorted([count for count, _ in await asyncio.gather(*asked)])

    assert using(scenario) == list(range(1, 301))


def test_any_text_is_a_key() -> None:
    """A lone surrogate can't be sent as UTF-8, and the storage must not pass for lost."""

    async def scenario(one: RedisStorage, other: RedisStorage) -> list[int]:
        return [(await storage.increment("\ud800", 60))[0] for storage in (one, other)]

    assert using(scenario) == [1, 2]


def test_a_window_begins_with_the_first_request() -> None:
    async def scenario(one: RedisStorage, other: RedisStorage) -> list[float]:
        first = await one.increment("a", 60)
        await asyncio.sleep(0.05)
        second = await other.increment("a", 60)
        return [first[1], second[1]]

    first, second = using(scenario)

    # A millisecond may pass within Redis itself.
    assert 59.9 < first <= 60
    assert 50 < second <= first - 0.04


@pytest.mark.parametrize("expiry", ["", "EX 3600"])
def test_a_window_is_no_longer_than_its_period(expiry: str) -> None:
    """After a deployment with a shorter one, clients would get 429 for the rest of the old one."""

    async def scenario(server: RedisServer) -> tuple[int, float]:
        storage = RedisStorage(SecretStr(server.url))
        try:
            return await storage.increment("a", 60)
        finally:
            await storage.close()

    with RedisServer() as server:
        server.ask(f"SET a 100 {expiry}")
        count, seconds = asyncio.run(scenario(server))

    assert count == 1
    assert seconds <= 60


def test_a_place_is_claimed_once_and_replaced_by_its_owner() -> None:
    async def scenario(one: RedisStorage, other: RedisStorage) -> list[object]:
        return [
            await one.claim("place", b"mine", 60),
            await other.claim("place", b"yours", 60),
            await other.replace("place", b"yours", b"answer", 60),
            await one.replace("place", b"mine", b"\x00answer\r\n", 60),
            await other.claim("place", b"yours", 60),
            await one.replace("place", b"\x00answer\r\n", None, 60),
            await other.claim("place", b"yours", 60),
        ]

    expected = [None, b"mine", False, True, b"\x00answer\r\n", True, None]
    assert using(scenario) == expected


def test_what_a_restart_lost_is_stored_again() -> None:
    """Of a claim, by its renewal; of a response, at its end, and once more if no reply came."""

    async def scenario(one: RedisStorage, other: RedisStorage) -> list[object]:
        return [
            await one.replace("place", b"mine", b"mine", 60),
            await other.claim("place", b"yours", 60),
            await one.replace("lost", b"mine", b"answer", 60),
            await one.replace("lost", b"mine", b"answer", 60),
            await other.claim("lost", b"yours", 60),
            await one.replace("freed", b"mine", None, 60),
            await other.claim("freed", b"yours", 60),
            await one.replace("freed", b"mine", b"answer", 60),
        ]

    expected = [True, b"mine", True, True, b"answer", True, None, False]
    assert using(scenario) == expected


def test_a_request_that_ran_twice_while_redis_was_lost_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its response is stored late, where a retry was faster."""
    monkeypatch.setattr(redis_connection, "_PAUSE", 0.02)

    async def scenario(server: RedisServer) -> None:
        one, other = (RedisStorage(SecretStr(server.url)) for _ in range(2))
        await one.open(claims=True)
        await one.claim("place", b"mine", 60)
        server.kill()
        with pytest.raises(StorageLostError):
            await one.replace("place", b"mine", b"answer", 60)
        server.start()
        await other.claim("place", b"yours", 60)
        for _ in range(500):
            await asyncio.sleep(0.02)
            if "a request ran twice" in caplog.text:
                break
        await one.close()
        await other.close()

    with RedisServer() as server:
        asyncio.run(scenario(server))

    assert "and a retry claimed place" in caplog.text


@contextmanager
def restricted(*rules: str) -> Generator[RedisServer]:
    """Yield a server at whose address `rules` of an ACL hold."""
    with RedisServer() as server:
        server.ask(f"ACL SETUSER app on nopass ~* +@all {' '.join(rules)}")
        server.url = server.url.replace("//", "//app:any@")
        yield server


async def refused(storage: RedisStorage) -> dict[str, set[bool]]:
    """Return for counts and for claims whether Redis refuses an operation of theirs."""

    async def fails(work: Awaitable[object]) -> bool:
        try:
            await work
        except StorageLostError:
            return True
        return False

    operations = [
        ("counts", storage.increment("limit:a", 60)),
        ("counts", storage.increment("limit:a", 60)),
        ("claims", storage.claim("answer:a", b"mine", 60)),
        ("claims", storage.claim("answer:a", b"mine", 60)),
        ("claims", storage.replace("answer:a", b"mine", b"mine", 60)),
        ("claims", storage.replace("answer:a", b"mine", None, 60)),
    ]
    found: dict[str, set[bool]] = {"counts": set(), "claims": set()}
    for kind, operation in operations:
        found[kind].add(await fails(operation))
    return found


@pytest.mark.parametrize("without", ["eval", "set", "incr", "pttl", "get", "del"])
def test_a_trial_needs_what_the_operations_need(without: str) -> None:
    """One that succeeded while they fail would call Redis back each second."""

    async def scenario(server: RedisServer) -> None:
        for claims in (False, True):
            storage, tried = (RedisStorage(SecretStr(server.url)) for _ in range(2))
            fails = (await refused(storage))["claims" if claims else "counts"]
            await tried.open(claims=claims)
            assert tried.is_up() == (True not in fails)
            await storage.close()
            await tried.close()

    with restricted(f"-{without}") as server:
        asyncio.run(scenario(server))


@pytest.mark.parametrize(("keys", "kind"), [("limit:*", "counts"), ("answer:*", "claims")])
def test_what_redis_refuses_takes_nothing_else_along(
    keys: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Clients that claim keys would switch the limits off for everybody."""

    async def scenario(server: RedisServer) -> dict[str, set[bool]]:
        storage = RedisStorage(SecretStr(server.url))
        await storage.open(claims=False)
        await storage.open(claims=True)
        found = await refused(storage)
        assert not storage.is_up()
        await storage.close()
        return found

    with restricted("resetkeys", f"~{keys}") as server:
        found = asyncio.run(scenario(server))

    assert [name for name in found if found[name] == {False}] == [kind]
    (record,) = caplog.records
    assert "NoPermissionError" in record.getMessage()


def test_only_what_is_needed_is_tried() -> None:
    """A service that only counts may have no permission for other keys."""

    async def scenario(server: RedisServer) -> bool:
        storage = RedisStorage(SecretStr(server.url))
        await storage.open(claims=False)
        up = storage.is_up()
        await storage.close()
        return up

    with restricted("resetkeys", "~limit:*") as server:
        assert asyncio.run(scenario(server))


def test_one_of_many_claims_wins() -> None:
    async def scenario(one: RedisStorage, other: RedisStorage) -> list[bytes | None]:
        claims = [
            storage.claim("place", f"{name}{number}".encode(), 60)
            for name, storage in (("one", one), ("other", other))
            for number in range(50)
        ]
        return await asyncio.gather(*claims)

    assert using(scenario).count(None) == 1


def test_it_is_up_until_redis_does_not_respond() -> None:
    async def scenario(server: RedisServer) -> list[bool]:
        storage = RedisStorage(SecretStr(server.url))
        await storage.increment("a", 60)
        seen = [storage.is_up()]
        server.kill()
        with suppress(StorageLostError):
            await storage.increment("a", 60)
        seen.append(storage.is_up())
        await storage.close()
        return seen

    with RedisServer() as server:
        assert asyncio.run(scenario(server)) == [True, False]


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


def trials(server: RedisServer) -> int:
    """Return how often replicas of `server` were to confirm something."""
    found = re.search(rb"cmdstat_wait:calls=(\d+)", server.ask("INFO commandstats"))
    return int(found[1]) if found else 0


@pytest.fixture
def master(monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """Return a server that is taken for the master that a Sentinel names."""

    def client(url: str) -> Any:
        named: Any = redis_clients.client(url)
        named.sentinel = SimpleNamespace(sentinels=[])
        return named

    monkeypatch.setattr(redis_connection, "client", client)
    monkeypatch.setattr(redis_connection, "_PAUSE", 0.02)
    monkeypatch.setattr(redis, "_RESPONSES_TIMEOUT", 5.0)
    with RedisServer() as server:
        server.ask("CONFIG SET repl-diskless-sync-delay 0")
        yield server


def test_without_a_replica_that_confirms_redis_is_lost_for_responses(
    master: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Or each claim would fail while everything says that Redis is up."""
    caplog.set_level("INFO")

    async def scenario(replica: RedisServer) -> None:
        storage = RedisStorage(SecretStr(master.url))
        await storage.open(claims=True)
        assert not storage.is_up(), "at the start"
        replica.ask(f"REPLICAOF 127.0.0.1 {master.port}")
        await until(storage.is_up)
        replica.kill()
        with pytest.raises(StorageLostError):
            await storage.claim("b", b"mine", 60)
        await until(lambda: not storage.is_up())
        before = trials(master)
        await until(lambda: trials(master) > before + 2)
        assert not storage.is_up()
        assert (await storage.increment("limit:a", 60))[0] == 1
        await storage.close()

    with RedisServer() as replica:
        asyncio.run(scenario(replica))

    first, back, *_, last = [record.getMessage() for record in caplog.records]
    for line in (first, last):
        assert line.startswith("the storage is lost for responses: ")
        assert line.endswith("no replica confirmed it")
    assert back.startswith("the storage is back for responses")


def test_what_is_late_is_repeated_until_its_claim_expires(
    master: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later it would come upon the claim of another request, and there could be ever more."""

    async def scenario(replica: RedisServer) -> None:
        storage = RedisStorage(SecretStr(master.url))
        await storage.open(claims=True)
        for seconds, key in ((-1, "early"), (60, "late")):
            monkeypatch.setattr(redis, "_LATEST", seconds)
            with pytest.raises(StorageLostError):
                await storage.replace(key, b"mine", b"answer", 60)
        replica.ask(f"REPLICAOF 127.0.0.1 {master.port}")
        await until(lambda: b"answer" in master.ask("GET late"))
        await storage.close()

    with RedisServer() as replica:
        asyncio.run(scenario(replica))

    assert b"answer" not in master.ask("GET early")
