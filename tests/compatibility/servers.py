"""Servers: the layers work, forged headers are not trusted, and nothing forbidden is sent."""

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import pytest

from tests.serving import SECONDS, Server, wait_until
from tests.support import FAILED_START, free_port, run

from .bench import UVICORN, Bench, assert_layers_work, case

server = partial(case, kind="servers and hosts")


def _assert_one_place_decides(bench: Bench, *command: str, **environment: str) -> None:
    """Assert that `TRUSTED_PROXIES` alone decides whose forwarded headers are trusted."""
    forged = {"X_Forwarded_For": "203.0.113.9", "X_Forwarded_Proto": "https"}
    expected = {
        "192.0.2.1": {"client": "127.0.0.1", "scheme": "http"},
        "127.0.0.1": {"client": "203.0.113.9", "scheme": "https"},
    }
    for trusted, seen in expected.items():
        with bench.serving(*command, TRUSTED_PROXIES=trusted, **environment) as serving:
            assert_layers_work(serving)
            assert serving.request("/seen", **forged).json() == seen


@server("uvicorn without `--no-proxy-headers`", "uvicorn", sample=True)
def uvicorn(bench: Bench) -> None:
    bench.write_main(after=_ROUTES)
    command = ("uvicorn", "app.main:app", "--port", "{port}")
    _assert_one_place_decides(bench, *command)
    with bench.starting(*command, "--forwarded-allow-ips", "*") as refused:
        assert refused.process.wait(SECONDS) == FAILED_START
        assert "Start it with --no-proxy-headers and without" in refused.log()


@server("gunicorn, `uvicorn_worker.UvicornWorker`", "gunicorn", "uvicorn-worker")
def gunicorn(bench: Bench) -> None:
    bench.write_main(after=_ROUTES)
    command = ("gunicorn", "app.main:app", "-k", "uvicorn_worker.UvicornWorker", "-w", "1")
    _assert_one_place_decides(bench, *command, "-b", "127.0.0.1:{port}")
    with bench.serving(*command, "-b", "127.0.0.1:{port}", SHUTDOWN_DELAY="3") as serving:
        assert serving.request("/readyz").status == 200
        serving.process.send_signal(signal.SIGTERM)
        wait_until(lambda: serving.request("/readyz").status == 503)
        assert serving.request("/ok").status == 200


@server(
    "gunicorn, its own worker (`-k asgi`)",
    "gunicorn",
    "httpx",
    setup="`FORWARDED_ALLOW_IPS=` (empty), or gunicorn reads `X-Forwarded-Proto` from `127.0.0.1`",
)
def gunicorn_asgi(bench: Bench) -> None:
    bench.write_main(after=_ROUTES)
    command = ("gunicorn", "app.main:app", "-k", "asgi", "-w", "1", "-b", "127.0.0.1:{port}")
    _assert_one_place_decides(bench, *command, FORWARDED_ALLOW_IPS="")
    _assert_protocol(bench, "HTTP/1.1", *command, FORWARDED_ALLOW_IPS="")


_HYPERCORN = ("hypercorn", "app.main:app", "-b", "127.0.0.1:{port}")
_GRANIAN = (
    *("granian", "app.main:app", "--interface", "asgi"),
    *("--host", "127.0.0.1", "--port", "{port}"),
)


@server("hypercorn, HTTP/1.1", "hypercorn", "httpx")
def hypercorn(bench: Bench) -> None:
    bench.write_main(after=_ROUTES)
    _assert_one_place_decides(bench, *_HYPERCORN)
    _assert_protocol(bench, "HTTP/1.1", *_HYPERCORN)


@server(
    "hypercorn, `--worker-class trio`",
    "hypercorn[trio]",
    setup="not possible: the layers need asyncio, and the service doesn't start",
)
def hypercorn_trio(bench: Bench) -> None:
    bench.write_main()
    with bench.starting(*_HYPERCORN, "--worker-class", "trio") as refused:
        refused.process.wait(SECONDS)
        assert "The layers need asyncio" in refused.log()


_FORBIDDEN = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
_TOO_LARGE = 1_500_000
# More than a client of HTTP/2 may send before the server asks for more.
_REJECTED = 300_000
_ROUTES = """

from pathlib import Path

from fastapi import Request, WebSocket


@app.get("/slow")
async def slow() -> None:
    import asyncio

    await asyncio.sleep(60)


@app.post("/upload")
async def upload(request: Request) -> int:
    return len(await request.body())


@app.post("/unread")
async def unread() -> None:
    pass


@app.get("/seen")
async def seen(request: Request) -> dict[str, str]:
    return {"client": request.client.host, "scheme": request.scope["scheme"]}


@app.websocket("/ws")
async def ws(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close()


@app.get("/close")
async def close() -> None:
    Path("maintenance").touch()
"""


