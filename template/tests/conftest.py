"""Fixtures for your tests. This file is yours."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from app.main import create_app


@pytest.fixture
def client(credentials: dict[str, str]) -> Iterator[TestClient]:
    # An app for each test: no limit counts what another one sent. The host check
    # refuses the client's own default name, `testserver`.
    app = create_app()
    with TestClient(app, base_url="http://localhost", headers=credentials) as client:
        yield client
