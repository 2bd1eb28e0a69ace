"""Body limit: nobody makes the service read more than it wants."""

from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount, Route, Router
from starlette.types import Receive, Scope, Send

from app.middleware import Policy

from .asgi import Dialogue
from .conftest import WS, ProbeApp, ProbeClient, stack_settings
from .refusals import Refusal

REFUSAL = Refusal(
    status=413,
    settings={"max_body_bytes": 10},
    method="POST",
    path="/probe/upload",
    request={"content": b"eleven byte"},
    websocket=False,
)


def test_a_body_of_the_limit_passes(probe_client: ProbeClient) -> None:
    response = probe_client(max_body_bytes=10).post("/probe/upload", content=b"ten bytes.")

    assert response.json() == {"bytes": 10}


def test_one_byte_more_is_refused(probe_client: ProbeClient) -> None:
    response = probe_client(max_body_bytes=10).post("/probe/upload", content=b"eleven byte")

    assert response.status_code == 413
    assert response.headers["connection"] == "close"
    assert response.json()["detail"] == "The body can have at most 10 bytes."


@pytest.mark.parametrize("length", ["11", "9" * 30, "9" * 5000])
def test_a_declared_body_is_not_even_invited(length: str, probe_app: ProbeApp) -> None:
    """The server sends `100 Continue` when somebody reads."""
    headers = {"Content-Length": length, "Expect": "100-continue"}
    upload = Dialogue("POST", "/probe/upload", b"x" * 11, headers=headers)

    upload.run(probe_app(max_body_bytes=10))

    assert upload.status == 413
    assert upload.received == 0


@pytest.mark.parametrize("path", ["/probe/upload", "/probe/items"])
@pytest.mark.parametrize("declared", [True, False])
def test_declared_or_not_the_answer_is_the_same(
    declared: bool,  # noqa: FBT001
    path: str,
    probe_app: ProbeApp,
) -> None:
    """FastAPI itself would answer 400 where reading a JSON body fails."""
    headers = {"Content-Type": "application/json"}
    if declared:
        headers["Content-Length"] = "16"
    upload = Dialogue("POST", path, b'{"name":', b' "onion"}', headers=headers)

    upload.run(probe_app(max_body_bytes=10))

    assert upload.status == 413
    assert upload.headers["content-type"] == "application/problem+json"
    assert upload.headers["connection"] == "close"
    assert b'"layer":"body_limit"' in upload.body


def test_a_body_that_nothing_announces_is_counted_over_http_2(probe_app: ProbeApp) -> None:
    upload = Dialogue("POST", "/probe/upload", b"x" * 11)
    upload.scope["http_version"] = "2"
    upload.scope["headers"] = [(b"host", b"localhost")]

    upload.run(probe_app(max_body_bytes=10))

    assert upload.status == 413


