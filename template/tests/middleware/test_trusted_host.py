"""Trusted host: only requests for this service's own names get in."""

import pytest
from pydantic import ValidationError

from .conftest import ProbeClient, stack_settings
from .refusals import Refusal

REFUSAL = Refusal(status=400, headers={"Host": "evil.example"})


@pytest.mark.parametrize(
    "host",
    [
        *("api.example", "API.example:8443", "api.example:", "a.b.example.org"),
        *("[::1]", "[::1]:80", "[::1]:"),
    ],
)
def test_its_own_names_pass(host: str, probe_client: ProbeClient) -> None:
    client = probe_client(
        base_url="https://localhost", allowed_hosts=["api.example", "*.example.org", "[::1]"]
    )

    response = client.get("/probe/ok", headers={"Host": host})

    assert response.status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "example.org",
        "evilexample.org",
        "api.example.evil.com",
        "api.example@evil.com",
        ".example.org",
        "a..example.org",
        "api.example:port",
        "api.example::",
        ":",
        "api.example:00080",
        "api.example:0",
        "api.example:65536",
        "api.example/path",
        "api.example, evil.com",
        "",
    ],
)
def test_other_names_are_refused(host: str, probe_client: ProbeClient) -> None:
    client = probe_client(allowed_hosts=["api.example", "*.example.org"])

    response = client.get("/probe/ok", headers={"Host": host})

    assert response.status_code == 400


def test_a_doubled_host_is_refused(probe_client: ProbeClient) -> None:
    """One reader takes the first, another the last."""
    headers = [("Host", "localhost"), ("Host", "evil.example")]

    response = probe_client().get("/probe/ok", headers=headers)

    assert response.status_code == 400


def test_a_probe_may_ask_by_address(probe_client: ProbeClient) -> None:
    client = probe_client(probe_paths=["/probe/ok"])

    assert client.get("/probe/ok", headers={"Host": "10.0.0.7:8000"}).status_code == 200
    assert client.get("/probe/sync", headers={"Host": "10.0.0.7:8000"}).status_code == 400


def test_a_probe_passes_under_a_root_path(probe_client: ProbeClient) -> None:
    client = probe_client(probe_paths=["/probe/ok"], root_path="/api")

    response = client.get("/api/probe/ok", headers={"Host": "10.0.0.7"})

    assert response.status_code == 200


@pytest.mark.parametrize(
    "host", ["https://api.example", "api.example:443", "a/b", "*", "*x.example", "*.[::1]"]
)
def test_nonsense_is_refused_at_start(host: str) -> None:
    with pytest.raises(ValidationError, match="must be host names such as"):
        stack_settings(allowed_hosts=[host])


def test_an_ipv6_host_may_stand_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts as a JSON list does."""
    monkeypatch.setenv("ALLOWED_HOSTS", "[::1],localhost")

    assert stack_settings().allowed_hosts == ("[::1]", "localhost")


def test_no_host_at_all_is_refused_at_start() -> None:
    with pytest.raises(ValidationError, match="must name at least one host"):
        stack_settings(allowed_hosts=[])
