"""Metrics: every request is counted and timed, with few labels, on a page for Prometheus."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Final
from unittest.mock import Mock

import prometheus_client
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.testclient import WebSocketDenialResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.middleware import innermost
from app.middleware.core.check import faults
from app.middleware.core.counters import SharedCounters
from app.middleware.order import LAYERS, layer_of
from app.middleware.stack import build_stack

from .asgi import CutOff, Dialogue, Unavailable
from .conftest import WS, LogLines, ProbeApp, ProbeClient, stack_settings
from .refusals import Answer, Refusal

_EXEMPTING: Final[dict[str, Refusal]] = {
    name: module.REFUSAL
    for item in build_stack(stack_settings())
    if (name := layer_of(item.cls)) and "probe_paths" in item.kwargs
    if hasattr(module := import_module(f".test_{name}", __package__), "REFUSAL")
}


def decorated(answer: Answer) -> None:
    status = answer.response.status_code
    app = answer.client.app
    assert counted(app, method=answer.response.request.method, status=str(status)) >= 1
    if answer.response.headers.get("content-type") == "application/problem+json":
        layer = answer.response.json().get("layer")
        refused = sample(app, "http_refusals_total", layer=layer, status=str(status))
        assert refused >= (1 if layer else 0)


def scrape(app: ASGIApp) -> str:
    """Read the page as Prometheus would: from inside, by a name of its own."""
    client = TestClient(app, base_url="http://10.0.0.7:8000", client=("127.0.0.1", 50000))
    response = client.get("/metrics")
    assert response.status_code == 200
    return response.text


def sample(app: ASGIApp, name: str, **labels: str) -> float:
    """Return the sum of all samples that have these labels."""
    return sum(
        item.value
        for family in text_string_to_metric_families(scrape(app))
        for item in family.samples
        if item.name == name and labels.items() <= item.labels.items()
    )


def counted(app: ASGIApp, **labels: str) -> float:
    return sample(app, "http_requests_total", **labels)


def test_a_request_is_counted_with_its_route(probe_client: ProbeClient) -> None:
    client = probe_client()

    for item in (1, 2):
        client.get(f"/probe/items/{item}")

    labels = {"method": "GET", "route": "/probe/items/{item_id}"}
    assert counted(client.app, **labels, status="200") == 2


def test_a_request_is_timed(probe_client: ProbeClient) -> None:
    client = probe_client()

    client.get("/probe/slow?seconds=0.03")

    labels = {"method": "GET", "route": "/probe/slow"}
    assert sample(client.app, "http_request_duration_seconds_sum", **labels) >= 0.03
    assert sample(client.app, "http_request_duration_seconds_bucket", **labels, le="0.01") == 0
    assert sample(client.app, "http_request_duration_seconds_count", **labels) == 1


def test_pages_of_the_service_itself_are_no_unknown_paths(probe_client: ProbeClient) -> None:
    client = probe_client()

    for path in ("/metrics", "/docs", "/openapi.json"):
        client.get(path)
        assert counted(client.app, route=path, status="200") == 1


def test_unknown_paths_share_a_label(probe_client: ProbeClient) -> None:
    """Else anybody could fill the memory of Prometheus, and of the service."""
    client = probe_client()

    for number in range(20):
        client.get(f"/nowhere/{number}")

    assert counted(client.app, route="<unmatched>", status="404") == 20
    assert "nowhere" not in scrape(client.app)


def test_unknown_methods_share_a_label(probe_client: ProbeClient) -> None:
    client = probe_client()

    client.request("BREW", "/probe/ok")

    assert counted(client.app, method="_OTHER") == 1
    assert "BREW" not in scrape(client.app)


def test_an_exception_is_counted_as_500(probe_client: ProbeClient) -> None:
    client = probe_client()

    client.get("/probe/boom")

    assert counted(client.app, route="/probe/boom", status="500") == 1


def test_the_status_on_the_wire_is_counted(probe_client: ProbeClient) -> None:
    client = probe_client(own=[innermost(Middleware(Unavailable))])

    response = client.get("/probe/ok")

    assert counted(client.app, status=str(response.status_code)) == 1


def test_a_stream_is_counted_once(probe_client: ProbeClient) -> None:
    client = probe_client()

    client.get("/probe/stream?chunks=3")
    client.get("/probe/broken-stream")

    assert counted(client.app, route="/probe/stream", status="200") == 1
    assert counted(client.app, route="/probe/broken-stream") == 1


def test_a_client_that_goes_away_is_counted_499(probe_app: ProbeApp) -> None:
    app = probe_app()

    CutOff("GET", "/probe/stream?chunks=1000&seconds=0.005", pause=0.01).run(app)

    assert counted(app, route="/probe/stream", status="499") == 1
    assert in_progress(app) == 0


def in_progress(app: ASGIApp, method: str = "GET") -> float:
    """Return the requests under way besides that for the page itself."""
    own = 1 if method == "GET" else 0
    return sample(app, "http_requests_in_progress", method=method) - own


@pytest.mark.parametrize("path", ["/probe/ok", "/probe/boom", "/probe/broken-stream", "/nowhere"])
def test_what_has_ended_is_not_in_progress(path: str, probe_client: ProbeClient) -> None:
    client = probe_client()

    client.get(path)

    assert in_progress(client.app) == 0


def test_a_websocket_is_in_progress_and_then_counted(probe_client: ProbeClient) -> None:
    client = probe_client()

    with client.websocket_connect(WS) as websocket:
        assert in_progress(client.app, "WEBSOCKET") == 1
        websocket.send_text("hi")
        websocket.receive_text()

    assert in_progress(client.app, "WEBSOCKET") == 0
    labels = {"method": "WEBSOCKET", "route": "/probe/ws"}
    assert counted(client.app, **labels, status="101") == 1
    assert sample(client.app, "http_request_duration_seconds_count", **labels) == 0


class Closed:
    """A layer that refuses websockets."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.http.response.start", "status": 418, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b""})
        else:
            await self.app(scope, receive, send)


