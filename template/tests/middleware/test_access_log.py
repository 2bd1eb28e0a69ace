"""Access log: one line per request, including rejected and failed ones."""

import asyncio
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from logging.config import dictConfig
from typing import Any

import pytest
import structlog
from fastapi import Depends, FastAPI
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response
from structlog.typing import EventDict
from uvicorn.config import LOGGING_CONFIG

from app.middleware import Policy, bind, innermost
from app.middleware.order import LAYERS

from .asgi import CutOff, Unavailable
from .conftest import WS, LogLines, ProbeApp, ProbeClient
from .refusals import Answer


def decorated(answer: Answer) -> None:
    (line,) = requests(answer.lines)
    assert line["status"] == answer.response.status_code


def requests(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["event"] == "request"]


def test_a_line_tells_what_happened(probe_client: ProbeClient, log_lines: LogLines) -> None:
    response = probe_client(client_host="192.0.2.7").get("/probe/items/7?token=secret")

    (line,) = requests(log_lines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["timestamp"])
    assert line["duration_ms"] > 0
    assert {key: line[key] for key in ("level", "method", "path", "route", "status")} == {
        "level": "info",
        "method": "GET",
        "path": "/probe/items/7",
        "route": "/probe/items/{item_id}",
        "status": 200,
    }
    assert line["client"] == "192.0.2.7"
    assert line["bytes"] == len(response.content)


def bound_in_a_thread() -> None:
    bind(order=7)


def bound_around_the_endpoint() -> Iterator[None]:
    bind(order=7)
    yield


async def bound_in_a_task() -> None:
    async def work() -> None:
        bind(order=7)

    await asyncio.create_task(work())


@pytest.mark.parametrize(
    "dependency", [bound_in_a_thread, bound_around_the_endpoint, bound_in_a_task]
)
def test_the_line_has_what_was_bound_anywhere_in_the_request(
    dependency: Any, probe_app: ProbeApp, probe_client: ProbeClient, log_lines: LogLines
) -> None:
    app = probe_app()

    @app.get("/mine", dependencies=[Depends(dependency)])
    async def mine() -> None:
        logging.getLogger("mine").info("here")

    client = probe_client(app=app)
    for path in ("/mine", "/probe/ok"):
        client.get(path)

    assert [(line["event"], line.get("order")) for line in log_lines()] == [
        ("here", 7),
        ("request", 7),
        ("request", None),
    ]


