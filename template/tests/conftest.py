"""Fixtures for your tests. This file is yours."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import pytest
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketTestSession

from app.main import create_app


class Client(TestClient):
    """Call the service `localhost`: the host check refuses `testserver`."""

    # Starlette leaves `base_url` out here.
    def websocket_connect(
        self,
        url: str,
        *args: Any,
        **kwargs: Any,
    ) -> WebSocketTestSession:
        address = urljoin("ws://localhost", url)
        return super().websocket_connect(address, *args, **kwargs)


@pytest.fixture
def client(credentials: dict[str, str]) -> Iterator[TestClient]:
    # An app for each test: no limit counts what another one sent.
    app = create_app()
    with Client(app, base_url="http://localhost", headers=credentials) as client:
        yield client
