"""Request ID: one ID in the response, the log lines and the errors of a request."""

import logging
import re
from typing import Any

import pytest
from pydantic import ValidationError

from .conftest import WS, LogLines, ProbeApp, ProbeClient, stack_settings
from .refusals import Answer


def decorated(answer: Answer) -> None:
    request_id = answer.response.headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", request_id)
    if answer.response.headers.get("content-type") == "application/problem+json":
        assert answer.response.json()["request_id"] == request_id


def test_each_request_has_its_own_id(probe_client: ProbeClient) -> None:
    client = probe_client()

    ids = {client.get("/probe/ok").headers["x-request-id"] for _ in range(5)}

    assert len(ids) == 5


@pytest.mark.parametrize("path", ["/probe/state", "/probe/sync"])
def test_an_endpoint_reads_it(path: str, probe_client: ProbeClient) -> None:
    response = probe_client().get(path)

    assert response.json()["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("inbound", ["a", "A-1.b_2", "x" * 128])
def test_a_good_id_is_kept(inbound: str, probe_client: ProbeClient) -> None:
    response = probe_client().get("/probe/ok", headers={"X-Request-ID": inbound})

    assert response.headers.get_list("x-request-id") == [inbound]


@pytest.mark.parametrize("inbound", ["", "x" * 129, "a b", "a\tb", "é", 'a"b', "a,b"])
def test_a_bad_id_is_replaced(inbound: str, probe_client: ProbeClient) -> None:
    """It is in log lines and headers, so clients must not choose its characters."""
    headers = [(b"X-Request-ID", inbound.encode("latin-1"))]

    response = probe_client().get("/probe/ok", headers=headers)

    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


def test_a_doubled_id_is_replaced(probe_client: ProbeClient) -> None:
    headers = [("X-Request-ID", "first"), ("X-Request-ID", "second")]

    response = probe_client().get("/probe/ok", headers=headers)

    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


def test_an_endpoint_can_not_set_another(probe_client: ProbeClient) -> None:
    """One header with one ID: that of the log."""
    response = probe_client().get("/probe/headers?name=X-Request-ID&value=mine")

    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])
    assert len(response.headers.get_list("x-request-id")) == 1


@pytest.mark.parametrize("header", ["Correlation-ID", "Via-Gateway-ID"])
def test_the_header_can_be_renamed(header: str, probe_client: ProbeClient) -> None:
    """Via has another meaning, a name that only begins like it has none."""
    response = probe_client(request_id_header=header).get("/probe/ok")

    assert header in response.headers
    assert "x-request-id" not in response.headers


@pytest.mark.parametrize(
    "header",
    [
        *("Connection", "content-length", "Content-Type", "Date", "Host", "Keep-Alive"),
        *("Set-Cookie", "TE", "Trailer", "Transfer-Encoding", "Upgrade"),
        *("Accept", "Accept-Language", "Authorization", "Cookie", "Sec-WebSocket-Key"),
    ],
)
def test_a_header_with_another_meaning_is_refused_at_start(header: str) -> None:
    """An ID there would break the response, or have another meaning."""
    with pytest.raises(ValidationError, match="must be a header that has no other meaning"):
        stack_settings(request_id_header=header)


def test_every_log_line_of_the_request_carries_it(
    probe_app: ProbeApp, probe_client: ProbeClient, log_lines: LogLines
) -> None:
    app = probe_app()

    @app.get("/chatty")
    def chatty() -> None:
        logging.getLogger("mine").info("hello", extra={"order": 7})

    response = probe_client(app=app).get("/chatty")

    line = next(line for line in log_lines() if line["event"] == "hello")
    assert line["request_id"] == response.headers["x-request-id"]
    assert line["order"] == 7
    assert line["logger"] == "mine"


def test_a_line_outside_of_a_request_has_none(
    probe_client: ProbeClient, log_lines: LogLines
) -> None:
    probe_client().get("/probe/ok")

    logging.getLogger("mine").info("alone")

    assert "request_id" not in next(line for line in log_lines() if line["event"] == "alone")


def test_a_websocket_carries_it_on_its_handshake(probe_client: ProbeClient) -> None:
    with probe_client().websocket_connect(WS) as websocket:
        websocket.send_text("hi")

        assert websocket.receive_text() == "hi"
        accepted: Any = websocket.extra_headers
        assert b"x-request-id" in dict(accepted)
