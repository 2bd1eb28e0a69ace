"""Compression: smaller bodies, for those who accept them and as early as without."""

import gzip
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from fastapi import FastAPI
from httpx2 import Response as Received
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from app.middleware import Policy
from app.middleware.order import LAYERS

from .asgi import Dialogue
from .conftest import LogLines, ProbeApp, ProbeClient

TEXT = "onion " * 500
GZIP = {"Accept-Encoding": "gzip"}


def varies(response: Received) -> list[str]:
    return [name.strip().lower() for name in response.headers.get("vary", "").split(",")]


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip, deflate, br", "br"),
        ("br;q=0.5, gzip;q=1.0", "gzip"),
        ("*", "zstd"),
        ("zstd;q=0, *;q=0.5", "br"),
        ("*;q=0, br", "br"),
        ("gzip ; q = 0.5", "gzip"),
        ("identity;q=0.5, gzip", "gzip"),
        ("identity, gzip;q=0.5", None),
        ("gzip;q=0", None),
        ("gzip;q=0, *;q=0", None),
        ("gzip;q=0.000", None),
        ("gzip;q=often", None),
        ("deflate", None),
        ("", None),
    ],
)
def test_the_client_chooses(accepted: str, coding: str | None, probe_client: ProbeClient) -> None:
    response = probe_client().get("/probe/large", headers={"Accept-Encoding": accepted})

    assert response.headers.get("content-encoding") == coding
    assert varies(response).count("accept-encoding") == 1
    assert (int(response.headers["content-length"]) < 2000) is (coding is not None)


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip, deflate, br, zstd", "gzip"),
        ("*", "gzip"),
        ("zstd, br", "br"),
        ("zstd, gzip;q=0.5", "zstd"),
    ],
)
def test_open_streams_take_little_memory(
    accepted: str, coding: str, probe_client: ProbeClient
) -> None:
    """That of zstd would be 1 GB for 500 of them."""
    response = probe_client().get("/probe/stream", headers={"Accept-Encoding": accepted})

    assert response.headers["content-encoding"] == coding


def test_a_long_list_is_read(probe_client: ProbeClient) -> None:
    headers = {"Accept-Encoding": "any, " * 1600 + "gzip"}

    response = probe_client().get("/probe/large", headers=headers)

    assert response.headers["content-encoding"] == "gzip"


@pytest.mark.parametrize("version", ["1.0", "1.1", "2"])
@pytest.mark.parametrize("media_type", ["text/plain", "text/event-stream"])
@pytest.mark.parametrize("has_length", [True, False])
@pytest.mark.parametrize("parts", [1, 3])
def test_a_client_that_can_t_read_chunks_needs_none(
    version: str, media_type: str, parts: int, *, has_length: bool, probe_app: ProbeApp
) -> None:
    async def file(_: Scope, __: Receive, send: Send) -> None:
        headers = [(b"content-type", media_type.encode())]
        if has_length:
            headers.append((b"content-length", str(parts * len(TEXT)).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in range(parts):
            more = part + 1 < parts
            await send({"type": "http.response.body", "body": TEXT.encode(), "more_body": more})

    app = probe_app()
    app.mount("/file", file)
    dialogue = Dialogue("GET", "/file/", headers=GZIP)
    dialogue.scope["http_version"] = version

    dialogue.run(app)

    is_encoded = dialogue.headers.get("content-encoding") == "gzip"
    is_text = media_type == "text/plain"
    assert is_encoded == (version != "1.0" or (parts == 1 and has_length and is_text))
    if version == "1.0":
        assert ("content-length" in dialogue.headers) == has_length
    assert "accept-encoding" in dialogue.headers["vary"].lower()
    body = gzip.decompress(dialogue.body) if is_encoded else dialogue.body
    assert body == TEXT.encode() * parts
    heads = [message for message in dialogue.sent if message["type"] == "http.response.start"]
    assert len(heads) == 1


def test_trailers_follow_the_body(probe_app: ProbeApp) -> None:
    async def summed(_: Scope, __: Receive, send: Send) -> None:
        head = {"status": 200, "headers": [(b"content-type", b"text/plain")], "trailers": True}
        await send({"type": "http.response.start", **head})
        await send({"type": "http.response.body", "body": TEXT.encode()})
        await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]})

    app = probe_app()
    app.mount("/summed", summed)

    dialogue = Dialogue("GET", "/summed/", headers=GZIP).run(app)

    assert [message["type"] for message in dialogue.sent].count("http.response.start") == 1
    assert dialogue.sent[-1]["type"] == "http.response.trailers"
    assert gzip.decompress(dialogue.body).decode() == TEXT


