"""Rate limit: an address can send as many requests as its rate allows."""

import asyncio
import re
from importlib import import_module
from typing import Any, Final

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from pydantic import ValidationError
from starlette.middleware import Middleware
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from app.middleware import Policy, StackSettings, outermost
from app.middleware.order import LAYERS

from .asgi import WithoutDenial, ask_at_once
from .conftest import WS, ProbeApp, ProbeClient, stack_settings
from .refusals import ORIGIN, Refusal
from .storage.test_base import LostStorage, with_storage

# Layers that reject by the request and the settings alone.
STATIC_GATES: Final = [
    name
    for name in (
        "trusted_host",
        "https_redirect",
        "ip_filter",
        "maintenance",
        "client_version",
        "required_headers",
    )
    if name in LAYERS
]

REFUSAL = Refusal(
    status=429,
    settings={"rate_limit": "1/minute"},
    prepare=lambda client: client.get("/probe/ok"),
)


class HangingStorage(LostStorage):
    async def increment(self, *_: object) -> tuple[int, float]:
        await asyncio.sleep(2)
        return 1, 60.0


class FaultyStorage(LostStorage):
    async def increment(self, *_: object) -> tuple[int, float]:
        msg = "a fault in the storage"
        raise RuntimeError(msg)


def ask(client: TestClient, *, host: str = "192.0.2.1", path: str = "/probe/ok") -> Response:
    (response,) = ask_at_once(client, {"method": "GET", "url": path}, host=host)
    return response


def test_a_burst_is_admitted_exactly(probe_client: ProbeClient) -> None:
    client = probe_client(rate_limit="50/minute")

    responses = ask_at_once(client, *[{"method": "GET", "url": "/probe/ok"}] * 300)

    statuses = [response.status_code for response in responses]
    assert (statuses.count(200), statuses.count(429)) == (50, 250)


def test_each_answer_tells_what_is_left(probe_client: ProbeClient) -> None:
    response = ask(probe_client(rate_limit="100/minute"))

    assert response.status_code == 200
    assert response.headers.get_list("ratelimit") == ['"default";r=99;t=60']
    assert response.headers.get_list("ratelimit-policy") == ['"default";q=100;w=60']
    assert "retry-after" not in response.headers


def test_a_refusal_tells_when_to_come_back(probe_client: ProbeClient) -> None:
    client = probe_client(rate_limit="1/hour")
    ask(client)

    response = ask(client)

    assert response.status_code == 429
    assert 3590 <= int(response.headers["retry-after"]) <= 3600
    assert re.fullmatch(r'"default";r=0;t=3[56]\d\d', response.headers["ratelimit"])
    assert response.headers["cache-control"] == "no-store"
    assert response.json()["detail"].startswith("The limit is 1 request per hour. Retry in 3")


def test_what_an_endpoint_says_of_its_own_limit_is_kept(probe_client: ProbeClient) -> None:
    path = "/probe/headers?name=RateLimit&value=%22mine%22;r=1"

    response = ask(probe_client(rate_limit="100/minute"), path=path)

    assert response.headers.get_list("ratelimit") == ['"default";r=99;t=60, "mine";r=1']


@pytest.mark.parametrize("path", ["/nowhere", "/probe/items/x", "/probe/items/1", "/probe/ok"])
def test_every_request_counts(path: str, probe_client: ProbeClient) -> None:
    """Scanning for routes uses up the limit too."""
    client = probe_client(rate_limit="2/minute")
    ask(client, path=path)
    ask(client, path=path)

    assert ask(client).status_code == 429


def test_a_handshake_counts_and_is_told_what_is_left(probe_client: ProbeClient) -> None:
    client = probe_client(rate_limit="1/minute")
    with client.websocket_connect(WS) as websocket:
        websocket.send_text("hi")
        headers: Any = websocket.extra_headers

    with pytest.raises(WebSocketDenialResponse) as denial, client.websocket_connect(WS):
        pass

    assert dict(headers)[b"ratelimit"] == b'"default";r=0;t=60'
    assert denial.value.status_code == 429
    assert denial.value.headers["ratelimit"].startswith('"default";r=0;')
    assert int(denial.value.headers["retry-after"]) > 0
    assert client.get("/probe/ok").status_code == 429


def test_a_handshake_that_can_not_be_answered_is_closed_with_1013(
    probe_client: ProbeClient,
) -> None:
    client = probe_client(own=[outermost(Middleware(WithoutDenial))], rate_limit="1/minute")
    client.get("/probe/ok")

    with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect(WS):
        pass

    assert closed.value.code == 1013


def test_a_probe_neither_counts_nor_is_refused(probe_client: ProbeClient) -> None:
    client = probe_client(rate_limit="1/minute", probe_paths=["/probe/ok"])

    statuses = [ask(client).status_code for _ in range(3)]

    assert statuses == [200, 200, 200]
    assert ask(client, path="/probe/sync").status_code == 200
    assert ask(client).status_code == 200
    assert ask(client, path="/probe/sync").status_code == 429


