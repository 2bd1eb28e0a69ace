"""Fixtures for your tests. This file is yours."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from app.main import app


@pytest.fixture
def client() -> Iterator[TestClient]:
    # The host check refuses the client's own default name, `testserver`.
    with TestClient(app, base_url="http://localhost") as client:
        yield client