def test_the_line_has_what_was_bound_inside_of_a_class_with_a_task_of_its_own(
    probe_app: ProbeApp, probe_client: ProbeClient, log_lines: LogLines
) -> None:
    async def passing(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        return response

    app = probe_app(own=[innermost(Middleware(BaseHTTPMiddleware, dispatch=passing))])

    @app.get("/mine")
    async def mine() -> None:
        bind(order=7)

    probe_client(app=app).get("/mine")

    (line,) = requests(log_lines())
    assert line["order"] == 7


def test_neither_query_nor_header_values_are_logged(
    probe_client: ProbeClient, log_lines: LogLines
) -> None:
    probe_client().get("/probe/ok?key=hidden1", headers={"Authorization": "Bearer hidden2"})

    assert "hidden" not in str(log_lines())


class Row:
    """A row of a database whose session is over."""

    @property
    def id(self) -> int:
        raise LookupError


@pytest.mark.parametrize("user", [{"id": 7}, "ada", Row()])
def test_whatever_an_app_keeps_under_a_name_of_a_layer_there_is_one_line(
    user: object, probe_app: ProbeApp, probe_client: ProbeClient, log_lines: LogLines
) -> None:
    app = probe_app()

    @app.get("/kept")
    async def kept(request: Request) -> None:
        request.state.user = user
        request.state.refused_by = ["me"]

    probe_client(app=app).get("/kept")

    (line,) = log_lines()
    assert (line["user"], line["refused_by"], line["reason"]) == (None, ["me"], None)


def test_an_unknown_path_has_no_route(probe_client: ProbeClient, log_lines: LogLines) -> None:
    probe_client().get("/nowhere")

    (line,) = requests(log_lines())
    assert (line["status"], line["route"]) == (404, None)


def test_a_path_can_not_forge_a_line(probe_client: ProbeClient, log_lines: LogLines) -> None:
    probe_client().get('/x%0a{"event": "request"}%1b[31m')

    (line,) = requests(log_lines())
    assert line["path"] == '/x\n{"event": "request"}\x1b[31m'


def test_a_path_can_not_forge_a_readable_line(
    probe_client: ProbeClient, capfd: pytest.CaptureFixture[str]
) -> None:
    probe_client(log_format="console").get("/x%0aforged%1b[31m")

    (line,) = [line for line in capfd.readouterr().out.splitlines() if "request" in line]
    assert r"/x\nforged\x1b[31m" in line


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/redoc", "/docs/oauth2-redirect"])
def test_the_pages_of_the_framework_are_routes(
    path: str, probe_client: ProbeClient, log_lines: LogLines
) -> None:
    client = probe_client()

    client.get(path)
    client.get("/nowhere")

    assert [line["route"] for line in requests(log_lines())] == [path, None]


def test_a_page_of_a_mounted_app_has_its_prefix(
    probe_app: ProbeApp, probe_client: ProbeClient, log_lines: LogLines
) -> None:
    app = probe_app()
    app.mount("/shops/{shop}", FastAPI())

    probe_client(app=app).get("/shops/7/openapi.json")

    (line,) = requests(log_lines())
    assert line["route"] == "/shops/{shop}/openapi.json"


def test_a_mounted_app_with_layers_has_no_line_of_its_own(
    probe_app: ProbeApp, probe_client: ProbeClient, log_lines: LogLines
) -> None:
    app, mounted = probe_app(), probe_app()
    mounted.title = "Mounted"
    app.mount("/mounted", mounted)

    probe_client(app=app).get("/mounted/probe/ok")

    (line,) = requests(log_lines())
    assert line["route"] == "/mounted/probe/ok"


@pytest.mark.parametrize(
    ("path", "level"),
    [("ok", "info"), ("raise/404", "info"), ("raise/503", "error"), ("boom", "error")],
)
def test_what_the_service_failed_at_is_an_error(
    path: str, level: str, probe_client: ProbeClient, log_lines: LogLines
) -> None:
    """A client's mistake is no failure of the service, or clients could raise alarms."""
    probe_client().get(f"/probe/{path}")

    (line,) = requests(log_lines())
    assert line["level"] == level


def test_a_stream_is_logged_when_it_ends(probe_client: ProbeClient, log_lines: LogLines) -> None:
    headers = {"Accept-Encoding": "identity"}
    response = probe_client().get("/probe/stream?chunks=3&seconds=0.02", headers=headers)

    (line,) = requests(log_lines())
    assert line["bytes"] == len(response.content)
    assert line["duration_ms"] > 40


def test_background_tasks_do_not_delay_it(probe_client: ProbeClient, log_lines: LogLines) -> None:
    probe_client().get("/probe/background?seconds=0.5")

    (line,) = requests(log_lines())
    assert line["duration_ms"] < 500


def test_a_stream_that_breaks_has_one_line(probe_client: ProbeClient, log_lines: LogLines) -> None:
    probe_client().get("/probe/broken-stream")

    (line,) = requests(log_lines())
    assert (line["status"], line["aborted"], line["level"]) == (200, True, "error")


def test_a_client_that_goes_away_is_logged_499(probe_app: ProbeApp, log_lines: LogLines) -> None:
    client = CutOff("GET", "/probe/stream?chunks=1000&seconds=0.005", pause=0.01).run(probe_app())

    (line,) = requests(log_lines())
    assert line["status"] == 499
    assert len(client.sent) < 100


def test_the_line_has_the_status_on_the_wire(
    probe_client: ProbeClient, log_lines: LogLines
) -> None:
    response = probe_client(own=[innermost(Middleware(Unavailable))]).get("/probe/ok")

    (line,) = requests(log_lines())
    assert line["status"] == response.status_code


def test_a_probe_is_logged_only_when_it_fails(
    probe_client: ProbeClient, log_lines: LogLines
) -> None:
    client = probe_client(probe_paths=["/probe/ok", "/probe/boom"])

    client.get("/probe/ok")
    client.get("/probe/boom")
    client.delete("/probe/ok")  # no probe

    lines = requests(log_lines())
    assert [(line["path"], line["method"]) for line in lines] == [
        ("/probe/boom", "GET"),
        ("/probe/ok", "DELETE"),
    ]


def test_a_websocket_has_one_line(probe_client: ProbeClient, log_lines: LogLines) -> None:
    with probe_client().websocket_connect(WS) as websocket:
        websocket.send_text("hi")
        websocket.receive_text()

    (line,) = requests(log_lines())
    assert (line["method"], line["status"], line["route"]) == ("WEBSOCKET", 101, "/probe/ws")


@pytest.mark.parametrize("path", [f"{WS}-boom", f"{WS}-late-refusal"])
def test_a_websocket_that_crashes_is_an_error(
    path: str, probe_client: ProbeClient, log_lines: LogLines
) -> None:
    with suppress(Exception), probe_client().websocket_connect(path) as websocket:
        websocket.receive_text()

    (line,) = requests(log_lines())
    assert (line["status"], line["aborted"], line["level"]) == (101, True, "error")


def test_the_server_s_own_lines_of_websockets_are_silent(
    probe_app: ProbeApp, log_lines: LogLines
) -> None:
    """They show the query string, where browsers have to put a token."""
    probe_app()
    server_log = logging.getLogger("uvicorn.error")

    server_log.info('%s - "WebSocket %s" [accepted]', "192.0.2.7", "/ws?token=hidden")
    server_log.info("connection open")
    server_log.info("connection closed")
    server_log.error("ASGI callable returned without completing handshake.")
    server_log.error("connection handler failed")

    assert [line["event"] for line in log_lines()] == ["connection handler failed"]


def test_the_server_has_no_access_log_beside_this_one(
    probe_client: ProbeClient, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor where `uvicorn.run(app)` configures its log after the stack was built."""
    client = probe_client()
    dictConfig(LOGGING_CONFIG)
    client.get("/probe/ok")
    capfd.readouterr()

    logging.getLogger("uvicorn.error").info("Started server process [1]")
    logging.getLogger("uvicorn.access").info("GET /?token=hidden")

    written = capfd.readouterr()
    assert "hidden" not in written.out + written.err
    assert "Started" in written.out


def test_a_processor_of_the_service_sees_the_line(
    probe_client: ProbeClient, log_lines: LogLines
) -> None:
    def redact(_: object, __: str, event: EventDict) -> EventDict:
        return {**event, "client": "redacted"} if "client" in event else event

    client = probe_client()
    client.get("/probe/ok")
    *fields, render = structlog.get_config()["processors"]
    structlog.configure(processors=[*fields, redact, render])
    client.get("/probe/ok")

    before, after = requests(log_lines())
    assert before["client"] == "127.0.0.1"
    assert after.keys() == before.keys()
    assert after["client"] == "redacted"


@pytest.mark.skipif("request_id" not in LAYERS, reason="the stack has no request_id")
def test_the_line_of_a_websocket_carries_the_id(
    probe_client: ProbeClient, log_lines: LogLines
) -> None:
    client = probe_client()
    with client.websocket_connect(WS, headers={"X-Request-ID": "ws-1"}) as websocket:
        websocket.send_text("hi")
        websocket.receive_text()

    (line,) = requests(log_lines())
    assert line["request_id"] == "ws-1"


def test_a_route_is_logged_when_it_fails(probe_client: ProbeClient, log_lines: LogLines) -> None:
    routes = {path: Policy(access_log=False) for path in ("/probe/ok", "/probe/boom")}
    client = probe_client(routes=routes)

    for path in ("/probe/ok", "/probe/boom", "/probe/state"):
        client.get(path)

    paths = [line["path"] for line in log_lines() if line.get("event") == "request"]
    assert paths == ["/probe/boom", "/probe/state"]
