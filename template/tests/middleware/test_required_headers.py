"""Required headers: requests must carry what was agreed on."""

import json

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from app.middleware import Policy
from app.middleware.order import LAYERS

from .conftest import WS, ProbeApp, ProbeClient, stack_settings
from .refusals import ORIGIN, Refusal

REQUIRED = ["X-Environment: production", "X-Tenant: 7"]
REFUSAL = Refusal(
    status=400, settings={"required_headers": ["X-Environment: production"]}, websocket=False
)


@pytest.mark.parametrize(
    ("headers", "missing"),
    [
        ([("x-environment", "production"), ("X-TENANT", "7")], None),
        ([("X-Environment", "production")], "X-Tenant"),
        ([("X-Tenant", "7")], "X-Environment"),
        ([("X-Environment", "staging"), ("X-Tenant", "7")], "X-Environment"),
        ([("X-Environment", "Production"), ("X-Tenant", "7")], "X-Environment"),
        ([("X-Environment", "production, x"), ("X-Tenant", "7")], "X-Environment"),
        ([("X-Environment", ""), ("X-Tenant", "7")], "X-Environment"),
        (
            [("X-Environment", "production"), ("X-Environment", "staging"), ("X-Tenant", "7")],
            "X-Environment",
        ),
    ],
)
def test_each_header_must_be_there_once_with_its_value(
    headers: list[tuple[str, str]], missing: str | None, probe_client: ProbeClient
) -> None:
    response = probe_client(required_headers=REQUIRED).get("/probe/ok", headers=headers)

    assert response.status_code == (200 if missing is None else 400)
    assert missing is None or missing in response.json()["detail"]


def test_the_answer_never_names_the_value(probe_client: ProbeClient) -> None:
    response = probe_client(required_headers=REQUIRED).get("/probe/ok")

    assert "production" not in response.text


def test_openapi_names_what_a_request_needs(probe_app: ProbeApp) -> None:
    """Else a generated client couldn't send it; never the value."""
    routes = {"GET /probe/state": Policy(required_headers=False)}
    app = probe_app(required_headers=REQUIRED, probe_paths=["/openapi.json"], routes=routes)

    document = TestClient(app, base_url="http://localhost").get("/openapi.json")

    paths = document.json()["paths"]
    needed = [
        {"name": name, "in": "header", "schema": {"type": "string"}, "required": True}
        for name in ("X-Environment", "X-Tenant")
    ]
    assert paths["/probe/ok"]["get"]["parameters"] == needed
    assert "parameters" not in paths["/probe/state"]["get"]
    assert "production" not in document.text


def test_everything_passes_while_nothing_is_required(probe_client: ProbeClient) -> None:
    assert probe_client().get("/probe/ok").status_code == 200


def test_a_probe_passes(probe_client: ProbeClient) -> None:
    client = probe_client(required_headers=REQUIRED, probe_paths=["/probe/ok"])

    assert client.get("/probe/ok").status_code == 200
    assert client.get("/probe/sync").status_code == 400


@pytest.mark.parametrize(
    "path",
    ["healthz", "/m\nx", "/m\x7f", "/m\N{NO-BREAK SPACE}x", "/a b", "/a?b", "/{a}", "/hook/*"],
)
def test_a_probe_path_that_can_not_be_asked_for_is_refused_at_start(path: str) -> None:
    with pytest.raises(ValidationError, match="must be exact paths such as /healthz"):
        stack_settings(probe_paths=[path])


def test_a_websocket_passes(probe_client: ProbeClient) -> None:
    """A browser can't set headers on a handshake, so it could never come in."""
    with probe_client(required_headers=REQUIRED).websocket_connect(WS) as websocket:
        websocket.send_text("hi")

        assert websocket.receive_text() == "hi"


@pytest.mark.skipif("cors" not in LAYERS, reason="needs preflights")
def test_a_page_may_send_them(probe_client: ProbeClient) -> None:
    client = probe_client(required_headers=REQUIRED, cors_allow_origins=[ORIGIN])

    response = client.options(
        "/probe/items",
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "x-environment, x-tenant",
        },
    )

    assert response.status_code == 200
    assert "X-Environment" in response.headers["access-control-allow-headers"]
    assert "production" not in str(response.headers)


def test_a_value_may_hold_a_comma_in_json(probe_client: ProbeClient) -> None:
    client = probe_client(required_headers=json.dumps(["Accept-Language: de, en"]))

    assert client.get("/probe/ok", headers={"Accept-Language": "de, en"}).status_code == 200


def test_the_spaces_around_a_colon_are_free() -> None:
    settings = stack_settings(required_headers="X-Environment:production , X-Time:  12:30")

    assert settings.required_headers == ("X-Environment: production", "X-Time: 12:30")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("X-Environment", "must be headers such as"),
        ("X-Environment:", "must be headers such as"),
        (": production", "must be a header name"),
        ('[""]', "must be headers such as"),
        ("X Environment: production", "must be a header name"),
        ("X-Environment: prod\nuction", "must be printable ASCII"),
        ("X-Environment: 'production'", "write X-Environment: production"),
        ('{"X-Environment": ["production", "staging"]}', "must have one text for each header"),
        ("X-Environment: a,x-environment: b", "must name each header once"),
    ],
)
def test_nonsense_is_refused_at_start(value: str, sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        stack_settings(required_headers=value)


def test_a_route_asks_for_none(probe_client: ProbeClient) -> None:
    routes = {"GET /probe/ok": Policy(required_headers=False)}
    client = probe_client(required_headers=["X-Environment: test"], routes=routes)

    assert client.get("/probe/ok").status_code == 200
    assert client.get("/probe/state").status_code == 400
