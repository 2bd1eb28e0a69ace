"""Conditional: a client that has the body already is spared it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from app.middleware import Policy
from app.middleware.order import LAYERS

from .asgi import Dialogue
from .conftest import LogLines, ProbeApp, ProbeClient
from .refusals import Answer

PLAIN = {"Accept-Encoding": "identity"}


def with_answer(app: FastAPI, response: Response) -> FastAPI:
    """Add a route `/it` that always answers with this one object."""

    @app.api_route("/it", methods=["GET", "HEAD", "POST"])
    async def it() -> Response:
        return response

    return app


def test_a_tag_spares_the_body(probe_client: ProbeClient) -> None:
    client = probe_client()

    tag = client.get("/probe/ok", headers=PLAIN).headers["etag"]
    response = client.get("/probe/ok", headers={**PLAIN, "If-None-Match": tag})

    assert tag.startswith('"')
    assert response.status_code == 304
    assert response.content == b""
    assert response.headers["etag"] == tag
    assert not {"content-length", "content-type"} & response.headers.keys()


def test_another_body_has_another_tag(probe_client: ProbeClient) -> None:
    client = probe_client()

    tags = {client.get(f"/probe/items/{number}").headers["etag"] for number in range(3)}

    assert len(tags) == 3


@pytest.mark.parametrize(
    "condition", ['"mine"', 'W/"mine"', '"other", "mine"', '"a,b" , W/"mine"', "*", " * "]
)
@pytest.mark.parametrize("tag", ['"mine"', 'W/"mine"'])
def test_a_tag_of_the_endpoint_is_compared(
    tag: str, condition: str, probe_client: ProbeClient
) -> None:
    response = probe_client().get(
        f"/probe/headers?name=ETag&value={tag}", headers={**PLAIN, "If-None-Match": condition}
    )

    assert response.status_code == 304
    assert response.headers["etag"] == tag


@pytest.mark.parametrize("condition", ['"other"', "mine", "", '"*"', '"a", "mine" b"'])
def test_another_tag_spares_nothing(condition: str, probe_client: ProbeClient) -> None:
    response = probe_client().get(
        '/probe/headers?name=ETag&value="a b"', headers={**PLAIN, "If-None-Match": condition}
    )

    assert response.status_code == 200
    assert response.headers["etag"] == '"a b"'
    assert response.text == "ok"


def test_a_long_list_is_read(probe_client: ProbeClient) -> None:
    headers = {"If-None-Match": '"other", ' * 900 + '"mine"'}

    response = probe_client().get('/probe/headers?name=ETag&value="mine"', headers=headers)

    assert response.status_code == 304


def test_several_lines_are_one_list(probe_client: ProbeClient) -> None:
    headers = [("If-None-Match", '"other"'), ("If-None-Match", '"mine"')]

    response = probe_client().get('/probe/headers?name=ETag&value="mine"', headers=headers)

    assert response.status_code == 304


def test_a_304_keeps_what_does_not_describe_the_body(
    probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    kept = {
        "Cache-Control": "private",
        "Content-Location": "/onion",
        "Content-Security-Policy": "default-src 'self'",
        "Content-Security-Policy-Report-Only": "default-src 'none'",
        "Expires": "Thu, 01 Jan 2037 00:00:00 GMT",
        "ETag": '"mine"',
        "Set-Cookie": "seen=1",
        "Vary": "X-Tenant",
    }
    dropped = {"Content-Language": "en", "Content-Disposition": "inline"}
    answer = PlainTextResponse("text", headers={**kept, **dropped})
    client = probe_client(app=with_answer(probe_app(), answer))

    response = client.get("/it", headers={**PLAIN, "If-None-Match": "*"})

    assert response.status_code == 304
    for name, value in kept.items():
        assert value in response.headers[name]
    for name in (*dropped, "Content-Type", "Content-Length"):
        assert name not in response.headers


def test_a_shared_answer_is_not_edited(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    shared = PlainTextResponse("text")
    before = list(shared.raw_headers)
    client = probe_client(app=with_answer(probe_app(), shared))

    tag = client.get("/it", headers=PLAIN).headers["etag"]
    statuses = [
        client.get("/it", headers={**PLAIN, "If-None-Match": condition}).status_code
        for condition in (tag, '"other"', tag)
    ]

    assert statuses == [304, 200, 304]
    assert shared.raw_headers == before


def test_head_is_answered_like_get(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    client = probe_client(app=with_answer(probe_app(), PlainTextResponse("text")))

    tag = client.get("/it", headers=PLAIN).headers["etag"]

    assert client.head("/it", headers=PLAIN).headers["etag"] == tag
    assert client.head("/it", headers={**PLAIN, "If-None-Match": tag}).status_code == 304


def test_head_without_the_body_has_no_tag(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    """A tag of the empty body would be another than that of GET."""
    app = with_answer(probe_app(), Response(headers={"Content-Length": "4"}))

    response = probe_client(app=app).head("/it", headers=PLAIN)

    assert "etag" not in response.headers
    assert response.headers["content-length"] == "4"


def test_only_complete_answers_to_reading_have_a_tag(
    probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    app = with_answer(probe_app(), PlainTextResponse("text"))
    client = probe_client(app=app)

    for response in (
        client.post("/it", headers={"If-None-Match": "*"}),
        client.get("/probe/raise/404", headers={"If-None-Match": "*"}),
        client.get("/probe/stream", headers={"If-None-Match": "*"}),
        client.get("/probe/events", headers={"If-None-Match": "*"}),
    ):
        assert response.status_code in {200, 404}
        assert "etag" not in response.headers


def test_a_304_announces_no_trailers(probe_app: ProbeApp) -> None:
    """They don't come, and a client of HTTP/2 would wait for them."""
    app = probe_app()

    async def trailing(_: Scope, __: Receive, send: Send) -> None:
        headers = [(b"etag", b'"1"')]
        head = {"type": "http.response.start", "status": 200, "headers": headers}
        await send({**head, "trailers": True})
        await send({"type": "http.response.body", "body": b"text"})
        await send({"type": "http.response.trailers", "headers": []})

    app.mount("/trailing", trailing)
    dialogue = Dialogue("GET", "/trailing/", headers={"If-None-Match": '"1"'}).run(app)

    assert dialogue.status == 304
    assert not dialogue.sent[0].get("trailers", False)
    assert [message["type"] for message in dialogue.sent[1:]] == ["http.response.body"]


