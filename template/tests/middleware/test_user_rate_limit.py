"""User rate limit: a user can send as many requests as the rate allows, from any address."""

import re

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from pydantic import ValidationError

from app.middleware import Policy
from app.middleware.order import LAYERS

from .asgi import ask_at_once
from .conftest import ProbeApp, ProbeClient, stack_settings
from .refusals import Refusal
from .storage.test_base import LostStorage, with_storage
from .users import SETTINGS, headers

REFUSAL = Refusal(
    status=429,
    settings={**SETTINGS, "user_rate_limit": "1/hour"},
    headers=headers("alice"),
    prepare=lambda client: client.get("/probe/ok", headers=headers("alice")),
)


def ask(client: TestClient, user: str | None, *, host: str = "192.0.2.1") -> Response:
    sent = headers(user) if user else {}
    request = {"method": "GET", "url": "/probe/ok", "headers": sent}
    return ask_at_once(client, request, host=host)[0]


def test_each_user_has_a_limit(probe_client: ProbeClient) -> None:
    client = probe_client(user_rate_limit="2/hour", **SETTINGS)

    users = ["alice", "alice", "alice", "bob"]
    statuses = [ask(client, user).status_code for user in users]

    assert statuses == [200, 200, 429, 200]


def test_a_user_is_the_same_from_wherever(probe_client: ProbeClient) -> None:
    client = probe_client(user_rate_limit="1/hour", **SETTINGS)
    ask(client, "alice", host="192.0.2.1")

    assert ask(client, "alice", host="198.51.100.1").status_code == 429


def test_a_burst_is_admitted_exactly(probe_client: ProbeClient) -> None:
    settings = {**SETTINGS, "rate_limit": "1000/minute"}
    client = probe_client(user_rate_limit="50/hour", **settings)
    request = {"method": "GET", "url": "/probe/ok", "headers": headers("alice")}

    responses = ask_at_once(client, *[request] * 150)

    assert [response.status_code for response in responses].count(200) == 50


def test_anonymous_requests_pass_uncounted(probe_client: ProbeClient) -> None:
    client = probe_client(user_rate_limit="1/hour", **SETTINGS)

    responses = [ask(client, None) for _ in range(3)]

    assert [response.status_code for response in responses] == [200, 200, 200]
    assert '"user"' not in responses[0].headers.get("ratelimit", "")


def test_a_probe_neither_counts_nor_is_refused(probe_client: ProbeClient) -> None:
    client = probe_client(user_rate_limit="1/hour", probe_paths=["/probe/ok"], **SETTINGS)

    statuses = [ask(client, "alice").status_code for _ in range(3)]

    assert statuses == [200, 200, 200]


def test_a_refusal_tells_when_to_come_back(probe_client: ProbeClient) -> None:
    client = probe_client(user_rate_limit="1/hour", **SETTINGS)
    ask(client, "alice")

    response = ask(client, "alice")

    assert 3590 <= int(response.headers["retry-after"]) <= 3600
    assert re.search(r'"user";r=0;t=3[56]\d\d', response.headers["ratelimit"])
    assert '"user";q=1;w=3600' in response.headers["ratelimit-policy"]


@pytest.mark.skipif("rate_limit" not in LAYERS, reason="there is no other limit")
def test_both_limits_stand_in_one_list(probe_client: ProbeClient) -> None:
    response = ask(probe_client(**SETTINGS), "alice")

    assert response.headers.get_list("ratelimit") == ['"default";r=99;t=60, "user";r=999;t=3600']
    assert response.headers.get_list("ratelimit-policy") == [
        '"default";q=100;w=60, "user";q=1000;w=3600'
    ]


def test_a_lost_storage_admits(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    app = with_storage(probe_app(user_rate_limit="1/hour", **SETTINGS), LostStorage())
    client = probe_client(app=app)

    statuses = [ask(client, "alice").status_code for _ in range(3)]

    assert statuses == [200, 200, 200]


def test_nonsense_is_refused_at_start() -> None:
    with pytest.raises(ValidationError, match="such as 100/minute"):
        stack_settings(user_rate_limit="0/hour")


def test_a_route_has_a_count_of_its_own(probe_client: ProbeClient) -> None:
    routes = {"GET /probe/state": Policy(user_rate_limit="1/hour")}
    client = probe_client(**SETTINGS, user_rate_limit="2/minute", routes=routes)
    statuses = [
        client.get(path, headers=headers("alice")).status_code
        for path in ("/probe/state", "/probe/state", "/probe/ok", "/probe/ok", "/probe/ok")
    ]

    assert statuses == [200, 429, 200, 200, 429]
