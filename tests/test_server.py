"""A service of every layer under a real server: what goes over the wire, and what never starts."""

import http.client
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from copier import run_copy
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from .serving import ORIGIN, SECONDS, Server, is_open, patiently, serving, started, with_main
from .support import FAILED_START, TESTS

ADDED: Final = """

from tests.middleware.probe import router as probe
from .server_routes import add_routes

app.include_router(probe)
add_routes(app)
"""


@pytest.fixture(scope="module")
def service(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("server") / "service"
    data = {"preset": "everything"}
    run_copy(str(template), folder, data=data, defaults=True, quiet=True, vcs_ref="HEAD")
    shutil.copy2(TESTS / "server_routes.py", folder / "app")
    return folder


@pytest.fixture(scope="module")
def server(service: Path) -> Iterator[Server]:
    with serving(with_main(service, ADDED)) as server:
        yield server


@pytest.fixture
def request_id(request: pytest.FixtureRequest) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", ".", request.node.name)[:128]


PLAIN: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"


class Case(NamedTuple):
    """A request, and its response."""

    path: str
    method: str
    headers: dict[str, str]
    status: int
    media_type: str


MATRIX: Final[dict[str, Case]] = {
    "200": Case("/probe/ok", "GET", {}, 200, JSON),
    "404": Case("/nowhere", "GET", {}, 404, PROBLEM),
    "405": Case("/probe/ok", "DELETE", {}, 405, PROBLEM),
    "422": Case("/probe/items/leek", "GET", {}, 422, PROBLEM),
    "500": Case("/probe/boom", "GET", {}, 500, PROBLEM),
    "foreign host": Case("/probe/ok", "GET", {"Host": "evil.example"}, 400, PROBLEM),
    "old client": Case("/probe/ok", "GET", {"User_Agent": "LegacyApp/1.4"}, 410, PROBLEM),
    "preflight": Case("/probe/ok", "OPTIONS", {"Access_Control_Request_Method": "PUT"}, 200, PLAIN),
    "sync": Case("/probe/sync", "GET", {}, 200, JSON),
    "background": Case("/probe/background", "GET", {}, 200, JSON),
    "mounted": Case("/mounted/ok", "GET", {}, 200, PLAIN),
    # A mounted app answers its errors itself, and what is around it decorates them.
    "mounted, raising": Case("/mounted/boom", "GET", {}, 500, PLAIN),
    "OPTIONS": Case("/probe/ok", "OPTIONS", {}, 405, PROBLEM),
}


@pytest.mark.parametrize("case", MATRIX.values(), ids=MATRIX)
def test_every_answer_is_decorated(case: Case, server: Server, request_id: str) -> None:
    headers = {"Origin": ORIGIN, "X_Request_ID": request_id, **case.headers}

    reply = server.request(case.path, case.method, **headers)

    assert reply.status == case.status
    assert reply.headers["content-type"] == case.media_type
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    assert reply.headers["x-request-id"] == request_id
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "secret" not in reply.body
    if case.media_type == PROBLEM:
        problem = json.loads(reply.body)
        assert (problem["status"], problem["request_id"]) == (case.status, request_id)
    assert [line["status"] for line in server.lines(request_id)] == [case.status]


def test_head_has_the_headers_and_no_body(server: Server, request_id: str) -> None:
    reply = server.request("/mounted/ok", "HEAD", X_Request_ID=request_id)

    assert (reply.status, reply.body) == (200, "")
    assert reply.headers["x-request-id"] == request_id
    assert len(server.lines(request_id)) == 1


def test_an_event_stream_arrives_event_by_event(server: Server, request_id: str) -> None:
    """The next event is made only when the last one has arrived, so none may be held back."""
    with _stream(server, "/wire/steps", request_id) as receive:
        for number in range(3):
            receive(f"data: {number}\n\n")
            server.request("/wire/step", "POST")

    assert [line["status"] for line in server.lines(request_id)] == [200]


def test_a_client_that_goes_away_is_a_499(server: Server, request_id: str) -> None:
    with _stream(server, "/wire/steps", request_id) as receive:
        receive("data: 0\n\n")

    assert [line["status"] for line in server.lines(request_id)] == [499]
    server.request("/wire/step", "POST")


def test_a_stream_that_breaks_is_one_incident(server: Server, request_id: str) -> None:
    """What nobody can answer any more is logged by the server, under the id."""
    with pytest.raises(http.client.IncompleteRead):
        server.request("/probe/broken-stream", X_Request_ID=request_id)

    lines = server.lines(request_id)
    assert [line["status"] for line in lines] == [200]
    assert len(server.incidents(request_id)) == 1


def test_a_chunked_upload_arrives(server: Server, request_id: str) -> None:
    chunks = (b"onion" * 100 for _ in range(20))

    reply = server.request("/probe/upload", "POST", body=chunks, X_Request_ID=request_id)

    assert json.loads(reply.body) == {"bytes": 10_000}


def test_a_websocket_is_accepted(server: Server, request_id: str) -> None:
    headers = {"X-Request-ID": request_id}
    url = f"ws://localhost:{server.port}/probe/ws?token=leek"
    with connect(url, additional_headers=headers) as socket:
        socket.send("leek")
        assert socket.recv(timeout=SECONDS) == "leek"
        assert socket.response is not None
        assert socket.response.headers["x-request-id"] == request_id

    assert [line["status"] for line in server.lines(request_id)] == [101]
    assert "token" not in server.output.read_text("utf-8")


def test_a_websocket_is_refused(server: Server, request_id: str) -> None:
    headers = {"X-Request-ID": request_id, "User-Agent": "LegacyApp/1.4"}

    with pytest.raises(InvalidStatus) as refusal:
        connect(
            f"ws://localhost:{server.port}/probe/ws",
            additional_headers=headers,
            user_agent_header=None,
        )

    assert refusal.value.response.status_code == 410
    assert refusal.value.response.headers["x-request-id"] == request_id
    assert [line["status"] for line in server.lines(request_id)] == [410]


def test_a_websocket_that_crashes_is_closed_with_1011(server: Server, request_id: str) -> None:
    headers = {"X-Request-ID": request_id}
    with (
        connect(
            f"ws://localhost:{server.port}/probe/ws-boom", additional_headers=headers
        ) as socket,
        pytest.raises(ConnectionClosedError) as closed,
    ):
        socket.recv(timeout=SECONDS)

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011
    assert len(server.lines(request_id)) == 1


def test_a_websocket_that_crashes_early_is_answered_500(server: Server, request_id: str) -> None:
    headers = {"X-Request-ID": request_id}
    with pytest.raises(InvalidStatus) as refusal:
        connect(f"ws://localhost:{server.port}/probe/ws-boom-early", additional_headers=headers)

    assert refusal.value.response.status_code == 500
    assert [line["status"] for line in server.lines(request_id)] == [500]


def test_the_server_s_own_access_log_is_silent(server: Server, request_id: str) -> None:
    server.request("/probe/ok", X_Request_ID=request_id)

    assert len(server.lines(request_id)) == 1
    assert "HTTP/1.1" not in server.output.read_text("utf-8")


def test_it_works_under_a_root_path(service: Path, request_id: str) -> None:
    with serving(with_main(service, ADDED), "--root-path", "/api") as server:
        reply = server.request("/probe/items/1", X_Request_ID=request_id)
        probe = server.request("/healthz", Host="10.0.0.1")
        schema = json.loads(server.request("/openapi.json").body)
        (line,) = server.lines(request_id)

    assert (reply.status, probe.status) == (200, 200)
    assert schema["servers"] == [{"url": "/api"}]
    assert line["route"] == "/probe/items/{item_id}"


def test_fastapi_run_serves_it(service: Path) -> None:
    with serving(with_main(service, ADDED), command=("fastapi", "run")) as server:
        assert server.request("/healthz").status == 200


WRONG: Final = {
    "an origin with a slash": ({"CORS_ALLOW_ORIGINS": f"{ORIGIN}/"}, ["CORS_ALLOW_ORIGINS"]),
    "any origin with credentials": (
        {"CORS_ALLOW_ORIGINS": "*", "CORS_ALLOW_CREDENTIALS": "true"},
        ["CORS_ALLOW_"],
    ),
    "a host with a scheme": ({"ALLOWED_HOSTS": "https://api.example"}, ["ALLOWED_HOSTS"]),
    "an unknown log format": ({"LOG_FORMAT": "xml"}, ["LOG_FORMAT"]),
    "a number that is none": ({"REQUEST_TIMEOUT": "soon"}, ["REQUEST_TIMEOUT"]),
    "trust in every proxy": ({"TRUSTED_PROXIES": "*"}, ["TRUSTED_PROXIES"]),
    "a short secret": ({"SESSION_SECRET": "leek"}, ["SESSION_SECRET"]),
    "no secret": ({"SESSION_SECRET": ""}, ["SESSION_SECRET"]),
    "a port that is none": (
        {"CROSS_ORIGIN_TRUSTED": "https://a:99999", "CORS_ALLOW_ORIGINS": "https://a:99999"},
        ["CORS_ALLOW_ORIGINS", "CROSS_ORIGIN_TRUSTED"],
    ),
    "an address that is none": (
        {"CROSS_ORIGIN_TRUSTED": "https://[:]"},
        ["CROSS_ORIGIN_TRUSTED must not hold 'https://[:]'"],
    ),
    "text that is not UTF-8": (
        {"BLOCKED_CLIENTS_DETAIL": os.fsdecode(b"caf\xe9")},
        ["BLOCKED_CLIENTS_DETAIL must be UTF-8."],
    ),
    "a secret that is not UTF-8": (
        {"SESSION_SECRET": os.fsdecode(b"\xffleek" * 8)},
        ["SESSION_SECRET must be UTF-8."],
    ),
    "every client": ({"BLOCKED_CLIENTS": '[""]'}, ["BLOCKED_CLIENTS must not hold an empty item."]),
    "a header that frames the answer": (
        {"REQUEST_ID_HEADER": "Content-Length"},
        ["REQUEST_ID_HEADER"],
    ),
    "a path of two lines": ({"METRICS_PATH": "/m\nx"}, ["METRICS_PATH"]),
    "a pattern where paths are exact": (
        {"AUTHENTICATION_EXEMPT": "/hook/*"},
        ["AUTHENTICATION_EXEMPT must be exact paths such as /login"],
    ),
    "a wildcard for an audience": ({"JWT_AUDIENCE": "*"}, ["JWT_AUDIENCE must hold values as"]),
    "quotes that a tool kept": (
        {"MAINTENANCE_FILE": '"down"'},
        ["MAINTENANCE_FILE must not be in quotes"],
    ),
    "lists that admit nobody": (
        {"IP_ALLOW": "10.0.0.5", "IP_DENY": "10.0.0.0/8"},
        ["IP_DENY must not block all of IP_ALLOW"],
    ),
    "three at once": (
        {"ALLOWED_HOSTS": "a/b", "LOG_FORMAT": "xml", "MAX_BODY_BYTES": "-1"},
        ["LOG_FORMAT", "ALLOWED_HOSTS", "MAX_BODY_BYTES"],
    ),
}


@pytest.mark.parametrize(("settings", "named"), WRONG.values(), ids=WRONG)
def test_a_wrong_setting_is_refused(
    settings: dict[str, str], named: list[str], service: Path
) -> None:
    status, output = _refused(with_main(service, ADDED), **settings)

    assert status == FAILED_START
    assert "Traceback" not in output
    lines = output.strip().split("\n")
    assert len(lines) == len(named)
    assert all(any(line.startswith(name) for line in lines) for name in named)
    assert "leek" not in output


def test_an_env_file_that_is_not_utf_8_is_refused(service: Path) -> None:
    copy = with_main(service, f"{ADDED}# with a file of settings\n")
    (copy / ".env").write_bytes(b"BLOCKED_CLIENTS_DETAIL=caf\xe9\n")

    status, output = _refused(copy)

    assert (status, output) == (FAILED_START, ".env must be UTF-8.\n")


NEIGHBOURLESS: Final = """
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from app.middleware import inside
own = [inside("nothing", Middleware(GZipMiddleware))]
stack_options(Settings.from_environment(), own=own)
"""


OF_A_TEAM: Final = """

class Mine(Settings):
    sizes: tuple[int, ...] = ()

Mine.from_environment()
"""


@pytest.mark.parametrize(
    ("added", "settings", "sentence"),
    [
        (ADDED, {"SESSION_SECRET": ""}, "SESSION_SECRET"),
        (OF_A_TEAM, {"SIZES": "1,south"}, "SIZES must be a whole number, not 'south'."),
        (NEIGHBOURLESS, {}, "can't be"),
    ],
    ids=["a setting", "a setting of a team", "a layer of one's own"],
)
def test_workers_that_can_not_start_are_not_started_for_ever(
    added: str, settings: dict[str, str], sentence: str, service: Path
) -> None:
    """An orchestrator would take the supervisor for a service."""
    command = ("uvicorn", "app.main:app", "--workers", "2")
    with started(with_main(service, added), command=command, **settings) as server:
        server.process.wait(SECONDS)
        output = server.output.read_text("utf-8")

    assert sentence in output
    assert "Traceback" not in output


def test_a_request_that_outlasts_the_grace_of_a_stop_is_answered(
    service: Path, request_id: str
) -> None:
    grace = ("--timeout-graceful-shutdown", "1")
    with serving(with_main(service, ADDED), *grace) as server, ThreadPoolExecutor() as pool:
        headers = {"Origin": ORIGIN, "X_Request_ID": request_id}
        reply = pool.submit(server.request, "/probe/slow?seconds=20", **headers)
        time.sleep(1)
        server.process.terminate()
        answered = reply.result(SECONDS)
        server.process.wait(SECONDS)

    assert answered.status == json.loads(answered.body)["status"] == 503
    assert answered.headers["retry-after"] == "1"
    assert answered.headers["access-control-allow-origin"] == ORIGIN
    assert [line["status"] for line in server.lines(request_id)] == [503]


BY_DECORATOR: Final = """
@app.middleware("http")
async def late(request, call_next):
    return await call_next(request)
"""
BY_INSTRUMENTOR: Final = """
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
FastAPIInstrumentor.instrument_app(app)
"""
BY_HAND: Final = """
from starlette.middleware.gzip import GZipMiddleware
app.middleware_stack = GZipMiddleware(app.build_middleware_stack())
"""
AFTERWARDS: Final = """
from starlette.middleware.gzip import GZipMiddleware
app.add_middleware(GZipMiddleware)
"""
DOUBLED: Final = """
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
app.user_middleware.append(Middleware(TrustedHostMiddleware))
"""
REARRANGED: Final = """
app.user_middleware[1:] = reversed(app.user_middleware[1:])
"""
DOUBLE: Final = "does the job of the layer"
LATE: Final = {
    "add_middleware": (AFTERWARDS, f"GZipMiddleware {DOUBLE} compression. Remove it"),
    "a decorator": (
        BY_DECORATOR,
        "The function app.main.late was added outside the middleware stack",
    ),
    "a stack that was replaced": (BY_HAND, f"GZipMiddleware {DOUBLE} compression. Remove it"),
    "an instrumentor": (BY_INSTRUMENTOR, "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=fastapi"),
    "a double": (DOUBLED, f"TrustedHostMiddleware {DOUBLE} trusted_host. Remove it"),
    "a rearranged list": (REARRANGED, "access_log must run outside error_handler: "),
}


@pytest.mark.parametrize(("code", "sentence"), LATE.values(), ids=LATE)
def test_a_spoiled_stack_does_not_start(code: str, sentence: str, service: Path) -> None:
    status, output = _refused(with_main(service, code))

    assert status == FAILED_START
    assert sentence in output
    assert "Traceback" not in output


def _refused(service: Path, **settings: str) -> tuple[int, str]:
    """Start a server that must end by itself; its port may open at no time."""
    with started(service, command=("uvicorn", "app.main:app"), **settings) as server:
        for _ in patiently():
            assert not is_open(server.port)
            if server.process.poll() is not None:
                break
        return server.process.wait(SECONDS), server.output.read_text("utf-8")


@contextmanager
def _stream(server: Server, path: str, request_id: str) -> Generator[Callable[[str], None]]:
    """Read a response as it comes, up to each text that is asked for."""
    with closing(socket.create_connection(("127.0.0.1", server.port), SECONDS)) as connection:
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: {request_id}\r\n\r\n"
        connection.sendall(head.encode())
        received = b""

        def receive(text: str) -> None:
            nonlocal received
            while text.encode() not in received:
                data = connection.recv(65536)
                assert data, received
                received += data

        yield receive