def test_a_stream_of_known_length_is_not_held_back(probe_app: ProbeApp) -> None:
    """Its head passes although no byte of its body is there yet."""
    app = probe_app()
    started = asyncio.Event()

    @app.get("/file")
    async def file() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            await started.wait()
            yield b"first, "
            yield b"second"

        # Its type is one that nothing else holds back.
        headers = {"Content-Length": "13"}
        return StreamingResponse(body(), media_type="image/png", headers=headers)

    def watch(message: Message) -> None:
        if message["type"] == "http.response.start":
            started.set()

    dialogue = Dialogue("GET", "/file", headers={"If-None-Match": "*"}, watch=watch)
    # Starlette waits for the client to leave, and sends from another task.
    dialogue.chunks.clear()
    dialogue.run(app)

    assert dialogue.status == 200
    assert dialogue.body == b"first, second"
    assert "etag" not in dialogue.headers


@pytest.mark.parametrize(
    "extensions", [{}, {"http.response.pathsend": {}}], ids=["by chunks", "by path"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_file_is_judged_by_its_own_tag(
    method: str, extensions: dict[str, Any], probe_app: ProbeApp, tmp_path: Path
) -> None:
    """It comes in several pieces, or never comes here at all."""
    file = tmp_path / "onion.png"
    file.write_bytes(b"onion " * 50_000)
    app = with_answer(probe_app(), FileResponse(file))
    first = Dialogue("HEAD", "/it").run(app)
    dialogues = [
        Dialogue(method, "/it", headers={"If-None-Match": tag})
        for tag in (first.headers["etag"], '"another"')
    ]
    for dialogue in dialogues:
        dialogue.scope["extensions"] = extensions
        dialogue.run(app)
    same, another = dialogues

    assert (same.status, same.body) == (304, b"")
    assert "content-length" not in same.headers
    assert another.status == 200
    assert another.sent[-1]["type"] != "http.response.start"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("wanted", "alone"), [("bytes=0-9", 206), ("bytes=900000-", 416), ("bytes=x", 400)]
)
def test_a_tag_comes_before_a_range(
    method: str, wanted: str, alone: int, probe_app: ProbeApp, tmp_path: Path
) -> None:
    """A client that has all of a file asks so whether more of it is there."""
    file = tmp_path / "onion.png"
    file.write_bytes(b"onion " * 10)
    app = with_answer(probe_app(), FileResponse(file))
    tag = Dialogue("HEAD", "/it").run(app).headers["etag"]
    conditions: list[dict[str, str]] = [
        {},
        {"If-None-Match": tag},
        {"If-None-Match": tag, "If-Range": '"another"'},
        {"If-None-Match": '"another"'},
    ]

    statuses = [
        Dialogue(method, "/it", headers={"Range": wanted, **condition}).run(app).status
        for condition in conditions
    ]

    assert statuses == [alone, 304, 304, 200]


class HeadOnly(Response):
    """Breaks when its body should come."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        raise RuntimeError


def test_a_head_whose_body_breaks_is_never_sent(probe_app: ProbeApp) -> None:
    """Another layer has responded when its moment is over."""
    app = with_answer(probe_app(), HeadOnly("text"))

    async def outlasted(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(RuntimeError):
            await app(scope, receive, send)
        await asyncio.sleep(0.1)

    dialogue = Dialogue("GET", "/it", headers=PLAIN).run(outlasted)

    assert dialogue.status == 500


@pytest.mark.parametrize("observer", [name for name in ("access_log", "metrics") if name in LAYERS])
def test_an_operator_sees_the_304(
    observer: str, probe_client: ProbeClient, log_lines: LogLines
) -> None:
    client = probe_client()
    log_lines()

    response = client.get("/probe/ok", headers={"If-None-Match": "*"})

    assert response.status_code == 304
    answer = Answer(response=response, lines=log_lines(), client=client)
    import_module(f".test_{observer}", __package__).decorated(answer)


@pytest.mark.skipif("compression" not in LAYERS, reason="needs encodings")
def test_a_tag_is_good_for_every_encoding(probe_client: ProbeClient) -> None:
    client = probe_client()

    compressed = client.get("/probe/large", headers={"Accept-Encoding": "gzip"}).headers
    plain = client.get("/probe/large", headers=PLAIN).headers

    assert compressed["content-encoding"] == "gzip"
    assert compressed["etag"] == f"W/{plain['etag']}"
    for accepted in ("gzip", "identity", "zstd"):
        for tag in (compressed["etag"], plain["etag"]):
            response = client.get(
                "/probe/large", headers={"Accept-Encoding": accepted, "If-None-Match": tag}
            )
            assert response.status_code == 304
            assert response.headers["etag"].startswith("W/") is (accepted != "identity")
            assert "accept-encoding" in response.headers["vary"].lower()


def test_a_route_has_no_tag(probe_client: ProbeClient) -> None:
    client = probe_client(routes={"GET /probe/ok": Policy(conditional=False)})

    assert "etag" not in client.get("/probe/ok").headers
    assert "etag" in client.get("/probe/state").headers
