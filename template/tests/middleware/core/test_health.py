"""Health: checks run together, not for long, and not again for each who asks."""

import asyncio
from collections.abc import Coroutine
from contextvars import ContextVar
from functools import partial
from time import perf_counter, sleep
from typing import Any

import pytest

from app.middleware.core.health import Health


async def passing() -> None:
    """Pass."""


async def hanging() -> None:
    await asyncio.sleep(60)


async def hung() -> None:
    await asyncio.sleep(60)


def health(*checks: Any, timeout: float = 0.05, max_age: float = 0) -> Health:
    return Health(checks, timeout=timeout, max_age=max_age)


def run(*steps: Coroutine[Any, Any, Any]) -> list[Any]:
    async def one_by_one() -> list[Any]:
        return [await step for step in steps]

    return asyncio.run(one_by_one())


def test_checks_run_at_the_same_time() -> None:
    started_at = perf_counter()
    (failed,) = run(health(hanging, hung, passing, timeout=0.2).find_failed())

    assert failed == ("hanging", "hung")
    assert perf_counter() - started_at < 0.35


@pytest.mark.parametrize("result", [False, 0, "PONG"])
def test_a_check_passes_with_true_or_nothing(result: object) -> None:
    async def check() -> Any:
        return result

    assert run(health(check).find_failed()) == [("check",)]


def test_what_they_found_holds_for_a_moment() -> None:
    runs = []

    async def counted() -> None:
        runs.append(1)

    async def ask() -> None:
        kept = health(counted, max_age=0.1)
        for pause in (0, 0, 0.15):
            await asyncio.sleep(pause)
            await kept.find_failed()

    asyncio.run(ask())

    assert len(runs) == 2


def test_who_asks_and_leaves_ends_no_run() -> None:
    async def leave() -> tuple[str, ...]:
        kept = health(slowly, timeout=1, max_age=60)
        first = asyncio.ensure_future(kept.find_failed())
        await asyncio.sleep(0.01)
        second = asyncio.ensure_future(kept.find_failed())
        await asyncio.sleep(0.01)
        first.cancel()
        return await second

    async def slowly() -> None:
        await asyncio.sleep(0.05)

    assert asyncio.run(leave()) == ()


def test_a_check_that_blocks_the_loop_is_late() -> None:
    async def blocking() -> None:
        sleep(0.1)  # noqa: ASYNC251 - that is its fault

    assert asyncio.run(health(blocking).find_failed()) == ("blocking",)


def test_a_list_of_checks_is_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    checks: Any = passing
    with pytest.raises(SystemExit):
        Health(checks, timeout=1, max_age=1)

    assert "checks= takes a list" in capsys.readouterr().err


def test_a_check_that_does_not_end_is_not_started_again() -> None:
    runs = []
    release = asyncio.Event()

    async def stubborn() -> None:
        runs.append(1)
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async def ask() -> list[tuple[str, ...]]:
        kept = health(stubborn)
        found = [await kept.find_failed() for _ in range(3)]
        release.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return [*found, await kept.find_failed()]

    assert asyncio.run(ask()) == [("stubborn",)] * 3 + [()]
    assert len(runs) == 2


def test_a_change_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    works = iter([True, False, False, True, True, False])

    async def changing() -> bool:
        return next(works)

    async def ask() -> None:
        kept = health(changing)
        for _ in range(6):
            await kept.find_failed()

    with caplog.at_level("INFO"):
        asyncio.run(ask())

    assert [record.message for record in caplog.records] == [
        "a readiness check fails: changing",
        "a readiness check passes again: changing",
        "a readiness check fails: changing",
    ]
    assert caplog.records[0].__dict__["check"] == "changing"


def test_a_check_knows_nothing_of_the_probe() -> None:
    variable = ContextVar("variable", default="none")
    seen = []

    async def look() -> None:
        seen.append(variable.get())

    async def ask() -> None:
        variable.set("of a request")
        await health(look).find_failed()

    asyncio.run(ask())

    assert seen == ["none"]


def test_nothing_runs_on_after_the_end() -> None:
    async def leave() -> int:
        kept = health(hanging, timeout=30)
        asking = asyncio.ensure_future(kept.find_failed())
        await asyncio.sleep(0.01)
        await kept.close()
        await asyncio.wait({asking})
        return len(asyncio.all_tasks())

    assert asyncio.run(leave()) == 1


async def of_one(_: object) -> None: ...


async def of_two(_: object, __: object) -> bool:
    return False


class Database:
    async def passing(self) -> None: ...

    async def __call__(self) -> bool:
        return False


def test_a_check_is_what_can_be_awaited_without_arguments() -> None:
    """A failed one is named after the function, or after the class of an object."""
    checks = (partial(of_one, 1), partial(partial(of_two, 1), 2), Database())

    kept = health(*checks)

    assert run(kept.find_failed()) == [("of_two", "Database")]
    assert [*kept.checks] == ["of_one", "of_two", "Database"]


@pytest.mark.parametrize(
    ("checks", "sentence"),
    [
        (["database"], "checks= takes `async def` functions without arguments"),
        ([print], "not <built-in function print>"),
        ([hanging()], "not <coroutine object"),
        ([of_one], "<function of_one"),
        ([partial(of_one)], "functools.partial"),
        ([partial(print, "up")], "functools.partial"),
        ([lambda: True], "<lambda>"),
        ([passing, Database().passing], "two functions that are called passing"),
        ([partial(of_one, 1), partial(of_one, 2)], "two functions that are called of_one"),
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine")
def test_what_is_no_check_ends_the_start(
    checks: list[Any], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        health(*checks)

    assert sentence in capsys.readouterr().err
