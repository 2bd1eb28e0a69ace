"""Storage: opened and closed with the service; doubles of it for the tests of the layers."""

from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.middleware.core.check import faults
from app.middleware.storage.base import StorageLostError, namespace
from tests.middleware.conftest import ProbeApp


class LostStorage:
    """A storage that doesn't answer, and knows when it was opened and closed."""

    def __init__(self) -> None:
        self.events: list[str] = []

    async def open(self, **_: object) -> None:
        self.events.append("open")

    async def close(self) -> None:
        self.events.append("close")

    async def increment(self, *_: object) -> tuple[int, float]:
        raise StorageLostError

    async def claim(self, *_: object) -> bytes | None:
        raise StorageLostError

    async def replace(self, *_: object) -> bool:
        raise StorageLostError


class OwnStorage(LostStorage):
    """One that no other process sees."""

    def count(self, *_: object) -> tuple[int, float]:
        return 1, 1.0


def with_storage(app: FastAPI, storage: object) -> FastAPI:
    """Give the layers of `app` another storage."""
    layers: list[Any] = app.user_middleware
    for layer in layers:
        if "storage" in layer.kwargs:
            layer.kwargs["storage"] = storage
    return app


def test_it_is_opened_and_closed_with_the_service(probe_app: ProbeApp) -> None:
    storage = LostStorage()

    with TestClient(with_storage(probe_app(), storage)):
        assert set(storage.events) == {"open"}

    assert set(storage.events) == {"open", "close"}


def test_services_do_not_share_keys() -> None:
    """Two services may count in one Redis."""
    orders, bills = FastAPI(title="Orders"), FastAPI(title="Bills")

    assert namespace({"app": orders}) != namespace({"app": bills})


def test_apps_that_share_a_storage_have_titles_of_their_own(probe_app: ProbeApp) -> None:
    """A request would count twice, and one with an Idempotency-Key wait for itself."""
    app, mounted, other = (with_storage(probe_app(), LostStorage()) for _ in range(3))
    app.mount("/mounted", mounted)
    app.mount("/other", other)
    mounted.title = other.title = "Mounted"

    (fault,) = faults(app)
    other.title = fault.partition("title='")[2].removesuffix("').")

    assert fault.startswith("The app mounted at /other has the title 'Mounted' of another app")
    assert other.title == "Mounted /other"
    assert faults(app) == []


def test_apps_that_share_no_storage_may_have_one_title(probe_app: ProbeApp) -> None:
    app, mounted = (with_storage(probe_app(), OwnStorage()) for _ in range(2))
    app.mount("/mounted", mounted)

    assert faults(app) == []
