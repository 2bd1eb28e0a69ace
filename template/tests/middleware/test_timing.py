"""Timing: every response reports how long it took to start."""

import re
from time import perf_counter
from typing import Any

import pytest

from .conftest import WS, ProbeClient
from .refusals import Answer


def decorated(answer: Answer) -> None:
    headers = answer.response.headers
    (milliseconds,) = re.findall(r"app;dur=(\d+\.\d{3})(?:,|$)", headers["server-timing"])
    assert re.fullmatch(r"\d+\.\d{6}", headers["x-process-time"])
    assert float(milliseconds) == pytest.approx(1000 * float(headers["x-process-time"]), abs=0.01)


@pytest.mark.parametrize("path", ["/probe/ok", "/nowhere", "/probe/items/x", "/probe/stream"])
def test_every_answer_tells_its_time(path: str, probe_client: ProbeClient) -> None:
    client = probe_client()

    decorated(Answer(response=client.get(path), lines=[], client=client))


def test_the_time_is_that_of_the_work(probe_client: ProbeClient) -> None:
    response = probe_client().get("/probe/slow?seconds=0.05")

    assert float(response.headers["x-process-time"]) >= 0.05


def test_a_stream_tells_when_it_started(probe_client: ProbeClient) -> None:
    """A header can't be sent later."""
    started_at = perf_counter()
    response = probe_client().get("/probe/stream?chunks=3&seconds=0.05")
    seconds = perf_counter() - started_at

    assert float(response.headers["x-process-time"]) < seconds - 0.14


def test_what_an_endpoint_measured_is_kept(probe_client: ProbeClient) -> None:
    response = probe_client().get("/probe/headers?name=Server-Timing&value=db;dur=5")

    assert re.fullmatch(r"db;dur=5, app;dur=[\d.]+", response.headers["server-timing"])


def test_the_process_time_is_told_once(probe_client: ProbeClient) -> None:
    response = probe_client().get("/probe/headers?name=X-Process-Time&value=mine")

    (seconds,) = response.headers.get_list("x-process-time")
    assert seconds != "mine"


def test_a_websocket_passes(probe_client: ProbeClient) -> None:
    with probe_client().websocket_connect(WS) as websocket:
        websocket.send_text("hi")

        assert websocket.receive_text() == "hi"
        accepted: Any = websocket.extra_headers
        assert b"server-timing" not in dict(accepted)
