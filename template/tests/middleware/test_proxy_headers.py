"""Proxy headers: the client's address and scheme come from trusted proxies only."""

import json
import re
from typing import Any, Final

import pytest
from httpx2 import Response
from pydantic import ValidationError
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware as UvicornProxyHeaders

from app.middleware import innermost, outermost
from app.middleware.order import LAYERS

from .conftest import WS, LogLines, ProbeApp, ProbeClient, stack_settings

PROXY: Final = "10.0.0.1"
TRUSTED: Final[dict[str, Any]] = {"trusted_proxies": ["10.0.0.0/8", "2001:db8:1::/48"]}


def ask(probe_client: ProbeClient, *headers: tuple[str, str], peer: str = PROXY) -> Response:
    return probe_client(client_host=peer, **TRUSTED).get("/probe/state", headers=headers)


def in_uvicorn(app: Any, stated: str) -> UvicornProxyHeaders:
    """Return the app as uvicorn wraps it without `--no-proxy-headers`."""
    return UvicornProxyHeaders(app, stated)


def client_of(response: Response) -> object:
    return response.json()["client"]


def scheme_of(response: Response) -> object:
    return response.json()["scheme"]


def test_a_trusted_proxy_tells_the_client_and_the_scheme(probe_client: ProbeClient) -> None:
    response = ask(
        probe_client, ("X-Forwarded-For", "198.51.100.7"), ("X-Forwarded-Proto", "https")
    )

    assert client_of(response) == "198.51.100.7"
    assert scheme_of(response) == "https"


def test_nobody_else_is_believed(probe_client: ProbeClient) -> None:
    response = ask(
        probe_client,
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-Proto", "https"),
        peer="198.51.100.66",
    )

    assert client_of(response) == "198.51.100.66"
    assert scheme_of(response) == "http"


def test_without_the_headers_the_peer_is_the_client(probe_client: ProbeClient) -> None:
    response = ask(probe_client)

    assert client_of(response) == PROXY
    assert scheme_of(response) == "http"


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("6.6.6.6, 198.51.100.7", "198.51.100.7"),
        ("6.6.6.6, 10.0.0.5", "6.6.6.6"),
        ("6.6.6.6, 198.51.100.7, 10.0.0.5, 10.9.9.9", "198.51.100.7"),
        ("10.0.0.9, 198.51.100.7", "198.51.100.7"),
        ("10.0.0.9, 10.0.0.5", "10.0.0.9"),
        ("198.51.100.7:4711", "198.51.100.7"),
        ("2001:db8:2::7", "2001:db8:2::7"),
        ("[2001:db8:2::7]:4711", "2001:db8:2::7"),
        ("6.6.6.6, 2001:db8:2::7, 2001:DB8:1:0::5", "2001:db8:2::7"),
        ("6.6.6.6, ::ffff:10.0.0.5", "6.6.6.6"),
    ],
)
def test_the_rightmost_untrusted_entry_wins(
    forwarded: str, client: str, probe_client: ProbeClient
) -> None:
    """The client sent the entries left of it, and can forge them."""
    assert client_of(ask(probe_client, ("X-Forwarded-For", forwarded))) == client


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        (["198.51.100.7"], "198.51.100.7"),
        (["198.51.100.7", "10.0.0.5"], "198.51.100.7"),
        (["198.51.100.7", "6.6.6.6"], None),
        (["198.51.100.7", "10.0.0.5, 6.6.6.6", "10.0.0.5"], None),
        (["198.51.100.7"] * 2000, None),
        ([f"{'6.6.6.6, ' * 2000} 198.51.100.7"], "198.51.100.7"),
    ],
)
def test_a_trailer_chooses_no_client(
    lines: list[str], client: str | None, probe_client: ProbeClient
) -> None:
    """Some servers add the trailers of a chunked body to the headers."""
    forwarded = [("X-Forwarded-For", line) for line in lines]
    response = ask(probe_client, ("Transfer-Encoding", "chunked"), *forwarded)

    assert client_of(response) == client


@pytest.mark.parametrize("lines", [1, 2])
def test_of_a_long_list_the_end_counts(lines: int, probe_client: ProbeClient) -> None:
    """The proxies added it; the client could send any length ahead of it."""
    headers = [("X-Forwarded-For", "6.6.6.6, " * 2000 + "10.0.0.6")] * lines
    headers[-1] = ("X-Forwarded-For", headers[0][1] + ", 198.51.100.7, 10.0.0.5")

    assert client_of(ask(probe_client, *headers)) == "198.51.100.7"


@pytest.mark.parametrize("peer", ["10.255.0.1", "::ffff:10.0.0.1", "2001:db8:1::1"])
def test_a_proxy_may_be_of_a_network(peer: str, probe_client: ProbeClient) -> None:
    response = ask(probe_client, ("X-Forwarded-For", "198.51.100.7"), peer=peer)

    assert client_of(response) == "198.51.100.7"