def test_a_refused_websocket_is_counted_with_its_status(probe_client: ProbeClient) -> None:
    client = probe_client(own=[innermost(Middleware(Closed))])

    with pytest.raises(WebSocketDenialResponse), client.websocket_connect(WS):
        pass

    assert counted(client.app, method="WEBSOCKET", status="418") == 1


def test_each_app_counts_for_itself(probe_client: ProbeClient) -> None:
    one, other = probe_client(), probe_client()

    one.get("/probe/ok")

    assert counted(one.app, route="/probe/ok") == 1
    assert counted(other.app, route="/probe/ok") == 0


def test_metrics_of_your_own_stand_on_the_page(probe_client: ProbeClient) -> None:
    orders = prometheus_client.Counter("probe_orders_total", "Orders.")
    try:
        orders.inc(3)
        client = probe_client()

        assert sample(client.app, "probe_orders_total") == 3
    finally:
        prometheus_client.REGISTRY.unregister(orders)


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("127.0.0.1", 200),
        ("::1", 200),
        ("10.1.2.3", 200),
        ("::ffff:10.1.2.3", 200),
        ("203.0.113.7", 403),
        ("2001:db8::1", 403),
        ("a-unix-socket", 403),
    ],
)
def test_only_the_listed_networks_may_read(
    address: str, status: int, probe_client: ProbeClient
) -> None:
    client = probe_client(client_host=address)

    response = client.get("/metrics")

    assert response.status_code == status
    if status == 403:
        assert response.json()["layer"] == "metrics"
        refused = sample(client.app, "http_refusals_total", layer="metrics", status="403")
        assert refused == 1


def test_a_client_without_an_address_may_not_read(probe_app: ProbeApp) -> None:
    """It comes from a unix socket."""
    dialogue = Dialogue("GET", "/metrics")
    dialogue.scope["client"] = None

    assert dialogue.run(probe_app()).status == 403


def test_the_networks_are_a_setting(probe_client: ProbeClient) -> None:
    client = probe_client(client_host="203.0.113.7", metrics_allow=["203.0.113.0/24"])

    assert client.get("/metrics").status_code == 200