class _Asked(NamedTuple):
    """What is sent on one connection after the other requests, and what must come."""

    status: int
    path: str
    headers: Mapping[str, str] = MappingProxyType({})
    size: int = 0
    declared: bool = True


def _asked(unread: int) -> list[_Asked]:
    return [
        _Asked(200, "/ok"),
        _Asked(404, "/missing"),
        _Asked(500, "/boom"),
        _Asked(504, "/slow"),
        _Asked(413, "/upload", size=_TOO_LARGE),
        _Asked(413, "/upload", size=_TOO_LARGE, declared=False),
        _Asked(200, "/upload", size=unread),
        _Asked(200, "/unread", size=unread),
        _Asked(400, "/upload", {"host": "evil.example"}, size=_REJECTED),
        _Asked(401, "/upload", {"authorization": "Bearer forged"}, size=_REJECTED),
        _Asked(200, "/close"),
        _Asked(503, "/upload", size=_REJECTED),
    ]


_HTTP = """
import json, sys
import httpx
port, asked, version, reused = json.loads(sys.argv[1])
scheme = "http" if version == "HTTP/1.1" else "https"
make = lambda: httpx.Client(http2=version == "HTTP/2", verify=False, timeout=30)
client = make()
for status, path, headers, size, declared in asked:
    client = client if reused else make()
    body = b"x" * size if declared else iter([b"x" * (size // 10)] * 10)
    response = client.request(
        "POST" if size else "GET", f"{scheme}://127.0.0.1:{port}{path}", headers=headers,
        content=body if size else None,
    )
    print(json.dumps([response.http_version, response.status_code, dict(response.headers)]))
"""
_H3 = """
import asyncio, json, ssl, sys
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration

class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.heads = asyncio.Queue()

    def quic_event_received(self, event):
        for item in self.http.handle_event(event):
            if isinstance(item, HeadersReceived):
                self.heads.put_nowait({key.decode(): value.decode() for key, value in item.headers})

async def main(port, asked, version, reused):
    for part in [asked] if reused else [[item] for item in asked]:
        await connected(port, part)

async def connected(port, asked):
    options = {
        "configuration": QuicConfiguration(alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE),
        "create_protocol": Client,
    }
    async with connect("127.0.0.1", port, **options) as client:
        for status, path, headers, size, declared in asked:
            stream = client._quic.get_next_available_stream_id()
            head = {":method": "POST" if size else "GET", ":scheme": "https",
                ":authority": headers.pop("host", "localhost"), ":path": path, **headers}
            if size and declared:
                head["content-length"] = str(size)
            encoded = [(key.encode(), value.encode()) for key, value in head.items()]
            client.http.send_headers(stream, encoded, end_stream=not size)
            if size:
                client.http.send_data(stream, b"x" * size, end_stream=True)
            client.transmit()
            got = await asyncio.wait_for(client.heads.get(), 30)
            print(json.dumps(["HTTP/3", int(got.pop(":status")), got]))

asyncio.run(main(*json.loads(sys.argv[1])))
"""


def _assert_protocol(
    bench: Bench,
    version: str,
    *command: str,
    reused: bool = True,
    unread: int = 60_000,
    **environment: str,
) -> None:
    """
    Assert that each response arrives, also before the end of a body, on one connection.

    `unread` is the size of a body that the endpoint doesn't read: HTTP/2 lets a client send 65,535
    bytes.
    """
    (bench.service / "maintenance").unlink(missing_ok=True)
    settings = {"ALLOWED_HOSTS": "localhost,127.0.0.1", "REQUEST_TIMEOUT": "3"}
    with bench.serving(*command, **settings, **environment) as serving:
        asked = _asked(unread)
        replies = _replies(bench, serving, version, asked, reused=reused)
        expected = [(version, item.status) for item in asked]
        assert [(seen, status) for seen, status, _ in replies] == expected, serving.log()
    (bench.service / "maintenance").unlink()
    with bench.serving(*command, RATE_LIMIT="2/minute", **environment) as serving:
        asked = [_Asked(200, "/ok"), _Asked(200, "/ok"), _Asked(429, "/upload", size=_REJECTED)]
        replies += _replies(bench, serving, version, asked, reused=reused)
        assert [status for _, status, _ in replies[-3:]] == [200, 200, 429]
    for _, _, headers in replies:
        assert headers["x-request-id"]
        assert version == "HTTP/1.1" or not _FORBIDDEN & headers.keys()