@pytest.mark.parametrize(
    "addresses", [["6.6.6.6", "198.51.100.7", "10.0.0.5"], ["198.51.100.7", "10.0.0.5"]]
)
@pytest.mark.parametrize("schemes", [["http", "https", "http"], ["https", "http"]])
def test_repeated_headers_are_one_list(
    addresses: list[str], schemes: list[str], probe_client: ProbeClient
) -> None:
    joined = ask(
        probe_client,
        ("X-Forwarded-For", ", ".join(addresses)),
        ("X-Forwarded-Proto", ", ".join(schemes)),
    )
    repeated = ask(
        probe_client,
        *(("X-Forwarded-For", address) for address in addresses),
        *(("X-Forwarded-Proto", scheme) for scheme in schemes),
    )

    assert client_of(joined) == "198.51.100.7"
    assert joined.json()["client"] == repeated.json()["client"]
    assert joined.json()["scheme"] == repeated.json()["scheme"]


@pytest.mark.parametrize(
    ("addresses", "schemes", "scheme"),
    [
        ("", "https, http", "http"),
        ("198.51.100.7", "https, http", "http"),
        ("198.51.100.7, 10.0.0.5, 10.0.0.6", "https, http", "https"),
        ("198.51.100.7, 10.0.0.5", "http, https, http", "https"),
        ("198.51.100.7, 10.0.0.5", "https, http", "https"),
        ("198.51.100.7, 10.0.0.5", "http, https", "http"),
        ("198.51.100.7, 10.0.0.5", "HTTPS,HTTP", "https"),
        ("198.51.100.7:4711, 10.0.0.5:80", "https, http", "https"),
        ("10.0.0.9, 10.0.0.5", "https, http", "https"),
        ("198.51.100.7, 10.0.0.5", "gopher, https", "http"),
    ],
)
def test_the_schemes_of_two_proxies_are_understood(
    addresses: str, schemes: str, scheme: str, probe_client: ProbeClient
) -> None:
    """The client reached the first proxy by TLS; what the proxies speak is their business."""
    headers = [("X-Forwarded-For", addresses)] if addresses else []

    response = ask(probe_client, *headers, ("X-Forwarded-Proto", schemes))

    assert scheme_of(response) == scheme


@pytest.mark.parametrize(
    ("told", "scheme"),
    [("HTTPS", "https"), ("Http", "http"), ("wss", "https"), ("ws", "http"), ("ws, wss", "https")],
)
def test_a_request_has_a_scheme_of_requests(
    told: str, scheme: str, probe_client: ProbeClient
) -> None:
    """Schemes know no case, and what else looks at them knows http and https there."""
    assert scheme_of(ask(probe_client, ("X-Forwarded-Proto", told))) == scheme


@pytest.mark.parametrize("claimed", ["", "6.6.6.6, ", "198.51.100.7, ", "6.6.6.6, 10.0.0.5, "])
@pytest.mark.parametrize("schemes", ["https, ", "https, https, ", "https, http, https, "])
def test_a_client_can_not_claim_a_scheme(
    schemes: str, claimed: str, probe_client: ProbeClient
) -> None:
    """It sent any number of entries, its own address maybe; the proxy added what it saw."""
    response = ask(
        probe_client,
        ("X-Forwarded-For", f"{claimed}198.51.100.7"),
        ("X-Forwarded-Proto", f"{schemes}http"),
    )

    assert client_of(response) == "198.51.100.7"
    assert scheme_of(response) == "http"


class Seen:
    """Remembers the scopes that reach the routes."""

    def __init__(self, app: ASGIApp, *, scopes: list[Scope]) -> None:
        self.app = app
        self.scopes = scopes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        await self.app(scope, receive, send)


@pytest.mark.parametrize("schemes", ["https", "HTTPS", "wss", "WSS", "http, https"])
def test_a_websocket_is_told_alike(schemes: str, probe_client: ProbeClient) -> None:
    scopes: list[Scope] = []
    own = [innermost(Middleware(Seen, scopes=scopes))]
    client = probe_client(client_host=PROXY, own=own, **TRUSTED)
    headers = {"X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": schemes}

    with client.websocket_connect(WS, headers=headers) as websocket:
        websocket.send_text("hi")
        websocket.receive_text()

    assert scopes[-1]["client"][0] == "198.51.100.7"
    assert scopes[-1]["scheme"] == "wss"


@pytest.mark.skipif("security_headers" not in LAYERS, reason="needs HSTS")
def test_hsts_goes_out_behind_a_proxy_that_speaks_https(probe_client: ProbeClient) -> None:
    response = ask(probe_client, ("X-Forwarded-Proto", "https"))

    assert "strict-transport-security" in response.headers