def test_the_path_is_a_setting(probe_client: ProbeClient) -> None:
    client = probe_client(metrics_path="/internal/metrics")

    assert client.get("/internal/metrics").status_code == 200
    assert client.get("/metrics").status_code == 404


@pytest.mark.parametrize("gate", _EXEMPTING)
def test_no_gate_refuses_the_page(gate: str, probe_client: ProbeClient) -> None:
    refusal = _EXEMPTING[gate]
    client = probe_client(
        base_url=refusal.base_url,
        client_host=refusal.client_host,
        metrics_allow=["0.0.0.0/0", "::/0"],
        **refusal.settings,
    )
    if refusal.prepare is not None:
        refusal.prepare(client)

    assert client.get("/metrics", headers=dict(refusal.headers)).status_code == 200


@pytest.mark.skipif("access_log" not in LAYERS, reason="nothing is logged")
def test_the_log_is_silent_about_the_page(probe_client: ProbeClient, log_lines: LogLines) -> None:
    probe_client().get("/metrics")

    assert [line for line in log_lines() if line["event"] == "request"] == []


def test_the_page_is_no_part_of_the_api(probe_app: ProbeApp) -> None:
    assert "/metrics" not in probe_app().openapi()["paths"]


def test_a_modern_scraper_gets_openmetrics(probe_client: ProbeClient) -> None:
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"

    response = probe_client().get("/metrics", headers={"Accept": accept})

    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert "Accept" in response.headers["vary"].split(", ")
    assert response.headers["cache-control"] == "no-store"
    assert response.text.endswith("# EOF\n")


@pytest.mark.parametrize(
    "accept", ["text/plain;version=x", "application/openmetrics-text;version=x.y.z"]
)
def test_an_odd_accept_gets_the_plain_page(accept: str, probe_client: ProbeClient) -> None:
    response = probe_client().get("/metrics", headers={"Accept": accept})

    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"metrics_path": "metrics"}, "must be an exact path"),
        ({"metrics_allow": ["10.0.0.1/8"]}, "must hold addresses and networks"),
        ({"metrics_allow": ["office"]}, "must hold addresses and networks"),
    ],
)
def test_nonsense_is_refused_at_start(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        stack_settings(**settings)


@pytest.mark.parametrize("path", ["/probe/ok", "/docs", "/openapi.json"])
def test_the_path_of_another_route_ends_the_start(path: str, probe_app: ProbeApp) -> None:
    """The metrics would respond instead, since their route is the first."""
    fault = rf"METRICS_PATH is also the path of another route \({path}\), which"
    app = probe_app(metrics_path=path)
    with pytest.raises(RuntimeError, match=fault), TestClient(app):
        pass
    assert [bool(re.match(fault, sentence)) for sentence in faults(app)] == [True]


def test_the_path_of_a_mount_ends_the_start(probe_app: ProbeApp) -> None:
    """The page of prometheus-client is often mounted there."""
    app = probe_app()
    app.mount("/metrics", prometheus_client.make_asgi_app())

    assert [fault.partition(" (")[0] for fault in faults(app)] == [
        "METRICS_PATH is also the path of another route"
    ]


def test_a_copy_of_its_route_is_no_other_route(probe_app: ProbeApp) -> None:
    """As cadwyn adds one of each."""
    app = probe_app()
    (page,) = (it for it in app.routes if isinstance(it, Route) and it.path == "/metrics")
    app.add_route("/metrics", page.endpoint)

    assert faults(app) == []


def test_a_route_may_take_other_methods_there(probe_app: ProbeApp) -> None:
    app = probe_app()

    @app.post("/metrics")
    async def push() -> str:
        return "pushed"

    with TestClient(app, base_url="http://localhost") as client:
        assert client.post("/metrics").json() == "pushed"


@pytest.mark.parametrize("directory", ["nothing", "/proc", ""])
def test_a_directory_that_can_not_be_written_to_is_refused_at_start(
    directory: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody, root included, can put a file into /proc."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", directory)

    with pytest.raises(ValidationError, match="must be a writable directory"):
        stack_settings()


def test_a_directory_without_room_is_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A memory map on a full disk ends the process without a line."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    full = Mock(return_value=SimpleNamespace(free=256 * 1024))
    monkeypatch.setattr("app.middleware.metrics.disk_usage", full)

    with pytest.raises(ValidationError, match="must have 16 MiB of free space"):
        stack_settings()


_WORKER: Final = """
import asyncio, sys
from fastapi import FastAPI
from fastapi.testclient import TestClient
from app.middleware import stack_options
from tests.middleware.conftest import stack_settings

app = FastAPI(**stack_options(stack_settings()))
client = TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000))
for _ in range(2):
    client.get("/nowhere")
if "dies" in sys.argv:
    import os
    app.add_api_route("/dies", lambda: os._exit(0))
    client.get("/dies")
print(client.get("/metrics").text)
"""

_NAMED: Final = """
from prometheus_client import values
values.ValueClass = values.MultiProcessValue(process_identifier=lambda: "host-a")
"""


def test_several_workers_add_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))

    _, output = (
        subprocess.run(  # noqa: S603 - the script above
            [sys.executable, "-c", _WORKER, argument], check=True, capture_output=True, text=True
        ).stdout
        for argument in ("dies", "prints")
    )

    # The first worker died with a request under way, which is not in progress any more.
    assert 'http_requests_total{method="GET",route="<unmatched>",status="404"} 4.0' in output
    assert 'http_requests_in_progress{method="GET"} 1.0' in output


