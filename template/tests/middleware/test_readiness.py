"""Readiness: a probe of its own says whether load balancers are to send requests here."""

import asyncio
import re
from pathlib import Path
from typing import Any, Final

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import ValidationError

from app.middleware.core.check import faults
from app.middleware.core.health import Check
from app.middleware.core.layer import layers_from
from app.middleware.order import LAYERS
from app.middleware.readiness import Readiness, ReadinessMiddleware

from .asgi import Dialogue, ask_at_once
from .conftest import WS, LogLines, ProbeApp, ProbeClient, stack_settings

PROBE: Final = {"method": "GET", "url": "/readyz"}


async def cache_is_up() -> None:
    """Pass."""


async def queue_is_up() -> bool:
    """Pass, in the other way."""
    return True


async def database_is_up() -> None:
    msg = "no route to db-7.internal for user onion"
    raise ConnectionError(msg)


async def disk_is_empty() -> bool:
    return False


def readiness_of(app: Any) -> Readiness:
    """Return what the layer in the stack of `app` asks; it has started."""
    layers = layers_from(app.middleware_stack)
    return next(layer.readiness for layer in layers if isinstance(layer, ReadinessMiddleware))


def stop(client: TestClient) -> None:
    """Send the service of `client` the signal to stop."""
    readiness_of(client.app).shutdown.begin()


def test_it_is_200_without_checks(probe_client: ProbeClient) -> None:
    response = probe_client().get("/readyz")

    assert response.status_code == 200
    assert response.json() == {"status": "ready"}
    assert response.headers["cache-control"] == "no-store"


def test_it_is_200_while_all_checks_pass(probe_client: ProbeClient) -> None:
    assert probe_client(checks=[cache_is_up, queue_is_up]).get("/readyz").status_code == 200


def test_it_names_what_failed_and_nothing_else(
    probe_client: ProbeClient, log_lines: LogLines
) -> None:
    client = probe_client(checks=[cache_is_up, database_is_up, disk_is_empty])

    responses = [client.get("/readyz") for _ in range(2)]

    assert [response.status_code for response in responses] == [503, 503]
    assert responses[0].headers["content-type"] == "application/problem+json"
    assert responses[0].headers["cache-control"] == "no-store"
    problem = responses[0].json()
    assert problem["detail"] == "The service is not ready."
    assert problem["failed"] == ["database_is_up", "disk_is_empty"]
    assert "onion" not in responses[0].text
    if "access_log" in LAYERS:
        lines = {line["check"]: line for line in log_lines() if "check" in line}
        assert lines.keys() == {"database_is_up", "disk_is_empty"}
        assert "db-7.internal" in lines["database_is_up"]["exception"]


@pytest.mark.parametrize(("check", "status"), [(cache_is_up, 200), (disk_is_empty, 503)])
def test_head_is_told_the_same(check: Check, status: int, probe_client: ProbeClient) -> None:
    assert probe_client(checks=[check]).head("/readyz").status_code == status


def test_other_methods_find_nothing(probe_client: ProbeClient) -> None:
    assert probe_client().post("/readyz").status_code in {401, 404}


def test_the_path_can_be_another(probe_client: ProbeClient) -> None:
    client = probe_client(readiness_path="/ready", root_path="/api")

    assert client.get("/api/ready").status_code == 200
    assert client.get("/api/readyz").status_code == 404


def test_it_is_503_during_maintenance(probe_client: ProbeClient, tmp_path: Path) -> None:
    if "maintenance" not in LAYERS:
        pytest.skip("that layer responds with 503")
    file = tmp_path / "maintenance"
    client = probe_client(maintenance_file=str(file), probe_paths=["/probe/ok"])

    statuses = [client.get("/readyz").status_code]
    file.touch()
    statuses += [client.get("/readyz").status_code, client.get("/probe/ok").status_code]

    assert statuses == [200, 503, 200]


@pytest.mark.skipif("ip_filter" not in LAYERS, reason="that layer blocks")
def test_a_blocked_client_reads_nothing(probe_client: ProbeClient) -> None:
    client = probe_client(checks=[database_is_up], ip_deny=["192.0.2.1"], client_host="192.0.2.1")

    assert client.get("/readyz").status_code == 403


@pytest.mark.skipif("timeout" not in LAYERS, reason="that layer responds with 504")
def test_a_check_has_its_own_time_limit(probe_client: ProbeClient) -> None:
    async def slow() -> None:
        await asyncio.sleep(0.1)

    client = probe_client(checks=[slow], request_timeout=0.02)

    assert client.get("/readyz").status_code == 200


def test_no_gate_stands_in_the_way(probe_client: ProbeClient) -> None:
    """A prober comes by address, over http, without credentials, and often."""
    settings: dict[str, Any] = {
        "required_headers": {"required_headers": ["X-Tenant: 1"]},
        "rate_limit": {"rate_limit": "1/minute"},
        "concurrency": {"max_concurrency": 1, "queue_timeout": 0},
        "client_version": {"blocked_clients": ["kube-probe/"]},
    }
    given = {k: v for layer, some in settings.items() if layer in LAYERS for k, v in some.items()}
    client = probe_client(base_url="http://10.0.0.7:8000", **given)
    responses = [client.get("/readyz", headers={"User-Agent": "kube-probe/1"}) for _ in range(3)]

    assert [response.status_code for response in responses] == [200, 200, 200]