def test_lines_of_one_header_are_read_as_one(probe_client: ProbeClient) -> None:
    headers = [("Accept-Encoding", "br;q=0"), ("Accept-Encoding", "br;q=0, gzip")]

    response = probe_client().get("/probe/large", headers=headers)

    assert response.headers["content-encoding"] == "gzip"


def test_the_body_is_the_same(probe_app: ProbeApp) -> None:
    dialogue = Dialogue("GET", "/probe/large", headers=GZIP).run(probe_app())

    assert gzip.decompress(dialogue.body).startswith(b'{"text":"onion onion ')


def test_a_small_body_is_left_alone(probe_client: ProbeClient) -> None:
    response = probe_client(compression_minimum_size=100).get("/probe/large?size=60", headers=GZIP)

    assert "content-encoding" not in response.headers


@pytest.mark.parametrize(
    "media_type",
    [
        "application/x-ndjson",
        "application/json",
        "text/plain",
        "text/csv",
        "text/event-stream",
    ],
)
@pytest.mark.parametrize("coding", ["zstd", "br", "gzip", "identity"])
def test_a_stream_arrives_chunk_by_chunk(coding: str, media_type: str, probe_app: ProbeApp) -> None:
    """A chunk that waits in the compressor is a line of a log, or a word, that nobody sees."""
    steps: list[str] = []
    app = probe_app()

    @app.get("/lines")
    async def lines() -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            for number in range(3):
                steps.append("made")
                yield f"line {number}\n"

        return StreamingResponse(body(), media_type=media_type)

    def watch(message: Message) -> None:
        if message["type"] == "http.response.start" or message["body"]:
            steps.append("sent")

    dialogue = Dialogue("GET", "/lines", headers={"Accept-Encoding": coding}, watch=watch).run(app)

    assert steps[:7] == ["sent", "made", "sent", "made", "sent", "made", "sent"]
    assert dialogue.headers.get("content-encoding", "identity") == coding
    assert dialogue.headers["content-type"].startswith(media_type)
    assert "Accept-Encoding" in dialogue.headers["vary"]


def test_each_event_can_be_read_when_it_arrives(probe_app: ProbeApp) -> None:
    dialogue = Dialogue("GET", "/probe/events?chunks=3", headers=GZIP).run(probe_app())

    decompress = zlib.decompressobj(31).decompress
    chunks = [decompress(item["body"]) for item in dialogue.sent[1:]]
    assert chunks[:3] == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"]


@pytest.mark.parametrize("media_type", ["image/png", "application/zip"])
def test_a_stream_that_gains_nothing_is_left_alone(
    media_type: str, probe_client: ProbeClient
) -> None:
    response = probe_client().get(f"/probe/stream?media_type={media_type}", headers=GZIP)

    assert response.headers["content-type"] == media_type
    assert "content-encoding" not in response.headers


def with_answer(app: FastAPI, response: Response) -> FastAPI:
    """Add a route `/it` that always answers with this one object."""

    @app.api_route("/it", methods=["GET", "HEAD"])
    async def it() -> Response:
        return response

    return app


