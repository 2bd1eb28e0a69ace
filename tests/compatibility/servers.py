"""Servers: the layers work, forged headers are not trusted, and nothing forbidden is sent."""

import http.client
import json
import os
import shutil
import ssl
import subprocess
from contextlib import closing
from functools import partial

import pytest

from tests.support import free_port

from .bench import UVICORN, Bench, Server, assert_layers_work, case, patiently

server = partial(case, kind="servers and hosts")


def _assert_one_place_decides(bench: Bench, *command: str, **environment: str) -> None:
    """Assert that `TRUSTED_PROXIES` alone decides whose X-Forwarded-For is trusted."""
    bench.write_main()
    for trusted, client in (("192.0.2.1", "127.0.0.1"), ("127.0.0.1", "203.0.113.9")):
        with bench.serving(*command, TRUSTED_PROXIES=trusted, **environment) as serving:
            assert_layers_work(serving)
            serving.get("/forwarded", X_Forwarded_For="203.0.113.9")
            patiently(lambda: _client(serving) is not None)
            assert _client(serving) == client


def _client(serving: Server) -> str | None:
    lines = (line for line in serving.log().splitlines() if '"path":"/forwarded"' in line)
    found: str | None = json.loads(next(lines, '{"client": null}'))["client"]
    return found


@server(
    "gunicorn, `uvicorn_worker.UvicornWorker`",
    "gunicorn",
    "uvicorn-worker",
    setup="`FORWARDED_ALLOW_IPS=` (empty), or the worker trusts `127.0.0.1` by itself",
)
def gunicorn(bench: Bench) -> None:
    command = ("gunicorn", "app.main:app", "-k", "uvicorn_worker.UvicornWorker", "-w", "1")
    _assert_one_place_decides(bench, *command, "-b", "127.0.0.1:{port}", FORWARDED_ALLOW_IPS="")


@server("hypercorn, HTTP/1.1", "hypercorn", sample=True)
def hypercorn(bench: Bench) -> None:
    _assert_one_place_decides(bench, "hypercorn", "app.main:app", "-b", "127.0.0.1:{port}")


_FORBIDDEN = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
_H2 = """
import json, sys
import httpx
client = httpx.Client(http2=True, verify=False)
for path in ("/ok", "/missing", "/boom", "/slow"):
    response = client.get(f"https://127.0.0.1:{sys.argv[1]}{path}")
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

async def main(port):
    options = {
        "configuration": QuicConfiguration(alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE),
        "create_protocol": Client,
    }
    async with connect("127.0.0.1", port, **options) as client:
        for path in ("/ok", "/missing", "/boom", "/slow"):
            stream = client._quic.get_next_available_stream_id()
            head = {":method": "GET", ":scheme": "https", ":authority": "localhost", ":path": path}
            encoded = [(key.encode(), value.encode()) for key, value in head.items()]
            client.http.send_headers(stream, encoded, end_stream=True)
            client.transmit()
            got = await client.heads.get()
            print(json.dumps(["HTTP/3", int(got.pop(":status")), got]))

asyncio.run(main(int(sys.argv[1])))
"""
_SLOW = """

@app.get("/slow")
async def slow() -> None:
    import asyncio

    await asyncio.sleep(60)
"""


def _assert_protocol(bench: Bench, client: str, version: str, *command: str) -> None:
    bench.write_main(after=_SLOW)
    with bench.serving(*command, REQUEST_TIMEOUT="1") as serving:
        done = bench.run("python", "-c", client, str(serving.port))
        replies = [json.loads(line) for line in done.stdout.splitlines() if line[0] == "["]
        expected = [[version, status] for status in (200, 404, 500, 504)]
        assert [reply[:2] for reply in replies] == expected, (done.stdout, serving.log())
        for _, _, headers in replies:
            assert headers["x-request-id"]
            assert not _FORBIDDEN & headers.keys()


@server("hypercorn, HTTP/2", "hypercorn", "httpx[http2]")
def hypercorn_h2(bench: Bench) -> None:
    certificate, key = map(str, bench.certificate)
    tls = ("--certfile", certificate, "--keyfile", key)
    _assert_protocol(
        bench, _H2, "HTTP/2", "hypercorn", "app.main:app", "-b", "127.0.0.1:{port}", *tls
    )


@server("hypercorn, HTTP/3", "hypercorn[h3]")
def hypercorn_h3(bench: Bench) -> None:
    certificate, key = map(str, bench.certificate)
    listen = ("--bind", "127.0.0.1:{port}", "--quic-bind", "127.0.0.1:{port}")
    tls = ("--certfile", certificate, "--keyfile", key)
    _assert_protocol(bench, _H3, "HTTP/3", "hypercorn", "app.main:app", *listen, *tls)


@server("granian, HTTP/2", "granian", "httpx[http2]")
def granian_h2(bench: Bench) -> None:
    certificate, key = map(str, bench.certificate)
    tls = ("--ssl-certificate", certificate, "--ssl-keyfile", key)
    command = ("granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", "{port}")
    _assert_protocol(bench, _H2, "HTTP/2", *command, *tls, "app.main:app")


@server("granian, HTTP/1.1", "granian")
def granian(bench: Bench) -> None:
    command = ("granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", "{port}")
    _assert_one_place_decides(bench, *command, "app.main:app")


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


def _assert_nginx(bench: Bench, upstream: str, *command: str, trusted: str) -> None:
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if not nginx:
        pytest.skip("nginx is not installed")
    bench.write_main()
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
                patiently(lambda: _status(bench, port, "/ok") == 200)
                assert _status(bench, port, "/boom") == 500
            finally:
                proxy.terminate()


def _status(bench: Bench, port: int, path: str) -> int:
    context = ssl.create_default_context(cafile=bench.certificate[0])
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)
    with closing(connection):
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return 0


@server("nginx with TLS", "uvicorn", setup="`TRUSTED_PROXIES` with the address of nginx")
def nginx_tls(bench: Bench) -> None:
    _assert_nginx(bench, "http://127.0.0.1:{port}", *UVICORN, trusted="127.0.0.1")


@server("nginx over a unix socket", "uvicorn", setup="`TRUSTED_PROXIES=unix`")
def nginx_unix(bench: Bench) -> None:
    command = ("uvicorn", "app.main:app", "--uds", "service.sock", "--no-proxy-headers")
    _assert_nginx(bench, "http://unix:{folder}/service.sock", *command, trusted="unix")