@pytest.mark.skipif("access_log" not in LAYERS, reason="that layer logs")
def test_the_access_log_has_no_line_of_it(
    probe_client: ProbeClient, tmp_path: Path, log_lines: LogLines
) -> None:
    settings = {"maintenance_file": str(tmp_path / "on")} if "maintenance" in LAYERS else {}
    client = probe_client(checks=[database_is_up], **settings)
    for _ in range(3):
        client.get("/readyz")
    (tmp_path / "on").touch()
    client.get("/readyz")

    assert [line for line in log_lines() if line["event"] == "request"] == []


@pytest.mark.skipif("metrics" not in LAYERS, reason="that layer counts")
def test_the_metrics_show_it(probe_client: ProbeClient) -> None:
    client = probe_client(checks=[database_is_up])
    before = client.get("/metrics").text
    client.get("/readyz")

    page = client.get("/metrics").text

    assert "service_ready 1.0" in before
    assert "service_ready 0.0" in page
    assert 'http_requests_total{method="GET",route="/readyz",status="503"} 1.0' in page
    assert 'http_refusals_total{layer="readiness",status="503"} 1.0' in page


def test_a_service_that_stops_goes_on_and_closes_connections(probe_client: ProbeClient) -> None:
    client = probe_client()
    before = client.get("/probe/ok")
    stop(client)

    response, probe = client.get("/probe/ok"), client.get("/readyz")

    assert (before.status_code, response.status_code) == (200, 200)
    assert "connection" not in before.headers
    assert response.headers["connection"] == "close"
    assert (probe.status_code, probe.json()["detail"]) == (503, "The service is stopping.")


@pytest.mark.parametrize(
    ("layer", "path", "headers"),
    [
        ("error_handler", "/probe/boom", {}),
        ("trusted_host", "/probe/ok", {"Host": "other.example"}),
        ("maintenance", "/probe/ok", {}),
        ("readiness", "/readyz", {}),
    ],
)
def test_a_layer_outside_that_responds_closes_connections_too(
    layer: str, path: str, headers: dict[str, str], probe_client: ProbeClient, tmp_path: Path
) -> None:
    if layer not in LAYERS:
        pytest.skip("that layer responds")
    (tmp_path / "on").touch()
    settings = {"maintenance_file": str(tmp_path / "on")} if layer == "maintenance" else {}
    client = probe_client(**settings)
    stop(client)

    response = client.get(path, headers=headers)

    assert response.status_code >= 400
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize(("version", "value"), [("1.0", "close"), ("1.1", "close"), ("2", None)])
def test_http_2_has_no_such_header(
    version: str, value: str | None, probe_client: ProbeClient
) -> None:
    client = probe_client()
    stop(client)
    dialogue = Dialogue("GET", "/probe/ok")
    dialogue.scope["http_version"] = version

    assert client.portal is not None
    client.portal.call(client.app, dialogue.scope, dialogue.receive, dialogue.send)

    assert dialogue.headers.get("connection") == value


def test_it_starts_again(probe_app: ProbeApp) -> None:
    """The lifespan has ended, which is a stop too, and begins anew."""
    app = probe_app()
    for _ in range(2):
        with TestClient(app, base_url="http://localhost") as client:
            assert client.get("/readyz").status_code == 200
        assert not readiness_of(app).ready


def test_a_websocket_passes(probe_client: ProbeClient) -> None:
    client = probe_client()
    stop(client)

    with client.websocket_connect(WS) as websocket:
        websocket.send_text("hi")
        assert websocket.receive_text() == "hi"


def test_probes_at_the_same_time_share_one_run(probe_client: ProbeClient) -> None:
    runs = []

    async def counted() -> None:
        runs.append(1)
        await asyncio.sleep(0.05)

    client = probe_client(checks=[counted], readiness_max_age=0)
    responses = ask_at_once(client, *[PROBE] * 20, host="127.0.0.1")

    assert {response.status_code for response in responses} == {200}
    assert len(runs) == 1


def test_a_route_of_that_path_ends_the_start(probe_app: ProbeApp) -> None:
    app = probe_app()

    @app.get("/readyz")
    async def readyz() -> None: ...

    fault = r"READINESS_PATH is also the path of a route \(/readyz\)"
    with pytest.raises(RuntimeError, match=fault), TestClient(app):
        pass
    assert [bool(re.match(fault, sentence)) for sentence in faults(app)] == [True]


def test_a_mount_of_that_path_ends_the_start(probe_app: ProbeApp) -> None:
    app = probe_app()
    app.mount("/readyz", FastAPI())

    assert [fault.partition(" (")[0] for fault in faults(app)] == [
        "READINESS_PATH is also the path of a route"
    ]


@pytest.mark.skipif("metrics" not in LAYERS, reason="no metrics")
def test_the_path_of_the_metrics_is_named_so(probe_app: ProbeApp) -> None:
    fault = "METRICS_PATH must not be the path of READINESS_PATH, /readyz"
    with pytest.raises(RuntimeError, match=fault), TestClient(probe_app(metrics_path="/readyz")):
        pass


def test_what_catches_every_path_is_no_such_route(probe_app: ProbeApp) -> None:
    app = probe_app()
    app.mount("/", FastAPI())

    with TestClient(app, base_url="http://localhost") as client:
        assert client.get("/readyz").json() == {"status": "ready"}


def test_openapi_has_no_such_path(probe_app: ProbeApp) -> None:
    assert "/readyz" not in probe_app().openapi()["paths"]


@pytest.mark.parametrize(
    "settings",
    [
        {"readiness_path": "readyz"},
        {"readiness_path": "/healthz"},
        {"readiness_timeout": 0},
        {"readiness_timeout": "nan"},
        {"readiness_max_age": -1},
        {"shutdown_delay": -1},
        {"shutdown_delay": "inf"},
    ],
)
def test_nonsense_is_refused_at_start(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        stack_settings(**settings)