def _replies(
    bench: Bench, serving: Server, version: str, asked: Sequence[_Asked], *, reused: bool
) -> list[tuple[str, int, dict[str, str]]]:
    client = _H3 if version == "HTTP/3" else _HTTP
    arguments = json.dumps([serving.port, asked, version, reused], default=dict)
    done = bench.run("python", "-c", client, arguments)
    assert done.returncode == 0, (done.stdout, serving.log())
    return [json.loads(line) for line in done.stdout.splitlines() if line[0] == "["]


def _tls(bench: Bench, certificate_option: str, key_option: str) -> tuple[str, ...]:
    certificate, key = map(str, bench.certificate)
    return (certificate_option, certificate, key_option, key)


@server(
    "hypercorn, HTTP/2",
    "hypercorn",
    "httpx[http2]",
    setup="nothing; hypercorn itself closes the connection where an endpoint doesn't read the body",
)
def hypercorn_h2(bench: Bench) -> None:
    bench.write_main(after=_ROUTES)
    tls = _tls(bench, "--certfile", "--keyfile")
    _assert_protocol(bench, "HTTP/2", *_HYPERCORN, *tls, reused=False)


@server(
    "hypercorn, HTTP/3",
    "hypercorn[h3]",
    setup="nothing; hypercorn itself stops listening where an endpoint doesn't read a large body",
)
def hypercorn_h3(bench: Bench) -> None:
    bench.write_main(after=_ROUTES)
    tls = ("--quic-bind", "127.0.0.1:{port}", *_tls(bench, "--certfile", "--keyfile"))
    _assert_protocol(bench, "HTTP/3", *_HYPERCORN, *tls, unread=500)


@server("uvicorn, HTTP/2 (`--http zttp --http2`)", "uvicorn", "zttp", "httpx[http2]")
def uvicorn_h2(bench: Bench) -> None:
    bench.write_main(after=_ROUTES)
    tls = _tls(bench, "--ssl-certfile", "--ssl-keyfile")
    _assert_protocol(bench, "HTTP/2", *UVICORN, "--http", "zttp", "--http2", *tls)


@server("granian, HTTP/2", "granian", "httpx[http2]")
def granian_h2(bench: Bench) -> None:
    bench.write_main(after=_ROUTES)
    tls = _tls(bench, "--ssl-certificate", "--ssl-keyfile")
    _assert_protocol(bench, "HTTP/2", *_GRANIAN, *tls)


@server(
    "granian, HTTP/1.1",
    "granian",
    "httpx",
    setup="nothing; granian itself drops the headers of an accepted websocket handshake",
)
def granian(bench: Bench) -> None:
    bench.write_main(after=_ROUTES)
    _assert_one_place_decides(bench, *_GRANIAN)
    _assert_protocol(bench, "HTTP/1.1", *_GRANIAN)
    with bench.serving(*_GRANIAN) as serving:
        assert "x-request-id" not in _accepted(serving)


def _accepted(serving: Server) -> http.client.HTTPMessage:
    """Return the headers with which a websocket handshake is accepted."""
    handshake = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=SECONDS)
    with closing(connection):
        connection.request("GET", "/ws", headers=handshake)
        response = connection.getresponse()
        assert response.status == http.HTTPStatus.SWITCHING_PROTOCOLS
        return response.headers


_LAMBDA = """
import json
from mangum import Mangum
from app.main import app
handler = Mangum(app, lifespan="on")
for path in ("/ok", "/missing", "/boom"):
    event = {"version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": "",
        "headers": {"host": "localhost"}, "isBase64Encoded": False,
        "requestContext": {"http": {"method": "GET", "path": path, "sourceIp": "192.0.2.1",
            "protocol": "HTTP/1.1"}}}
    response = handler(event, None)
    print("reply", response["statusCode"], response["headers"].get("x-request-id", ""))
"""


@server("Mangum (AWS Lambda)", "mangum")
def mangum(bench: Bench) -> None:
    bench.write_main()
    done = bench.run("python", "-c", _LAMBDA)
    replies = [line.split() for line in done.stdout.splitlines() if line.startswith("reply")]
    assert [reply[1] for reply in replies] == ["200", "404", "500"], done.stdout
    assert all(len(reply) == 3 for reply in replies)


# As root, nginx would give its workers to a user who can't read the socket.
_NGINX = """
user root;
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        location / {{
            proxy_pass {upstream};
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
}}
"""


