"""Storage: opened and closed with the service; doubles of it for the tests of the layers."""

import asyncio
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx2 import ASGITransport, AsyncClient, Response

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


def ask_at_once(
    client: TestClient, *requests: dict[str, Any], host: str = "192.0.2.1"
) -> list[Response]:
    """Send all `requests` at the same time, in the loop where the service of `client` runs."""

    async def ask() -> list[Response]:
        transport = ASGITransport(app=client.app, client=(host, 50000), raise_app_exceptions=False)
        async with AsyncClient(transport=transport, base_url=client.base_url) as peer:
            return await asyncio.gather(*(peer.request(**request) for request in requests))

    assert client.portal is not None
    return client.portal.call(ask)


def test_it_is_opened_and_closed_with_the_service(probe_app: ProbeApp) -> None:
    storage = LostStorage()

    with TestClient(with_storage(probe_app(), storage)):
        assert set(storage.events) == {"open"}

    assert set(storage.events) == {"open", "close"}


def test_services_do_not_share_keys() -> None:
    """Two services may count in one Redis."""
    orders, bills = FastAPI(title="Orders"), FastAPI(title="Bills")

    assert namespace({"app": orders}) != namespace({"app": bills})