@pytest.mark.skipif("cors" not in LAYERS, reason="preflights are answered by that layer")
def test_a_preflight_does_not_count(probe_client: ProbeClient) -> None:
    client = probe_client(rate_limit="1/minute", cors_allow_origins=[ORIGIN])
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}

    preflights = [client.options("/probe/ok", headers=headers).status_code for _ in range(3)]

    assert preflights == [200, 200, 200]
    assert client.get("/probe/ok").status_code == 200


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::2%eth1"),
        ("", "/run/socket"),
        ("", "\0"),
    ],
)
def test_one_client_is_limited_as_one(one: str, other: str, probe_client: ProbeClient) -> None:
    """A client with an IPv6 address has its whole /64 network."""
    client = probe_client(rate_limit="1/minute")
    ask(client, host=one)

    assert ask(client, host=other).status_code == 429


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("192.0.2.7", "192.0.2.8"),
        ("2001:db8:1:2::1", "2001:db8:1:3::1"),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.8"),
    ],
)
def test_clients_are_counted_apart(one: str, other: str, probe_client: ProbeClient) -> None:
    client = probe_client(rate_limit="1/minute")
    ask(client, host=one)

    assert ask(client, host=other).status_code == 200
    assert ask(client, host=one).status_code == 429


@pytest.mark.skipif("proxy_headers" not in LAYERS, reason="that layer reads the header")
def test_clients_behind_a_proxy_are_counted_apart(probe_client: ProbeClient) -> None:
    client = probe_client(
        rate_limit="1/minute", trusted_proxies=["10.0.0.1"], client_host="10.0.0.1"
    )

    statuses = [
        client.get("/probe/ok", headers={"X-Forwarded-For": address}).status_code
        for address in ("198.51.100.1", "198.51.100.2", "198.51.100.1")
    ]

    assert statuses == [200, 200, 429]


@pytest.mark.parametrize("gate", STATIC_GATES)
def test_a_static_refusal_spends_nothing(gate: str, probe_client: ProbeClient) -> None:
    """A client that can correct its request must get the real reason."""
    refusal: Refusal = import_module(f".test_{gate}", __package__).REFUSAL
    client = probe_client(
        base_url=refusal.base_url,
        client_host=refusal.client_host,
        rate_limit="1/minute",
        **refusal.settings,
    )

    responses = [
        client.request(
            refusal.method, refusal.path, headers=dict(refusal.headers), **refusal.request
        )
        for _ in range(3)
    ]

    assert [response.status_code for response in responses] == [refusal.status] * 3


@pytest.mark.skipif("authentication" not in LAYERS, reason="that layer refuses them")
def test_wrong_credentials_spend_the_budget(probe_client: ProbeClient) -> None:
    """Or they could be guessed without limit."""
    credentials = import_module(".users", __package__)
    client = probe_client(rate_limit="2/minute", **credentials.SETTINGS)

    statuses = [client.get("/probe/ok", headers=credentials.BAD).status_code for _ in range(3)]

    assert statuses == [401, 401, 429]


@pytest.mark.skipif("timeout" not in LAYERS, reason="that layer bounds it")
def test_a_storage_that_hangs_is_bounded(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    app = with_storage(probe_app(request_timeout=0.05), HangingStorage())

    assert probe_client(app=app).get("/probe/ok").status_code == 504


@pytest.mark.skipif("error_handler" not in LAYERS, reason="that layer gives it the shape")
def test_a_fault_in_counting_has_the_one_shape(
    probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    response = probe_client(app=with_storage(probe_app(), FaultyStorage())).get("/probe/ok")

    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"


def test_a_lost_storage_admits(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    """A service that can't count is better than none."""
    client = probe_client(app=with_storage(probe_app(rate_limit="1/minute"), LostStorage()))

    responses = [client.get("/probe/ok") for _ in range(3)]

    assert [response.status_code for response in responses] == [200, 200, 200]
    assert "ratelimit" not in responses[0].headers


@pytest.mark.skipif(
    "storage_on_error" not in StackSettings.model_fields, reason="memory is never lost"
)
def test_a_lost_storage_may_refuse(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    settings: dict[str, Any] = {"storage_on_error": "refuse"}
    client = probe_client(app=with_storage(probe_app(**settings), LostStorage()))

    response = client.get("/probe/ok")

    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["layer"] == "rate_limit"


def test_nonsense_is_refused_at_start() -> None:
    with pytest.raises(ValidationError, match="such as 100/minute"):
        stack_settings(rate_limit="100 per minute")


def test_a_route_has_a_count_of_its_own(probe_client: ProbeClient) -> None:
    routes = {"GET /probe/items/{item_id}": Policy(rate_limit="1/hour")}
    client = probe_client(rate_limit="2/minute", routes=routes)

    first, second = (ask(client, path=f"/probe/items/{number}") for number in (1, 2))
    others = [ask(client).status_code for _ in range(3)]

    assert (first.status_code, second.status_code) == (200, 429)
    assert first.headers["ratelimit"] == '"GET /probe/items/{item_id}";r=0;t=3600'
    assert others == [200, 200, 429]
