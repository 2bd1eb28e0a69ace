"""Maintenance: while a file exists, requests get 503."""

from pathlib import Path
from unittest.mock import Mock

import pytest
from pydantic import ValidationError
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from app.middleware import Policy, innermost, outermost

from .asgi import WithoutDenial
from .conftest import WS, ProbeClient, stack_settings
from .refusals import Refusal

# A file that exists.
REFUSAL = Refusal(status=503, settings={"maintenance_file": __file__})


def test_a_file_switches_it_without_a_restart(probe_client: ProbeClient, tmp_path: Path) -> None:
    file = tmp_path / "maintenance"
    client = probe_client(maintenance_file=str(file))

    statuses = [client.get("/probe/ok").status_code]
    for _ in range(2):
        file.touch()
        statuses.append(client.get("/probe/ok").status_code)
        file.unlink()
        statuses.append(client.get("/probe/ok").status_code)

    assert statuses == [200, 503, 200, 503, 200]


class Begin:
    """Begins the maintenance while a request is under way."""

    def __init__(self, app: ASGIApp, *, file: Path) -> None:
        self.app = app
        self.file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.file.touch()
        await self.app(scope, receive, send)


def test_requests_under_way_are_not_cut(probe_client: ProbeClient, tmp_path: Path) -> None:
    file = tmp_path / "maintenance"
    own = [innermost(Middleware(Begin, file=file))]
    client = probe_client(own=own, maintenance_file=str(file))

    statuses = [client.get("/probe/ok").status_code for _ in range(2)]

    assert statuses == [200, 503]


def test_clients_are_told_when_to_come_back(probe_client: ProbeClient) -> None:
    client = probe_client(maintenance_file=__file__, maintenance_retry_after=7)

    response = client.get("/probe/ok")

    assert response.headers["retry-after"] == "7"
    assert response.headers["cache-control"] == "no-store"


def test_a_folder_of_that_name_counts_for_nothing(
    probe_client: ProbeClient, tmp_path: Path
) -> None:
    client = probe_client(maintenance_file=str(tmp_path / "maintenance"))
    (tmp_path / "maintenance").mkdir()

    assert client.get("/probe/ok").status_code == 200


def test_the_path_is_relative_to_where_the_server_was_started(
    probe_client: ProbeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "maintenance").touch()
    monkeypatch.chdir(tmp_path)
    client = probe_client()
    monkeypatch.chdir("/")

    assert client.get("/probe/ok").status_code == 503


def test_a_probe_is_served(probe_client: ProbeClient) -> None:
    """An orchestrator would restart what is only being maintained."""
    client = probe_client(maintenance_file=__file__, probe_paths=["/probe/ok"])

    assert client.get("/probe/ok").status_code == 200


def test_a_websocket_is_closed_with_1013_where_it_can_not_be_answered(
    probe_client: ProbeClient,
) -> None:
    own = [outermost(Middleware(WithoutDenial))]
    client = probe_client(own=own, maintenance_file=__file__)

    with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect(WS):
        pass

    assert closed.value.code == 1013


def test_an_open_websocket_lives_on(probe_client: ProbeClient, tmp_path: Path) -> None:
    file = tmp_path / "maintenance"

    with probe_client(maintenance_file=str(file)).websocket_connect(WS) as websocket:
        file.touch()
        websocket.send_text("hi")

        assert websocket.receive_text() == "hi"


@pytest.mark.parametrize("name", [f"{__file__}/on", "x" * 300, "locked/on"])
def test_a_place_where_nothing_can_be_seen_is_refused_at_start(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service would never be in maintenance."""
    if name.startswith("locked"):  # since nothing is locked for root
        monkeypatch.setattr(Path, "stat", Mock(side_effect=PermissionError(13, "denied")))

    with pytest.raises(ValidationError, match="nothing can be seen there"):
        stack_settings(maintenance_file=name)


def test_no_file_at_all_is_refused_at_start() -> None:
    with pytest.raises(ValidationError, match="must not be empty"):
        stack_settings(maintenance_file="")


def test_a_route_is_served_meanwhile(probe_client: ProbeClient, tmp_path: Path) -> None:
    file = tmp_path / "maintenance"
    file.touch()
    routes = {"GET /probe/ok": Policy(maintenance=False)}
    client = probe_client(maintenance_file=str(file), routes=routes)

    assert client.get("/probe/ok").status_code == 200
    assert client.get("/probe/state").status_code == 503
