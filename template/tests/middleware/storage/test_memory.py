"""Memory storage: exact, and bounded whatever clients do."""

import asyncio
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from app.middleware.storage import memory
from app.middleware.storage.memory import MemoryStorage, StorageUrl


class Clock:
    """A time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(memory, "monotonic", clock)
    return clock


def test_a_window_begins_with_the_first_request_and_ends(clock: Clock) -> None:
    storage = MemoryStorage()

    async def count() -> tuple[int, float]:
        return await storage.increment("a", 60)

    async def scenario() -> list[tuple[int, float]]:
        seen = [await count()]
        clock.now += 59
        seen.append(await count())
        clock.now += 1
        return [*seen, await count()]

    assert asyncio.run(scenario()) == [(1, 60.0), (2, 1.0), (1, 60.0)]


def test_counts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest gives way, so that a new client is counted for sure."""
    monkeypatch.setattr(memory, "_MOST_COUNTS", 10)
    storage = MemoryStorage()

    async def scenario() -> list[int]:
        for number in range(1000):
            await storage.increment(str(number), 60)
        newest, _ = await storage.increment("999", 60)
        oldest, _ = await storage.increment("0", 60)
        return [newest, oldest]

    assert asyncio.run(scenario()) == [2, 1]
    assert [len(counts) for counts in storage.counts.values()] == [10]


def test_ended_windows_go(clock: Clock) -> None:
    storage = MemoryStorage()

    async def scenario() -> None:
        for number in range(1000):
            await storage.increment(str(number), 60)
        clock.now += 61
        for number in range(1000, 1600):
            await storage.increment(str(number), 60)

    asyncio.run(scenario())

    assert [len(counts) for counts in storage.counts.values()] == [600]


def test_a_client_that_comes_again_keeps_no_others_alive(clock: Clock) -> None:
    """What is put in first has to be what ends first, or the clean-up stops there."""
    storage = MemoryStorage()

    async def scenario() -> None:
        for number in range(10):
            await storage.increment(str(number), 60)
        clock.now += 61
        await storage.increment("5", 60)
        for number in range(10, 20):
            await storage.increment(str(number), 60)

    asyncio.run(scenario())

    assert [len(counts) for counts in storage.counts.values()] == [11]


def test_a_place_is_claimed_once_and_replaced_by_its_owner(clock: Clock) -> None:
    storage = MemoryStorage()

    async def scenario() -> list[object]:
        return [
            await storage.claim("place", b"mine", 60),
            await storage.claim("place", b"yours", 60),
            await storage.replace("place", b"yours", b"answer", 60),
            await storage.replace("place", b"mine", b"answer", 60),
            await storage.claim("place", b"yours", 60),
            await storage.replace("place", b"answer", None, 60),
            await storage.claim("place", b"yours", 60),
        ]

    assert asyncio.run(scenario()) == [None, b"mine", False, True, b"answer", True, None]
    assert clock.now == 1000


def test_a_claim_and_an_answer_end(clock: Clock) -> None:
    storage = MemoryStorage()

    async def scenario() -> list[object]:
        await storage.claim("place", b"mine", 60)
        clock.now += 61
        seen: list[object] = [await storage.claim("place", b"yours", 60)]
        seen.append(await storage.replace("place", b"mine", b"answer", 60))
        await storage.replace("place", b"yours", b"answer", 60)
        clock.now += 61
        return [*seen, await storage.claim("place", b"theirs", 60)]

    assert asyncio.run(scenario()) == [None, False, None]


def test_what_ended_early_is_stored_again(clock: Clock) -> None:
    """A claim, where the process hung for longer than its lease, and its response."""
    storage = MemoryStorage()

    async def scenario() -> list[object]:
        await storage.claim("place", b"mine", 60)
        clock.now += 61
        seen: list[object] = [await storage.replace("place", b"mine", b"mine", 60)]
        seen.append(await storage.claim("place", b"yours", 60))
        clock.now += 61
        seen.append(await storage.replace("place", b"mine", b"answer", 60))
        return [*seen, await storage.claim("place", b"yours", 60)]

    assert asyncio.run(scenario()) == [True, b"mine", True, b"answer"]


def test_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_MOST_BYTES", 100_000)
    storage = MemoryStorage()

    async def scenario() -> None:
        for number in range(1000):
            await storage.claim(str(number), b"mine", 60)
            await storage.replace(str(number), b"mine", b"x" * 1000, 60)

    asyncio.run(scenario())

    kept = sum(sys.getsizeof(value) for value, _ in storage.answers.values())
    assert 50_000 < kept < 100_000
    assert "999" in storage.answers


def test_a_claim_is_not_dropped_for_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request runs: the next one would run beside it."""
    monkeypatch.setattr(memory, "_MOST_BYTES", 100_000)
    storage = MemoryStorage()

    async def scenario() -> bytes | None:
        await storage.claim("running", b"mine", 60)
        await storage.replace("running", b"mine", b"mine", 60)
        for number in range(1000):
            await storage.claim(str(number), b"theirs", 60)
            await storage.replace(str(number), b"theirs", b"x" * 1000, 60)
        return await storage.claim("running", b"other", 60)

    assert asyncio.run(scenario()) == b"mine"


def test_answers_that_ended_go(clock: Clock) -> None:
    storage = MemoryStorage()

    async def scenario() -> None:
        for number in range(100):
            await storage.claim(str(number), b"mine", 60)
        clock.now += 61
        for number in range(100, 200):
            await storage.claim(str(number), b"mine", 60)

    asyncio.run(scenario())

    assert len(storage.claims) == 100


@pytest.mark.parametrize("url", ["redis://localhost", "memory", ""])
def test_another_storage_is_refused_at_start(url: str) -> None:
    """A service that was made without Redis must not seem to use it."""
    with pytest.raises(ValidationError, match="must be memory://"):
        TypeAdapter(StorageUrl).validate_python(url)
