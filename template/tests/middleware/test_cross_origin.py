"""Cross-origin: a page of another site can't act in the name of a user."""

from typing import Any, Final

import pytest
from httpx2 import Headers
from pydantic import ValidationError
from starlette.testclient import WebSocketDenialResponse

from app.middleware import Policy
from app.middleware.order import LAYERS

from .conftest import WS, ProbeClient, stack_settings
from .refusals import ORIGIN, Refusal

# Other layers' tests send requests from a page there, which must pass.
SETTINGS: Final[dict[str, Any]] = {"cross_origin_trusted": [ORIGIN]}
REFUSAL = Refusal(
    status=403,
    settings={"cross_origin_trusted": []},
    method="POST",
    path="/probe/items",
    headers={"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"},
    request={"json": {"name": "onion"}},
)

ITEM: Final = {"name": "onion"}
EVIL: Final = "https://evil.example"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"},
        {"Origin": "http://localhost"},
        {"Origin": "http://LOCALHOST"},
        {"Origin": ORIGIN},
        {"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_its_own_and_trusted_pages_may_change_things(
    headers: dict[str, str], probe_client: ProbeClient
) -> None:
    response = probe_client(**SETTINGS).post("/probe/items", json=ITEM, headers=headers)

    assert response.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        [("Sec-Fetch-Site", "cross-site")],
        [("Sec-Fetch-Site", "same-site")],
        [("Sec-Fetch-Site", "new-invention")],
        [("Sec-Fetch-Site", "cross-site"), ("Origin", EVIL)],
        [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Site", "same-origin")],
        [("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")],
        [("Origin", EVIL)],
        [("Origin", "null")],
        [("Origin", "")],
        [("Origin", "https://localhost")],
        [("Origin", "http://localhost:81")],
        [("Origin", "http://localhost.evil.example")],
        [("Origin", f"{ORIGIN}.evil.example")],
        [("Origin", ORIGIN), ("Origin", EVIL)],
        [("Origin", ORIGIN), ("Origin", ORIGIN)],
        [("Origin", "http://localhost"), ("Origin", EVIL), ("Sec-Fetch-Site", "same-origin")],
    ],
)
def test_other_pages_may_not(headers: list[tuple[str, str]], probe_client: ProbeClient) -> None:
    response = probe_client(**SETTINGS).post("/probe/items", json=ITEM, headers=headers)

    assert response.status_code == 403
    assert response.json()["layer"] == "cross_origin"


@pytest.mark.parametrize("headers", [{}, {"Sec-Fetch-Site": "cross-site"}])
@pytest.mark.parametrize(
    ("method", "status"), [("GET", 200), ("HEAD", 405), ("OPTIONS", 405), ("QUERY", 405)]
)
def test_who_only_reads_is_not_judged(
    method: str, status: int, headers: dict[str, str], probe_client: ProbeClient
) -> None:
    response = probe_client().request(method, "/probe/ok", headers={"Origin": EVIL, **headers})

    assert response.status_code == status


@pytest.mark.parametrize("host", ["localhost:80", "localhost:"])
def test_the_default_port_may_be_written(host: str, probe_client: ProbeClient) -> None:
    response = probe_client().post(
        "/probe/items", json=ITEM, headers={"Host": host, "Origin": "http://localhost"}
    )

    assert response.status_code == 200


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        (WS, {}),
        (WS, {"Origin": "http://localhost"}),
        (WS, {"Origin": ORIGIN}),
        ("wss://localhost/probe/ws", {"Origin": "https://localhost"}),
    ],
)
def test_its_own_pages_may_open_a_websocket(
    url: str, headers: dict[str, str], probe_client: ProbeClient
) -> None:
    client = probe_client(**SETTINGS)

    with client.websocket_connect(url, headers=headers) as websocket:
        websocket.send_text("hi")

        assert websocket.receive_text() == "hi"


@pytest.mark.parametrize(
    "headers",
    [
        [("Origin", EVIL)],
        [("Origin", "null")],
        [("Origin", "https://localhost")],
        [("Origin", EVIL), ("Sec-Fetch-Site", "same-origin")],
        [("Origin", "http://localhost"), ("Origin", EVIL)],
    ],
)
def test_other_pages_may_not_open_a_websocket(
    headers: list[tuple[str, str]], probe_client: ProbeClient
) -> None:
    """Browsers let every page open one, cookies included, and CORS doesn't apply."""
    client = probe_client(**SETTINGS)

    with (
        pytest.raises(WebSocketDenialResponse) as denial,
        client.websocket_connect(WS, headers=Headers(headers)),
    ):
        pass

    assert denial.value.status_code == 403


@pytest.mark.skipif("proxy_headers" not in LAYERS, reason="needs the scheme of the client")
def test_behind_a_proxy_its_own_pages_pass(probe_client: ProbeClient) -> None:
    response = probe_client().post(
        "/probe/items",
        json=ITEM,
        headers={"Origin": "https://localhost", "X-Forwarded-Proto": "https"},
    )

    assert response.status_code == 200


@pytest.mark.parametrize("listed", ["HTTPS://App.Example", f"{ORIGIN}:443"])
@pytest.mark.parametrize("headers", [{}, {"Sec-Fetch-Site": "cross-site"}])
def test_an_origin_may_be_listed_as_people_write_it(
    headers: dict[str, str], listed: str, probe_client: ProbeClient
) -> None:
    """Browsers send lower case and leave the default port out."""
    client = probe_client(cross_origin_trusted=listed)

    response = client.post("/probe/items", json=ITEM, headers={"Origin": ORIGIN, **headers})

    assert response.status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        *("https://a.example/", "a.example", "*", "null", "https://*.x"),
        *("https://a.example:99999", "https://[:]", "https://a.example:"),
    ],
)
def test_nonsense_is_refused_at_start(origin: str) -> None:
    with pytest.raises(ValidationError, match="must not hold"):
        stack_settings(cross_origin_trusted=[origin])


def test_a_route_takes_what_pages_of_others_send(probe_client: ProbeClient) -> None:
    client = probe_client(routes={"POST /probe/upload": Policy(cross_origin=False)})
    foreign = {"Sec-Fetch-Site": "cross-site", "Origin": "https://other.example"}

    assert client.post("/probe/upload", headers=foreign).status_code == 200
    assert client.post("/probe/items", headers=foreign).status_code == 403
