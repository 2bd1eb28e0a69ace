"""HTTPS redirect: what comes in clear is led to the same address over TLS."""

from typing import Any, Final

import pytest
from fastapi import FastAPI
from starlette.testclient import WebSocketDenialResponse

from app.middleware.https_redirect import HttpsRedirectMiddleware
from app.middleware.order import LAYERS

from .asgi import Dialogue
from .conftest import ProbeClient
from .refusals import Refusal

REFUSAL = Refusal(
    status=307, settings={"allowed_hosts": ["api.example"]}, base_url="http://api.example"
)

NAMES: Final = ["api.example", "192.0.2.1", "[2001:db8::1]"]


def location(probe_client: ProbeClient, url: str, **options: Any) -> str:
    client = probe_client(allowed_hosts=NAMES, **options)

    response = client.get(url)

    assert response.status_code == 307
    return response.headers["location"]


@pytest.mark.parametrize(
    ("host", "secure"),
    [
        ("api.example", "api.example"),
        ("api.example:80", "api.example"),
        ("api.example:", "api.example"),
        ("api.example:443", "api.example"),
        ("api.example:8080", "api.example:8080"),
        ("192.0.2.1", "192.0.2.1"),
        ("[2001:db8::1]", "[2001:db8::1]"),
        ("[2001:db8::1]:80", "[2001:db8::1]"),
        ("[2001:db8::1]:", "[2001:db8::1]"),
    ],
)
def test_it_leads_to_the_same_host(host: str, secure: str, probe_client: ProbeClient) -> None:
    client = probe_client(allowed_hosts=NAMES)

    response = client.get("/probe/ok", headers={"Host": host})

    assert response.status_code == 307
    assert response.headers["location"] == f"https://{secure}/probe/ok"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/probe/ok?a=1&b=%20x&c=/?",
        "/probe/a%2Fb%3Fc%23d",
        "/probe/%C3%A9?q=%C3%A9",
        "//evil.example/",
        "/%0d%0aSet-Cookie:x=1",
    ],
)
def test_it_leads_to_the_same_path_and_query(path: str, probe_client: ProbeClient) -> None:
    assert location(probe_client, "http://api.example" + path) == "https://api.example" + path


def test_it_leads_to_the_same_path_under_a_root_path(probe_client: ProbeClient) -> None:
    url = location(probe_client, "http://api.example/api/probe/ok", root_path="/api")

    assert url == "https://api.example/api/probe/ok"


def test_a_prefix_that_a_proxy_took_off_is_put_back(probe_client: ProbeClient) -> None:
    url = location(probe_client, "http://api.example/probe/ok", root_path="/api")

    assert url == "https://api.example/api/probe/ok"


def test_a_target_that_is_no_path_can_not_change_the_host() -> None:
    """Some servers pass `GET @evil.example` and `GET .evil.example` on as they are."""
    dialogue = Dialogue("GET", "@evil.example", headers={"host": "api.example"})

    dialogue.run(HttpsRedirectMiddleware(FastAPI(), probe_paths=()))

    assert dialogue.headers["location"] == "https://api.example/"


def test_a_post_stays_a_post(probe_client: ProbeClient) -> None:
    """After 301 or 302 clients go on with a GET; not after 307 (RFC 9110, 15.4.8)."""
    client = probe_client(base_url="http://api.example", allowed_hosts=["api.example"])

    assert client.post("/probe/items", json={"name": "x"}).status_code == 307


def test_what_comes_by_https_is_served(probe_client: ProbeClient) -> None:
    client = probe_client(base_url="https://api.example", allowed_hosts=["api.example"])

    assert client.get("/probe/ok").status_code == 200


@pytest.mark.skipif("proxy_headers" not in LAYERS, reason="needs the scheme of the proxy")
@pytest.mark.parametrize(
    ("schemes", "addresses"),
    [("https", "198.51.100.7"), ("https, http", "198.51.100.7, 127.0.0.1")],
)
def test_a_request_that_reached_the_proxy_by_https_is_served(
    schemes: str, addresses: str, probe_client: ProbeClient
) -> None:
    client = probe_client(
        base_url="http://api.example", allowed_hosts=["api.example"], trusted_proxies="127.0.0.1"
    )
    headers = {"X-Forwarded-Proto": schemes, "X-Forwarded-For": addresses}

    response = client.get("/probe/ok", headers=headers)

    assert response.status_code == 200


def test_it_never_leads_to_a_foreign_host(probe_client: ProbeClient) -> None:
    client = probe_client(base_url="http://evil.example", allowed_hosts=["api.example"])

    response = client.get("/probe/ok", headers={"X-Forwarded-Host": "evil.example"})

    assert response.status_code == 400
    assert "location" not in response.headers


def test_no_header_of_the_client_moves_it(probe_client: ProbeClient) -> None:
    client = probe_client(base_url="http://api.example", allowed_hosts=["api.example"])

    response = client.get(
        "/probe/ok",
        headers={"X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example;proto=http"},
    )

    assert response.headers["location"] == "https://api.example/probe/ok"


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST:8000", "localhost:", "app.localhost"),
        *("127.0.0.1:8000", "127.9.9.9", "[::1]", "[::1]:"),
    ],
)
def test_it_leaves_this_machine_alone(host: str, probe_client: ProbeClient) -> None:
    client = probe_client(
        allowed_hosts=["localhost", "*.localhost", "127.0.0.1", "127.9.9.9", "[::1]"]
    )

    assert client.get("/probe/ok", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["localhost.example", "127.0.0.1.example", "notlocalhost"])
def test_a_name_that_looks_local_is_not(host: str, probe_client: ProbeClient) -> None:
    client = probe_client(allowed_hosts=[host])

    assert client.get("/probe/ok", headers={"Host": host}).status_code == 307


@pytest.mark.parametrize("root_path", ["", "/api"])
def test_a_probe_passes(root_path: str, probe_client: ProbeClient) -> None:
    client = probe_client(
        base_url="http://10.0.0.7:8000", probe_paths=["/probe/ok"], root_path=root_path
    )

    assert client.get(root_path + "/probe/ok").status_code == 200


def test_a_websocket_is_led_to_wss(probe_client: ProbeClient) -> None:
    client = probe_client(allowed_hosts=["api.example"])

    with (
        pytest.raises(WebSocketDenialResponse) as denial,
        client.websocket_connect("ws://api.example/probe/ws?room=1"),
    ):
        pass

    assert denial.value.status_code == 307
    assert denial.value.headers["location"] == "wss://api.example/probe/ws?room=1"
