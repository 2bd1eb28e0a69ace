"""IP filter: clients are allowed or blocked by IP address."""

from typing import Any

import pytest
from pydantic import ValidationError
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app.middleware import StackSettings, outermost
from app.middleware.order import LAYERS

from .conftest import ProbeApp, ProbeClient, stack_settings
from .refusals import Refusal

REFUSAL = Refusal(status=403, settings={"ip_deny": ["192.0.2.66"]}, client_host="192.0.2.66")


def status(probe_client: ProbeClient, client_host: str, **settings: Any) -> int:
    return probe_client(client_host=client_host, **settings).get("/probe/ok").status_code


@pytest.mark.parametrize("client_host", ["192.0.2.1", "2001:db8::1", "testclient"])
def test_everybody_passes_while_nothing_is_listed(
    client_host: str, probe_client: ProbeClient
) -> None:
    assert status(probe_client, client_host) == 200


@pytest.mark.parametrize(
    ("client_host", "expected"),
    [
        ("192.0.2.1", 200),
        ("::ffff:192.0.2.1", 200),
        ("198.51.100.5", 200),
        ("2001:DB8:0::7", 200),
        ("::ffff:203.0.113.9", 200),
        ("203.0.113.9", 200),
        ("192.0.2.2", 403),
        ("::ffff:192.0.2.2", 403),
        ("2001:db9::1", 403),
        ("testclient", 403),
        ("", 403),
    ],
)
def test_only_listed_addresses_are_admitted(
    client_host: str, expected: int, probe_client: ProbeClient
) -> None:
    allow = "192.0.2.1,198.51.100.0/24,2001:db8::/32,::ffff:203.0.113.0/120"

    assert status(probe_client, client_host, ip_allow=allow) == expected


@pytest.mark.parametrize(
    ("client_host", "expected"),
    [
        ("192.0.2.1", 200),
        ("192.0.2.66", 403),
        ("::ffff:192.0.2.66", 403),
        ("2001:db8:bad::1", 403),
        ("2001:db8::1", 200),
    ],
)
def test_denied_addresses_are_refused_though_they_be_allowed(
    client_host: str, expected: int, probe_client: ProbeClient
) -> None:
    settings = {
        "ip_allow": ["192.0.2.0/24", "2001:db8::/32"],
        "ip_deny": ["192.0.2.66", "2001:db8:bad::/48"],
    }

    assert status(probe_client, client_host, **settings) == expected


class UnixSocket:
    """Takes the address away, as a server on a unix socket does."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            scope["client"] = None
        await self.app(scope, receive, send)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"ip_allow": ["0.0.0.0/0", "::/0"]}, 403), ({"ip_deny": ["192.0.2.66"]}, 200), ({}, 200)],
)
def test_a_client_without_an_address_is_refused_where_addresses_are_listed(
    settings: dict[str, Any], expected: int, probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    """It has no address that a list could contain."""
    app = probe_app(own=[outermost(Middleware(UnixSocket))], **settings)

    assert probe_client(app=app).get("/probe/ok").status_code == expected


@pytest.mark.skipif("probe_paths" not in StackSettings.model_fields, reason="needs probes")
def test_a_probe_is_filtered_too(probe_client: ProbeClient) -> None:
    """A blocked client gets no response from a probe path either."""
    settings = {"ip_deny": ["192.0.2.66"], "probe_paths": ["/probe/ok"]}

    assert status(probe_client, "192.0.2.66", **settings) == 403


@pytest.mark.skipif("proxy_headers" not in LAYERS, reason="needs the address of the client")
@pytest.mark.parametrize(("client", "expected"), [("198.51.100.7", 200), ("203.0.113.9", 403)])
def test_a_client_behind_a_proxy_is_judged_by_its_own_address(
    client: str, expected: int, probe_client: ProbeClient
) -> None:
    behind = probe_client(
        client_host="10.0.0.1", trusted_proxies="10.0.0.0/8", ip_allow="198.51.100.0/24"
    )

    response = behind.get("/probe/ok", headers={"X-Forwarded-For": f"198.51.100.8, {client}"})

    assert response.status_code == expected


@pytest.mark.skipif("proxy_headers" not in LAYERS, reason="needs the address of the client")
def test_a_forged_address_opens_nothing(probe_client: ProbeClient) -> None:
    client = probe_client(client_host="203.0.113.9", ip_allow="198.51.100.0/24")

    response = client.get("/probe/ok", headers={"X-Forwarded-For": "198.51.100.7"})

    assert response.status_code == 403


@pytest.mark.parametrize("setting", ["ip_allow", "ip_deny"])
@pytest.mark.parametrize("value", ["example.com", "*", "10.0.0.1/8", "::1:port"])
def test_nonsense_is_refused_at_start(setting: str, value: str) -> None:
    with pytest.raises(ValidationError, match="must hold addresses and networks such as"):
        stack_settings(**{setting: value})