def test_a_file_without_a_process_id_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As prometheus-client writes it for a process that another name was given to."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    page = subprocess.run(  # noqa: S603 - the script above
        [sys.executable, "-c", _NAMED + _WORKER], check=True, capture_output=True, text=True
    ).stdout

    assert [*tmp_path.glob("gauge_live*_host-a.db")]
    assert 'http_requests_total{method="GET",route="<unmatched>",status="404"} 2.0' in page


@pytest.mark.parametrize("damaged", [b"", b"\x60\0\0\0", b"\x60\0\0\0" + b"\xff" * 92])
@pytest.mark.parametrize("pid", ["1", "{os.getpid()}"])
def test_a_damaged_file_is_left_out(
    pid: str, damaged: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a full disk leaves one, or a process that was killed; it may have the ID of this one."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    damage = f"""
import os
with open(f"{tmp_path}/counter_{pid}.db", "wb") as file:
    file.write({damaged!r})
"""
    scrape_again = "client.get('/metrics')\n"
    output = subprocess.run(  # noqa: S603 - the script above
        [sys.executable, "-c", damage + _WORKER + scrape_again],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # where no layer writes the log
        text=True,
    ).stdout

    assert 'http_requests_total{method="GET",route="<unmatched>",status="404"} 2.0' in output
    assert output.count("can't be read") == 1


def test_a_command_adds_nothing_to_what_the_workers_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    apart = f"""
from app.middleware.core.counters import counting_apart
with counting_apart():
    exec({_WORKER!r})
"""
    output = subprocess.run(  # noqa: S603 - the script above
        [sys.executable, "-c", apart], check=True, capture_output=True, text=True
    ).stdout

    assert 'http_requests_total{method="GET",route="<unmatched>",status="404"} 2.0' in output
    assert [*tmp_path.iterdir()] == []


def test_a_second_app_in_a_worker_does_not_undo_the_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    twice = f"code = {_WORKER!r}\nexec(code, {{}})\nexec(code, {{}})"

    output = subprocess.run(  # noqa: S603 - the script above
        [sys.executable, "-c", twice], check=True, capture_output=True, text=True
    ).stdout

    assert 'http_requests_total{method="GET",route="<unmatched>",status="404"} 4.0' in output


def test_the_labelled_metrics_are_kept_within_bounds() -> None:
    """Finding one again costs more than counting; keeping all would never end."""
    kept = SharedCounters().requests

    assert kept("GET", "/", 200) is kept("GET", "/", 200)
    assert kept.cache_info().maxsize == 1024