@pytest.mark.skipif("access_log" not in LAYERS, reason="needs the line")
def test_the_log_names_the_client(probe_client: ProbeClient, log_lines: LogLines) -> None:
    ask(probe_client, ("X-Forwarded-For", "198.51.100.7"))

    (line,) = [line for line in log_lines() if line["event"] == "request"]
    assert line["client"] == "198.51.100.7"


@pytest.mark.parametrize("proxies", ["*", "10.0.0.1,*", "0.0.0.0/0", "::/0"])
def test_to_trust_everybody_is_refused_at_start(proxies: str) -> None:
    with pytest.raises(ValidationError, match="with which every client can claim any address"):
        stack_settings(trusted_proxies=proxies)


@pytest.mark.parametrize("proxies", ["proxy.example", "10.0.0.1/8", "10.0.0.1:80"])
def test_nonsense_is_refused_at_start(proxies: str) -> None:
    with pytest.raises(ValidationError, match="must hold addresses and networks such as"):
        stack_settings(trusted_proxies=proxies)


class WithoutAddress:
    """Takes the address away, as a server on a unix socket does; some report an empty one."""

    def __init__(self, app: ASGIApp, *, address: tuple[str, int] | None) -> None:
        self.app = app
        self.address = address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            scope["client"] = self.address
        await self.app(scope, receive, send)


@pytest.mark.parametrize(
    ("trusted", "client", "scheme"),
    [
        ("unix", "198.51.100.7", "https"),
        ("10.0.0.1,UNIX", "198.51.100.7", "https"),
        ("127.0.0.1", None, "http"),
        ("", None, "http"),
    ],
)
@pytest.mark.parametrize("address", [None, ("", 0)])
def test_who_comes_by_the_unix_socket_is_trusted_by_a_word(
    trusted: str,
    client: str | None,
    scheme: str,
    address: tuple[str, int] | None,
    probe_client: ProbeClient,
) -> None:
    own = [outermost(Middleware(WithoutAddress, address=address))]
    settings = {"trusted_proxies": trusted, "own": own}
    headers = {"X-Forwarded-For": "6.6.6.6, 198.51.100.7", "X-Forwarded-Proto": "https"}

    response = probe_client(**settings).get("/probe/state", headers=headers)

    assert (client_of(response) or None) == client
    assert scheme_of(response) == scheme


def test_nobody_claims_the_word_unix(probe_client: ProbeClient) -> None:
    settings = {"trusted_proxies": "unix"}
    headers = {"X-Forwarded-For": "unix, 6.6.6.6"}

    response = probe_client(client_host="198.51.100.66", **settings).get(
        "/probe/state", headers=headers
    )

    assert client_of(response) == "198.51.100.66"


@pytest.mark.parametrize("stated", ["*", "127.0.0.1", "10.0.0.0/8,::1", "unix:"])
def test_a_server_that_trusts_others_is_refused_at_start(
    stated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uvicorn reads the variable itself, and would decide first."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", stated)

    with pytest.raises(ValidationError, match="FORWARDED_ALLOW_IPS must be unset or name the same"):
        stack_settings(trusted_proxies="10.0.0.0/8")


@pytest.mark.parametrize("stated", ["", "10.0.0.0/8, ::1", "0:0::1,10.0.0.0/8"])
def test_a_server_that_trusts_the_same_may_start(
    stated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", stated)

    settings = stack_settings(trusted_proxies=json.dumps(["10.0.0.0/8", "::1"]))

    assert settings.trusted_proxies == ("10.0.0.0/8", "::1")


@pytest.mark.parametrize("stated", ["127.0.0.1,::1", "", "2001:db8:1:0::/48, 10.0.0.0/8"])
def test_the_server_s_own_list_decides_nothing(
    stated: str, probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    app = in_uvicorn(probe_app(**TRUSTED), stated)
    headers = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https, https"}

    seen = [
        probe_client(app=app, client_host=peer).get("/probe/state", headers=headers)
        for peer in ("127.0.0.1", PROXY)
    ]

    assert [(client_of(item), scheme_of(item)) for item in seen] == [
        ("127.0.0.1", "http"),
        ("6.6.6.6", "https"),
    ]


@pytest.mark.parametrize("stated", ["*", "127.0.0.1,192.0.2.1", "10.0.0.0/8"])
def test_a_server_that_was_told_to_trust_others_does_not_start(
    stated: str, probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    app = in_uvicorn(probe_app(**TRUSTED), stated)

    with pytest.raises(BaseException, match=f"from {re.escape(stated)}, which differs"):
        probe_client(app=app)


def test_the_scheme_of_the_nearest_proxy_counts(probe_client: ProbeClient) -> None:
    """A proxy that adds a line leaves the client's own before it, as one that adds to it does."""
    headers = [("X-Forwarded-Proto", scheme) for scheme in ("https", "http")]

    response = ask(probe_client, ("X-Forwarded-For", "198.51.100.7"), *headers)

    assert scheme_of(response) == "http"
