"""The bench: a service with a package, the process that serves it, and collectors for agents."""

import gzip
import json
import os
import shutil
import ssl
import subprocess
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distributions
from pathlib import Path
from threading import Thread
from typing import Any, Final, NamedTuple

import brotli

from tests.serving import SETTINGS, Server, running, wait_for, wait_until
from tests.support import UV, free_port, run

ROUTES: Final = """

import logging

import structlog


@app.get("/ok")
async def ok() -> dict[str, str]:
    logging.getLogger("bench").warning("of a library")
    structlog.get_logger().warning("of structlog")
    return {"status": "ok"}


@app.get("/boom")
async def boom() -> None:
    raise RuntimeError("boom at the bench")
"""

# What three requests log, of `assert_layers_work`.
LINES: Final = {"of a library": 1, "of structlog": 1, "unhandled exception": 1, "request": 3}

UVICORN: Final = (
    "uvicorn",
    "app.main:app",
    "--no-proxy-headers",
    "--lifespan",
    "on",
    "--port",
    "{port}",
)


class Case(NamedTuple):
    """A row of the page, and what proves it."""

    name: str
    kind: str
    packages: tuple[str, ...]
    setup: str
    proof: "Proof"
    sample: bool


CASES: Final[list[Case]] = []

# What it returns is shown as seen, where that is no package of Python.
Proof = Callable[["Bench"], str | None]


def case(
    name: str, *packages: str, kind: str, setup: str = "nothing", sample: bool = False
) -> Callable[[Proof], Proof]:
    """Add a case; its first package is the one whose version is shown."""

    def add(proof: Proof) -> Proof:
        CASES.append(Case(name, kind, packages, setup, proof, sample))
        return proof

    return add


class Received(NamedTuple):
    """A request that an agent sent."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


@dataclass
class Collector:
    """A server on loopback that an agent reports to."""

    port: int
    received: list[Received] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def at(self, path: str) -> list[Received]:
        return [item for item in self.received if item.path.partition("?")[0].endswith(path)]

    def wait_for(self, path: str, condition: Callable[[Received], bool] = lambda _: True) -> None:
        """Wait until something that fulfils `condition` has come."""
        wait_until(lambda: any(condition(item) for item in self.at(path)))


Answer = Callable[[Received], bytes]


@contextmanager
def collecting(
    answer: Answer = lambda _: b"{}", certificate: tuple[Path, Path] | None = None
) -> Generator[Collector]:
    """Run a collector that responds 200 with what `answer` returns."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            headers = {key.lower(): value for key, value in self.headers.items()}
            item = Received(self.path, headers, _decoded(headers, self._body(headers)))
            collector.received.append(item)
            sent = answer(item)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_PUT = handle_any  # noqa: N815 - http.server looks for these

        def _body(self, headers: Mapping[str, str]) -> bytes:
            if headers.get("transfer-encoding") != "chunked":
                return self.rfile.read(int(headers.get("content-length", 0)))
            chunks: list[bytes] = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Write nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        collector = Collector(server.server_port)
        Thread(target=server.serve_forever, daemon=True).start()
        yield collector
        server.shutdown()


def _decoded(headers: Mapping[str, str], body: bytes) -> bytes:
    decode = {"br": brotli.decompress, "gzip": gzip.decompress, "deflate": zlib.decompress}
    encoding = headers.get("content-encoding")
    return bytes(decode[encoding](body)) if encoding in decode else body


@dataclass(frozen=True)
class Bench:
    """A rendered service, and an environment with one package beside it."""

    service: Path
    environment: Path
    certificate: tuple[Path, Path]

    @property
    def bin(self) -> Path:
        return self.environment / "bin"

    def install(self, *packages: str) -> None:
        """Make the environment: what the service needs, and `packages`."""
        run_uv("venv", "--quiet", self.environment, cwd=self.service)
        python = self.bin / "python"
        arguments = ("pip", "install", "--quiet", "--python", python, "-r", "pyproject.toml")
        run_uv(*arguments, *packages, cwd=self.service)

    def version(self, package: str) -> str:
        (site,) = self.environment.glob("lib/python*/site-packages")
        name = package.partition("[")[0]
        found = (item.version for item in distributions(name=name, path=[str(site)]))
        return f"{name} {next(found)}"

    def write_main(
        self, before: str = "", own: str = "", routes: str = "", after: str = ""
    ) -> None:
        """Edit `app/main.py` as a user would, and give it two routes."""
        path = self.service / "app/main.py"
        text = path.read_text("utf-8")
        options = "**stack_options(settings)"
        assert options in text
        given = f"**stack_options(settings, own=[{own}], routes={{{routes}}})"
        text = text.replace(options, given)
        docstring, blank, rest = text.partition("\n\n")
        path.write_text(f"{docstring}{blank}{before}\n{rest}{ROUTES}{after}", "utf-8")

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment."""
        kept = {**SETTINGS, "PATH": self._path(), **environment}
        return run(self.bin / command[0], *command[1:], cwd=self.service, timeout=300, **kept)

    @contextmanager
    def serving(self, *command: str, **environment: str) -> Generator[Server]:
        """Start the service, by uvicorn unless `command` says how; `{port}` is filled in."""
        with self.starting(*command, **environment) as server:
            wait_for(server)
            yield server

    @contextmanager
    def starting(self, *command: str, **environment: str) -> Generator[Server]:
        """Start the process and wait for nothing."""
        port = free_port()
        first, *rest = (part.replace("{port}", str(port)) for part in command or UVICORN)
        environment = {"PATH": self._path(), **environment}
        with running(
            (self.bin / first, *rest), service=self.service, port=port, **environment
        ) as server:
            yield server

    def _path(self) -> str:
        return f"{self.bin}{os.pathsep}{os.environ['PATH']}"


def run_uv(*arguments: str | Path, cwd: Path) -> None:
    done = run(UV or shutil.which("uv") or "uv", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout


def assert_layers_work(server: Server) -> None:
    """Assert what a client sees of every layer stack: ids, and one shape of errors."""
    for path, status in (("/ok", 200), ("/missing", 404), ("/boom", 500)):
        response = server.request(path)
        assert response.status == status, (path, response, server.log())
        assert response.headers.get("x-request-id"), (path, response)
        if status != 200:
            assert response.headers["content-type"] == "application/problem+json", response
            assert response.json()["status"] == status


def assert_logged_once(lines: Iterable[str], expected: Mapping[str, int] = LINES) -> None:
    """Assert that `lines`, rendered or not, have each of those requests once."""
    found = Counter(json.loads(line)["event"] if line[0] == "{" else line for line in lines)
    assert {event: found[event] for event in expected} == {**expected}, found
