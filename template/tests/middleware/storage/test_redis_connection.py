"""The connection to Redis: lost, hung and back, and nobody waits for it for long."""

import asyncio
import logging
import math
import re
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar

import pytest
from pydantic import SecretStr, ValidationError

from app.middleware.storage import redis, redis_connection
from app.middleware.storage.base import StorageLostError
from app.middleware.storage.redis import RedisStorage
from app.middleware.storage.redis_connection import RedisConnection
from tests.middleware.conftest import stack_settings

from .redis_server import RedisServer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """Return a server to kill, and let trials follow each other fast."""
    monkeypatch.setattr(redis_connection, "_PAUSE", 0.02)
    with RedisServer() as server:
        yield server


@asynccontextmanager
async def connected(server: RedisServer) -> AsyncGenerator[RedisConnection]:
    trial = [("SET", "trial", "1")]
    url = SecretStr(server.url)
    connection = RedisConnection(url, purpose="counts", trial=trial, most=500, seconds=0.1)
    await connection.open()
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def held_network(server: RedisServer) -> AsyncGenerator[tuple[str, asyncio.Event]]:
    """Yield an address of `server`, and what lets its long replies through."""
    opened = asyncio.Event()

    async def carry(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: float = math.inf
    ) -> None:
        while chunk := await reader.read(65536):
            if len(chunk) > most:
                await opened.wait()
            writer.write(chunk)
            await writer.drain()
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection("127.0.0.1", server.port)
        with suppress(OSError):
            await asyncio.gather(carry(reader, here), carry(there, writer, 1000))

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as listening:
        try:
            port = listening.sockets[0].getsockname()[1]
            yield f"redis://127.0.0.1:{port}?socket_timeout=30", opened
        finally:
            opened.set()


async def is_lost(connection: RedisConnection) -> bool:
    try:
        await connection.ask("PING")
    except StorageLostError:
        return True
    return False


async def comes_back(connection: RedisConnection) -> bool:
    ends_at = time.monotonic() + 5
    while lost := await is_lost(connection):
        if time.monotonic() > ends_at:
            break
        await asyncio.sleep(0.01)
    return not lost


def connections(server: RedisServer) -> int:
    """Return how many there were since the server started."""
    _, _, rest = server.ask("INFO stats").partition(b"total_connections_received:")
    return int(rest.split()[0])


def calls_of_get(server: RedisServer) -> int:
    found = re.search(rb"cmdstat_get:calls=(\d+)", server.ask("INFO commandstats"))
    return int(found[1]) if found else 0


