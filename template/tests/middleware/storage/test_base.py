"""Storage: opened and closed with the service; doubles of it for the tests of the layers."""

from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.middleware.storage.base import StorageLostError, namespace
from tests.middleware.conftest import ProbeApp


class LostStorage:
    """A storage that doesn't answer, and knows when it was opened and closed."""

    def __init__(self) -> None:
        self.events: list[str] = []

    async def open(self) -> None:
        self.events.append("open")

    async def close(self) -> None:
        self.events.append("close")

    async def increment(self, *_: object) -> tuple[int, float]:
        raise StorageLostError

    async def claim(self, *_: object) -> bytes | None:
        raise StorageLostError

    async def replace(self, *_: object) -> bool:
        raise StorageLostError


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
