"""Client version: outdated clients get 410."""

import pytest
from pydantic import ValidationError

from app.middleware import Policy

from .conftest import ProbeClient, stack_settings
from .refusals import Refusal

REFUSAL = Refusal(
    status=410,
    settings={"blocked_clients": ["LegacyApp/1."]},
    headers={"User-Agent": "LegacyApp/1.4 (tablet)"},
)


@pytest.mark.parametrize("agent", ["LegacyApp/2.0", "Other LegacyApp/1.4", ""])
def test_other_clients_pass(agent: str, probe_client: ProbeClient) -> None:
    client = probe_client(blocked_clients=["LegacyApp/1."])

    response = client.get("/probe/ok", headers={"User-Agent": agent})

    assert response.status_code == 200


@pytest.mark.parametrize("blocked", ["legacyapp/1.", "LEGACYAPP"])
def test_a_client_is_known_in_any_case(blocked: str, probe_client: ProbeClient) -> None:
    client = probe_client(blocked_clients=[blocked])

    response = client.get("/probe/ok", headers={"User-Agent": "LegacyApp/1.4"})

    assert response.status_code == 410


def test_the_answer_tells_how_to_go_on(probe_client: ProbeClient) -> None:
    client = probe_client(blocked_clients=["Old/"], blocked_clients_detail="Get 2.0 at the shop.")

    response = client.get("/probe/ok", headers={"User-Agent": "Old/1"})

    assert response.status_code == 410
    assert response.json()["detail"] == "Get 2.0 at the shop."


def test_a_probe_passes(probe_client: ProbeClient) -> None:
    client = probe_client(blocked_clients=["kube-probe/"], probe_paths=["/probe/ok"])

    response = client.get("/probe/ok", headers={"User-Agent": "kube-probe/1.3"})

    assert response.status_code == 200


@pytest.mark.parametrize("clients", ['[""]', ["LegacyApp/1.", " "]])
def test_an_empty_beginning_is_refused_at_start(clients: object) -> None:
    """Every User-Agent begins with it, so every client would be refused."""
    with pytest.raises(ValidationError, match="must not hold an empty item"):
        stack_settings(blocked_clients=clients)


@pytest.mark.parametrize("name", ["blocked_clients", "blocked_clients_detail"])
def test_what_is_not_utf_8_is_refused_at_start(name: str) -> None:
    """Such bytes get in as surrogates, and each refusal would break for them."""
    with pytest.raises(ValidationError, match="must be UTF-8"):
        stack_settings(**{name: "orders\udce9"})


def test_a_route_serves_old_clients(probe_client: ProbeClient) -> None:
    routes = {"GET /probe/ok": Policy(client_version=False)}
    client = probe_client(blocked_clients=["Old/1"], routes=routes)
    old = {"User-Agent": "Old/1.2"}

    assert client.get("/probe/ok", headers=old).status_code == 200
    assert client.get("/probe/state", headers=old).status_code == 410