def incidents(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the messages without their details."""
    lines = [record.message for record in caplog.records if "storage" in record.message]
    return [re.split(":| after", line)[0] for line in lines]


def test_many_commands_share_an_exchange(server: RedisServer) -> None:
    async def scenario() -> list[object]:
        async with connected(server) as connection:
            asked = [connection.ask("INCR", "a") for _ in range(1200)]
            answers: list[object] = await asyncio.gather(*asked)
            return answers

    before = connections(server)

    assert asyncio.run(scenario()) == list(range(1, 1201))
    assert connections(server) - before == 2  # ours, and that of the question


def test_many_bytes_on_the_way_are_no_lost_redis(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No count waits for stored responses, and few of these share an exchange."""
    monkeypatch.setattr(redis, "_COUNTS_TIMEOUT", 5.0)
    monkeypatch.setattr(redis, "_RESPONSES_TIMEOUT", 30.0)
    most = 256 * 1024

    async def scenario() -> tuple[bool, list[int]]:
        async with held_network(server) as (url, opened):
            storage = RedisStorage(SecretStr(url))
            asked = (storage.claim("answer", b"mine", 60) for _ in range(60))
            replays = [asyncio.create_task(it) for it in asked]
            calls = 0
            for _ in range(500):
                if calls := calls_of_get(server):
                    break
                await asyncio.sleep(0.01)
            await storage.increment("a", 60)
            waits = not any(replay.done() for replay in replays)
            opened.set()
            answers = await asyncio.gather(*replays)
            await storage.close()
            return waits, [calls, *(len(answer or b"") for answer in answers)]

    server.ask(f"SETRANGE answer {most - 1} x")

    assert asyncio.run(scenario()) == (True, [10, *[most] * 60])


def test_a_killed_redis_is_lost_at_once_and_comes_back(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> list[bool]:
        async with connected(server) as connection:
            server.kill()
            lost = [await is_lost(connection) for _ in range(100)]
            server.start()
            return [all(lost), await comes_back(connection)]

    caplog.set_level(logging.INFO)

    assert asyncio.run(scenario()) == [True, True]
    assert incidents(caplog) == ["the storage is lost for counts", "the storage is back for counts"]


def test_the_line_has_the_reason(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Without the log layer nothing prints its field."""

    async def scenario() -> None:
        async with connected(server) as connection:
            server.kill()
            await is_lost(connection)

    asyncio.run(scenario())

    (record,) = caplog.records
    reason = vars(record)["reason"]
    assert "Error" in reason
    assert record.getMessage() == f"the storage is lost for counts: {reason}"


def test_a_redis_that_is_back_is_known_before_anybody_asks(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> bool:
        async with connected(server) as connection:
            server.kill()
            await is_lost(connection)
            server.start()
            for _ in range(500):
                await asyncio.sleep(0.01)
                if len(incidents(caplog)) > 1:
                    break
            return await is_lost(connection)

    caplog.set_level(logging.INFO)

    assert asyncio.run(scenario()) is False


def test_a_redis_that_stays_lost_is_told_again(
    server: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit that is off for weeks must not be one line of weeks ago."""
    monkeypatch.setattr(redis_connection, "_BETWEEN_LINES", 0.1)

    async def scenario() -> None:
        server.kill()
        async with connected(server):
            await asyncio.sleep(0.5)

    asyncio.run(scenario())

    # Trials follow each other every 20 ms, lines every 100 ms.
    assert 2 <= len(incidents(caplog)) <= 6


def test_its_lines_are_those_of_no_request(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """They would have the ID of the first request."""
    request_id: ContextVar[str] = ContextVar("request_id", default="")
    seen: list[str] = []

    def note(_: logging.LogRecord) -> bool:
        seen.append(request_id.get())
        return True

    async def scenario() -> None:
        async with connected(server) as connection:
            request_id.set("of a request")
            server.kill()
            await is_lost(connection)
            server.start()
            await comes_back(connection)

    caplog.set_level(logging.INFO)
    caplog.handler.addFilter(note)
    asyncio.run(scenario())

    assert seen == ["", ""]


def test_a_hung_redis_is_waited_for_once(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> tuple[list[bool], float, float, bool]:
        async with connected(server) as connection:
            server.hang()
            started_at = time.monotonic()
            waiting = await asyncio.gather(*(is_lost(connection) for _ in range(100)))
            waited = time.monotonic() - started_at
            started_at = time.monotonic()
            later = [await is_lost(connection) for _ in range(100)]
            told_at_once = time.monotonic() - started_at
            server.go_on()
            back = await comes_back(connection)
            return [*waiting, *later], waited, told_at_once, back

    caplog.set_level(logging.INFO)
    lost, waited, told_at_once, back = asyncio.run(scenario())

    assert all(lost)
    assert back
    # Far above what it takes, for machines that are busy; without the limit it were for ever.
    assert waited < 1
    assert told_at_once < 1
    assert incidents(caplog) == ["the storage is lost for counts", "the storage is back for counts"]


def test_a_late_loop_is_no_lost_redis(server: RedisServer) -> None:
    """The answer is there long since; it's the process that was busy."""

    async def scenario() -> bool:
        async with connected(server) as connection:
            asked = asyncio.create_task(is_lost(connection))
            for _ in range(3):
                await asyncio.sleep(0)
                time.sleep(0.06)  # noqa: ASYNC251 - a loop that is held up is what this is about
            return await asked

    assert asyncio.run(scenario()) is False


def test_a_dropped_connection_is_no_incident(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Servers and balancers drop idle connections."""

    async def scenario() -> bool:
        async with connected(server) as connection:
            server.ask("CLIENT KILL TYPE normal SKIPME yes")
            await asyncio.sleep(0.05)
            return await is_lost(connection)

    assert asyncio.run(scenario()) is False
    assert incidents(caplog) == []


def test_a_redis_that_can_not_write_is_lost(server: RedisServer) -> None:
    async def scenario() -> list[bool]:
        async with connected(server) as connection:
            server.ask("REPLICAOF 127.0.0.1 1")
            with pytest.raises(StorageLostError):
                await connection.ask("SET", "a", "1")
            await asyncio.sleep(0.1)
            lost = await is_lost(connection)
            server.ask("REPLICAOF NO ONE")
            return [lost, await comes_back(connection)]

    assert asyncio.run(scenario()) == [True, True]


def test_a_command_that_redis_refuses_fails_alone(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """As that of a key of another type; its line is one a minute."""
    increment = ("EVAL", "return redis.call('INCR', KEYS[1])", 1)

    async def scenario() -> list[object]:
        async with connected(server) as connection:
            asked = [connection.ask(*increment, key) for key in ("a", "text", "a", "text")]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            return [await is_lost(connection), *answers]  # after the trial

    server.ask("SET text x")
    lost, *answers = asyncio.run(scenario())

    assert lost is False
    assert answers[::2] == [1, 2]
    assert {*map(type, answers[1::2])} == {StorageLostError}
    assert incidents(caplog) == ["the storage failed for text"]


def test_a_service_starts_without_redis(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> list[bool]:
        server.kill()
        async with connected(server) as connection:
            lost = await is_lost(connection)
            server.start()
            return [lost, await comes_back(connection)]

    caplog.set_level(logging.INFO)

    assert asyncio.run(scenario()) == [True, True]
    assert incidents(caplog) == ["the storage is lost for counts", "the storage is back for counts"]


def test_its_end_leaves_nothing_open(server: RedisServer) -> None:
    """Warnings are errors here; a request that still waits fails."""

    async def scenario() -> bool:
        async with connected(server) as connection:
            server.hang()
            waiting = asyncio.create_task(is_lost(connection))
            await asyncio.sleep(0.01)
        return await waiting

    assert asyncio.run(scenario()) is True


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memory://",
        "localhost:6379",
        "http://hunter2@redis",
        "redis://:hunter2@host:port",
        "redis://:hunter2@localhost/?unknown=1",
        "redis://:hunter2@localhost/db",
        "redis://",
    ],
)
def test_nonsense_is_refused_without_the_password(url: str) -> None:
    rule = "must (be the address of a Redis|not have the option unknown)"
    with pytest.raises(ValidationError, match=rule) as error:
        stack_settings(storage_url=url)

    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("password", ["a<b>c", "{hunter2}!", "$HUNTER-2", "x${HUNTER2}"])
def test_a_password_that_looks_odd_is_one(password: str) -> None:
    stack_settings(storage_url=f"redis://:{password}@localhost:6379/0")