def test_a_part_is_left_alone(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    """The range counts bytes of the body as it is."""
    part = PlainTextResponse(TEXT, 206, {"Content-Range": "bytes 0-2999/9000"})

    response = probe_client(app=with_answer(probe_app(), part)).get("/it", headers=GZIP)

    assert "content-encoding" not in response.headers
    assert response.text == TEXT


@pytest.mark.parametrize("length", [10, 3000])
def test_a_part_varies_like_the_whole(
    length: int, probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    """Else a cache hands it to a client that has the beginning compressed (RFC 9110, 15.3.7)."""
    part = PlainTextResponse(TEXT[:length], 206, {"Content-Range": f"bytes 0-{length - 1}/9000"})

    response = probe_client(app=with_answer(probe_app(), part)).get("/it", headers=GZIP)

    assert varies(response).count("accept-encoding") == 1


def test_a_compressed_answer_offers_no_parts(
    probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    """They would be parts of the body as it was, and not go on where this one broke off."""
    whole = PlainTextResponse(TEXT, headers={"Accept-Ranges": "bytes"})
    client = probe_client(app=with_answer(probe_app(), whole))

    assert "accept-ranges" not in client.get("/it", headers=GZIP).headers
    plain = client.get("/it", headers={"Accept-Encoding": "identity"})
    assert plain.headers["accept-ranges"] == "bytes"


def test_an_encoded_body_is_left_alone(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    encoded = Response(
        gzip.compress(TEXT.encode()),
        headers={"Content-Encoding": "gzip", "ETag": '"mine"'},
        media_type="text/plain",
    )
    client = probe_client(app=with_answer(probe_app(compression_minimum_size=1), encoded))

    response = client.get("/it", headers={"Accept-Encoding": "zstd, gzip"})

    assert response.headers["content-encoding"] == "gzip"
    assert response.headers["etag"] == '"mine"'
    assert response.text == TEXT


@pytest.mark.parametrize("status", [200, 304])
def test_a_body_that_must_not_be_changed_is_left_alone(
    status: int, probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    signed = PlainTextResponse(
        "" if status == 304 else TEXT,
        status,
        {"Cache-Control": "max-age=60, No-Transform", "ETag": '"a"'},
    )

    response = probe_client(app=with_answer(probe_app(), signed)).get("/it", headers=GZIP)

    assert response.status_code == status
    assert "content-encoding" not in response.headers
    assert response.headers["etag"] == '"a"'
    assert "accept-encoding" not in varies(response)


def test_head_tells_what_get_would(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    client = probe_client(app=with_answer(probe_app(), PlainTextResponse(TEXT)))

    head = client.head("/it", headers=GZIP)
    get = client.get("/it", headers=GZIP)

    for name in ("content-encoding", "content-length", "vary"):
        assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize("accepted", ["gzip", "br", "zstd", "identity"])
@pytest.mark.parametrize("size", [10, 3_000, 300_000])
def test_head_of_a_file_tells_what_get_would(
    accepted: str, size: int, probe_app: ProbeApp, probe_client: ProbeClient, tmp_path: Path
) -> None:
    """It comes without the body that would be compressed."""
    file = tmp_path / "onion.txt"
    file.write_bytes(b"x" * size)
    app = probe_app()
    app.mount("/files", StaticFiles(directory=tmp_path))
    client = probe_client(app=app)

    head, get = (
        client.request(method, "/files/onion.txt", headers={"Accept-Encoding": accepted})
        for method in ("HEAD", "GET")
    )

    assert head.content == b""
    for name in ("accept-ranges", "content-encoding", "content-type", "etag", "vary"):
        assert head.headers.get(name) == get.headers.get(name)
    encoded = "content-encoding" in get.headers
    length = None if encoded else get.headers["content-length"]
    assert head.headers.get("content-length") == length


def test_a_shared_answer_is_not_edited(probe_app: ProbeApp, probe_client: ProbeClient) -> None:
    """A list that is edited in place would give the next client a wrong encoding."""
    shared = PlainTextResponse(TEXT, headers={"Vary": "X-Tenant"})
    before = list(shared.raw_headers)
    client = probe_client(app=with_answer(probe_app(), shared))

    for accepted in ("gzip", "identity", "gzip", "zstd"):
        response = client.get("/it", headers={"Accept-Encoding": accepted})
        coding = response.headers.get("content-encoding", "identity")
        assert coding == accepted

    assert shared.raw_headers == before
    assert shared.body == TEXT.encode()


@pytest.mark.parametrize(
    "vary", ["Cookie", "Accept-Encoding", "accept-encoding", "cookie, accept-encoding", "*"]
)
def test_vary_is_completed(vary: str, probe_client: ProbeClient) -> None:
    client = probe_client(compression_minimum_size=1)

    response = client.get(f"/probe/headers?name=Vary&value={vary}", headers=GZIP)

    assert response.headers["vary"].startswith(vary)
    assert varies(response).count("accept-encoding") == ("*" not in vary)


@pytest.mark.parametrize(
    ("accepted", "tag", "expected"),
    [
        ("gzip", '"mine"', 'W/"mine"'),
        ("gzip", 'W/"mine"', 'W/"mine"'),
        ("identity", '"mine"', '"mine"'),
    ],
)
def test_a_compressed_answer_has_a_weak_tag(
    accepted: str, tag: str, expected: str, probe_client: ProbeClient
) -> None:
    client = probe_client(compression_minimum_size=1)

    response = client.get(
        f"/probe/headers?name=ETag&value={tag}", headers={"Accept-Encoding": accepted}
    )

    assert response.headers["etag"] == expected


@pytest.mark.parametrize(("accepted", "tag"), [("gzip", 'W/"mine"'), ("identity", '"mine"')])
def test_a_304_has_the_tag_of_its_200(
    accepted: str, tag: str, probe_app: ProbeApp, probe_client: ProbeClient
) -> None:
    """A cache finds the answer that it may go on using by its tag (RFC 9111, 4.3.4)."""
    unchanged = Response(status_code=304, headers={"ETag": '"mine"'})
    client = probe_client(app=with_answer(probe_app(), unchanged))

    response = client.get("/it", headers={"Accept-Encoding": accepted})

    assert response.headers["etag"] == tag
    assert "accept-encoding" in varies(response)


FILE_EXTENSIONS: Final = ["http.response.pathsend", "http.response.zerocopysend"]


@pytest.mark.parametrize("extension", FILE_EXTENSIONS)
def test_the_route_is_noted_where_the_server_could_send_files_itself(
    extension: str, probe_app: ProbeApp
) -> None:
    """Outer layers read it from the scope that they passed in."""
    dialogue = Dialogue("GET", "/probe/items/7")
    dialogue.scope["extensions"] = {extension: dict[str, object]()}

    dialogue.run(probe_app())

    assert "route" in dialogue.scope


@pytest.mark.parametrize("extension", FILE_EXTENSIONS)
def test_a_file_is_compressed_where_the_server_could_send_it_itself(
    extension: str, probe_app: ProbeApp, tmp_path: Path
) -> None:
    file = tmp_path / "onion.txt"
    file.write_text(TEXT)
    dialogue = Dialogue("GET", "/it", headers=GZIP)
    dialogue.scope["extensions"] = {extension: dict[str, object]()}

    dialogue.run(with_answer(probe_app(), FileResponse(file)))

    assert dialogue.headers["content-encoding"] == "gzip"
    assert "Accept-Encoding" in dialogue.headers["vary"]
    assert gzip.decompress(dialogue.body).decode() == TEXT


@pytest.mark.parametrize("extension", FILE_EXTENSIONS)
def test_an_event_stream_starts_at_once_where_the_server_could_send_files_itself(
    extension: str, probe_app: ProbeApp
) -> None:
    steps: list[str] = []
    app = probe_app()

    @app.get("/late")
    async def late() -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            steps.append("made")
            yield "data: 1\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    dialogue = Dialogue("GET", "/late", headers=GZIP, watch=lambda _: steps.append("sent"))
    dialogue.scope["extensions"] = {extension: dict[str, object]()}

    dialogue.run(app)

    assert steps[:2] == ["sent", "made"]


@pytest.mark.skipif("access_log" not in LAYERS, reason="needs a line")
def test_the_line_tells_the_bytes_on_the_wire(
    probe_client: ProbeClient, log_lines: LogLines
) -> None:
    response = probe_client().get("/probe/large", headers=GZIP)

    (line,) = [line for line in log_lines() if line["event"] == "request"]
    assert line["bytes"] == int(response.headers["content-length"]) < 2000


@pytest.mark.skipif("timing" not in LAYERS, reason="needs the times")
def test_the_times_include_the_wait_for_the_body(probe_client: ProbeClient) -> None:
    response = probe_client().post("/probe/late-body?seconds=0.3", headers=GZIP)

    assert response.headers["content-encoding"] == "gzip"
    assert float(response.headers["x-process-time"]) >= 0.3


@pytest.mark.skipif("error_handler" not in LAYERS, reason="needs the answer")
def test_a_crash_ahead_of_the_first_bytes_is_a_clean_500(probe_client: ProbeClient) -> None:
    response = probe_client().post("/probe/late-body?seconds=0&breaks=true", headers=GZIP)

    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"


def test_a_route_sends_it_as_it_is(probe_client: ProbeClient) -> None:
    client = probe_client(routes={"GET /probe/large": Policy(compression=False)})

    assert "content-encoding" not in client.get("/probe/large").headers
    assert "content-encoding" in client.get("/probe/stream?media_type=text/plain").headers