_LINES = """

from collections.abc import AsyncIterator
from fastapi.responses import StreamingResponse


@app.get("/lines")
async def lines() -> StreamingResponse:
    async def each() -> AsyncIterator[str]:
        yield "1\\n"
        yield "2\\n"

    return StreamingResponse(each(), media_type="application/jsonl")
"""


def _assert_nginx(bench: Bench, upstream: str, *command: str, trusted: str) -> str:
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if not nginx:
        pytest.skip("nginx is not installed")
    bench.write_main(after=_LINES)
    settings = {"TRUSTED_PROXIES": trusted, "HTTPS_REDIRECT": "true", "ALLOWED_HOSTS": "127.0.0.1"}
    with bench.starting(*command, **settings) as serving:
        port = free_port()
        certificate, key = bench.certificate
        address = upstream.format(port=serving.port, folder=bench.service)
        filled = _NGINX.format(
            folder=bench.service, port=port, certificate=certificate, key=key, upstream=address
        )
        path = bench.service / "nginx.conf"
        path.write_text(filled, "utf-8")
        with subprocess.Popen((nginx, "-p", bench.service, "-c", path)) as proxy:
            try:
                wait_until(lambda: _got(bench, port, "/ok")[0] == 200)
                assert _got(bench, port, "/boom")[0] == 500
                # Which nginx asks for with HTTP/1.0.
                assert _got(bench, port, "/lines") == (200, b"1\n2\n")
            finally:
                proxy.terminate()
    version = run(nginx, "-v", cwd=bench.service).stdout
    return f"nginx {version.strip().rpartition('/')[2]}"


def _got(bench: Bench, port: int, path: str) -> tuple[int, bytes]:
    context = ssl.create_default_context(cafile=bench.certificate[0])
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)
    with closing(connection):
        try:
            connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
            response = connection.getresponse()
            return response.status, response.read()
        except OSError:
            return 0, b""


@server("nginx with TLS", "uvicorn", setup="`TRUSTED_PROXIES` with the address of nginx")
def nginx_tls(bench: Bench) -> str:
    return _assert_nginx(bench, "http://127.0.0.1:{port}", *UVICORN, trusted="127.0.0.1")


@server("nginx over a unix socket", "uvicorn", setup="`TRUSTED_PROXIES=unix`")
def nginx_unix(bench: Bench) -> str:
    command = ("uvicorn", "app.main:app", "--uds", "service.sock", "--no-proxy-headers")
    return _assert_nginx(bench, "http://unix:{folder}/service.sock", *command, trusted="unix")


_HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen proxy
    bind 127.0.0.1:{port}
    option forwardfor
    server service 127.0.0.1:{upstream}
"""
_CHUNKED = "POST /upload HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
_TRAILER = "X-Forwarded-For: 203.0.113.9\r\n"


@server(
    "HAProxy",
    "uvicorn[standard]",
    setup="`TRUSTED_PROXIES` with its address, and `option http-drop-request-trailers`: uvicorn"
    " takes trailers for headers",
)
def haproxy(bench: Bench) -> str:
    haproxy = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if not haproxy:
        pytest.skip("haproxy is not installed")
    bench.write_main(after=_ROUTES)
    with bench.serving(*UVICORN, TRUSTED_PROXIES="127.0.0.1") as serving:
        port = free_port()
        path = bench.service / "haproxy.cfg"
        path.write_text(_HAPROXY.format(port=port, upstream=serving.port), "utf-8")
        with subprocess.Popen((haproxy, "-f", path)) as proxy:
            try:
                wait_until(lambda: _client(serving, port) == "127.0.0.2")
                assert _client(serving, port, _TRAILER) is None
            finally:
                proxy.terminate()
    version = run(haproxy, "-v", cwd=bench.service).stdout
    return f"HAProxy {version.split()[2].partition('-')[0]}"


def _client(serving: Server, port: int, trailer: str = "") -> object:
    """Return the client that is logged for a request from 127.0.0.2, which is no proxy."""
    ends = ("127.0.0.1", port), ("127.0.0.2", 0)
    try:
        with socket.create_connection(ends[0], SECONDS, ends[1]) as connection:
            connection.sendall(f"{_CHUNKED}2\r\n{{}}\r\n0\r\n{trailer}\r\n".encode())
            with closing(http.client.HTTPResponse(connection)) as response:
                response.begin()
                (line,) = serving.lines(response.headers["x-request-id"])
    except OSError:
        return ""
    client: object = line["client"]
    return client