def test_the_count_does_not_wait_for_the_end(
    probe_app: ProbeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.middleware.core.upload._LINGER_SECONDS", 0.01)
    upload = Dialogue("POST", "/probe/upload", b"x" * 100, endless=True)
    received: list[int] = []
    upload.watch = lambda _: received.append(upload.received)

    upload.run(probe_app(max_body_bytes=1000))

    assert upload.status == 413
    assert received[:2] == [11, 11]


@pytest.mark.parametrize("version", ["1.1", "2", "3"])
def test_the_answer_is_complete_ahead_of_the_end_of_the_upload(
    version: str, probe_app: ProbeApp
) -> None:
    """
    A client that is still sending would see a reset instead, if the server closed at once.

    Over HTTP/2 it may wait for a window, which nobody opens who doesn't read.
    """
    upload = Dialogue("POST", "/probe/upload", *[b"x" * 10] * 5)
    upload.scope["http_version"] = version
    received: list[int] = []
    upload.watch = lambda _: received.append(upload.received)

    upload.run(probe_app(max_body_bytes=10))

    assert received == [2, 2, 5]
    assert len(upload.sent[1]["body"]) == int(upload.headers["content-length"])
    assert upload.sent[2]["body"] == b""
    assert ("connection" in upload.headers) is (version == "1.1")


@pytest.mark.parametrize("swallows", [True, False])
def test_an_endpoint_can_not_hide_it(
    swallows: bool,  # noqa: FBT001
    probe_app: ProbeApp,
) -> None:
    app = probe_app(max_body_bytes=10)

    @app.post("/hides")
    async def hides(request: Request) -> str:
        try:
            await request.body()
        except Exception as exc:
            if not swallows:
                msg = "could not read"
                raise ValueError(msg) from exc
        return "all is well"

    upload = Dialogue("POST", "/hides", b"x" * 6, b"x" * 6).run(app)

    assert upload.status == 413


class Echo(Response):
    """Sends back what arrives, as it arrives."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            message = await receive()
            await send({**message, "type": "http.response.body"})


def test_an_answer_that_started_is_cut(probe_app: ProbeApp) -> None:
    app = probe_app(max_body_bytes=10)

    @app.post("/echo")
    async def echo() -> Response:
        return Echo()

    upload = Dialogue("POST", "/echo", b"x" * 6, b"x" * 6)

    with pytest.raises(RuntimeError, match="already started"):
        upload.run(app)
    assert upload.status == 200
    assert upload.body == b"x" * 6


def test_a_websocket_passes(probe_client: ProbeClient) -> None:
    with probe_client(max_body_bytes=10).websocket_connect(WS) as websocket:
        websocket.send_text("more than ten bytes")

        assert websocket.receive_text() == "more than ten bytes"


@pytest.mark.parametrize("value", [0, -1, "1MB"])
def test_nonsense_is_refused_at_start(value: Any) -> None:
    with pytest.raises(ValidationError):
        stack_settings(max_body_bytes=value)


def test_a_route_has_a_limit_of_its_own(probe_client: ProbeClient) -> None:
    routes = {"POST /probe/upload": Policy(max_body_bytes=20)}
    client = probe_client(max_body_bytes=10, routes=routes)

    assert client.post("/probe/upload", content=b"x" * 20).json() == {"bytes": 20}
    assert client.post("/probe/upload", content=b"x" * 21).status_code == 413
    assert client.post("/probe/items", content=b"x" * 11).status_code == 413


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("size", [5, 20])
def test_the_limit_that_fastapi_was_given_counts(
    size: int,
    declared: bool,  # noqa: FBT001
    probe_app: ProbeApp,
) -> None:
    """Both a lower and a higher one, of a route and of a router that is included."""
    app = probe_app(max_body_bytes=10)
    router = APIRouter()

    @app.post("/route", max_body_size=size)
    @router.post("/router")
    async def read(request: Request) -> int:
        return len(await request.body())

    app.include_router(router, max_body_size=size)
    for path in ("/route", "/router"):
        headers = {"Content-Length": str(size)} if declared else {}
        assert Dialogue("POST", path, b"x" * size, headers=headers).run(app).status == 200

        headers = {"Content-Length": str(size + 1)} if declared else {}
        upload = Dialogue("POST", path, b"x" * (size + 1), headers=headers).run(app)
        assert upload.status == 413
        assert upload.headers["content-type"] == "application/problem+json"
        assert f"at most {size} bytes".encode() in upload.body


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("entry", ["POST /up/load", "/up/*"])
def test_a_policy_replaces_the_limit_that_fastapi_was_given(
    entry: str,
    declared: bool,  # noqa: FBT001
    probe_app: ProbeApp,
) -> None:
    app = probe_app(max_body_bytes=10, routes={entry: Policy(max_body_bytes=20)})

    @app.post("/up/load", max_body_size=5)
    async def read(request: Request) -> int:
        return len(await request.body())

    def upload(size: int) -> Dialogue:
        headers = {"Content-Length": str(size)} if declared else {}
        return Dialogue("POST", "/up/load", b"x" * size, headers=headers).run(app)

    assert upload(20).status == 200
    refused = upload(21)
    assert refused.status == 413
    assert refused.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("size", [5, 20])
@pytest.mark.parametrize(
    "path",
    [
        *("/fastapi/", "/starlette/", "/mount/", "/around/", "/router/"),
        *("/route", "/included", "/below/included", "/below/mount/"),
    ],
)
def test_the_limit_of_what_is_not_fastapi_s_route_counts_and_has_the_form_of_the_service(
    path: str,
    size: int,
    declared: bool,  # noqa: FBT001
    probe_app: ProbeApp,
) -> None:
    """FastAPI and Starlette respond in plain text, and no log line names a layer."""

    async def read(request: Request) -> Response:
        return Response(str(len(await request.body())))

    app, mounted = probe_app(max_body_bytes=10), FastAPI(max_body_size=size)
    mounted.add_api_route("/", read, methods=["POST"], response_model=None)
    route = Route("/", read, methods=["POST"])
    app.mount("/fastapi", mounted)
    app.mount("/starlette", Starlette(routes=[route], max_body_size=size))
    app.mount("/router", Router(routes=[route], max_body_size=size))
    app.router.routes += [
        Mount("/mount", routes=[route], max_body_size=size),
        # The innermost replaces those around it.
        Mount("/around", mounted, max_body_size=1),
        Route("/route", read, methods=["POST"], max_body_size=size),
    ]
    router = APIRouter(routes=[Route("/included", read, methods=["POST"])])
    app.include_router(router, max_body_size=size)
    router.mount("/mount", Starlette(routes=[route]))
    outer = APIRouter(max_body_size=size)
    outer.include_router(router)
    app.include_router(outer, prefix="/below")

    def upload(size: int) -> Dialogue:
        headers = {"Content-Length": str(size)} if declared else {}
        return Dialogue("POST", path, b"x" * size, headers=headers).run(app)

    assert upload(size).status == 200
    refused = upload(size + 1)
    assert refused.status == 413
    assert refused.headers["content-type"] == "application/problem+json"
    assert f"at most {size} bytes".encode() in refused.body
