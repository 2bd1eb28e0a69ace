"""How each layer rejects, declared in its test module and used by `test_refusals.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi.testclient import TestClient
from httpx2 import Response

ORIGIN = "https://app.example"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """
    How to make a layer refuse: `REFUSAL` in the test module of each layer that does.

    `prepare` runs first, for instance to spend a quota. `websocket` says whether a handshake
    for `/probe/ws` with the same headers is refused too.
    """

    status: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    method: str = "GET"
    path: str = "/probe/ok"
    headers: Mapping[str, str] = field(default_factory=dict)
    request: Mapping[str, Any] = field(default_factory=dict)
    base_url: str = "http://localhost"
    client_host: str = "127.0.0.1"
    prepare: Callable[[TestClient], object] | None = None
    websocket: bool = True


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of a request: `decorated(answer)` in the test module of a decorating layer."""

    response: Response
    lines: list[dict[str, Any]]
    client: TestClient
