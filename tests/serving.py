"""A rendered service under a real server: how it is started, asked, and read."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SECONDS: Final = 60
ORIGIN: Final = "https://app.example"

SETTINGS: Final = {
    "BLOCKED_CLIENTS": "LegacyApp/1.",
    "CORS_ALLOW_ORIGINS": ORIGIN,
    "CROSS_ORIGIN_TRUSTED": ORIGIN,
    "JWT_ALGORITHMS": "HS256",
    "JWT_KEY": "Zq3v8KpT1sXw6YbN4mRj7HcD0fLg9aEu",
    "RATE_LIMIT": "1000000/minute",
    "SESSION_SECRET": "Zq3v8KpT1sXw6YbN4mRj7HcD0fLg9aEu",
}


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: str


@dataclass(frozen=True)
class Server:
    """A process that serves, and what it has written."""

    port: int
    output: Path
    process: "subprocess.Popen[bytes]"

    def request(self, path: str, method: str = "GET", *, body: Any = None, **headers: str) -> Reply:
        """Send one request on a connection of its own; `Host` may be a foreign one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        sent = {"Host": "localhost"} | {key.replace("_", "-"): headers[key] for key in headers}
        with closing(connection):
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            got = {key.lower(): value for key, value in response.getheaders()}
            return Reply(response.status, got, response.read().decode())

    def lines(self, request_id: str, count: int = 1) -> list[dict[str, Any]]:
        """Return the access-log lines of a request; the last may come after its answer."""
        found: list[dict[str, Any]] = []
        for _ in patiently():
            found = [line for line in self._written(request_id) if line["event"] == "request"]
            if len(found) >= count:
                break
        return found

    def incidents(self, request_id: str) -> list[dict[str, Any]]:
        """Return the lines of a request that show a traceback."""
        return [line for line in self._written(request_id) if "exception" in line]

    def _written(self, request_id: str) -> list[dict[str, Any]]:
        lines = self.output.read_text("utf-8").split("\n")[:-1]
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in found if line.get("request_id") == request_id]


def with_main(service: Path, added: str) -> Path:
    """Return a copy of the service whose `main.py` goes on with `added`."""
    copy = service.parent / f"service-{abs(hash(added))}"
    if not copy.exists():
        shutil.copytree(service, copy)
        with (copy / "app/main.py").open("a", encoding="utf-8") as main:
            main.write(added)
    return copy


@contextmanager
def started(
    service: Path, *arguments: str, command: tuple[str, ...], **settings: str
) -> Generator[Server]:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    output = service / f"output-{port}.txt"
    options = ("--host", "127.0.0.1", "--port", str(port), "--no-proxy-headers", *arguments)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, *options],
            cwd=service,
            env={**kept, **SETTINGS, **settings},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            yield Server(port, output, process)
        finally:
            process.terminate()
            process.wait(SECONDS)


@contextmanager
def serving(
    service: Path,
    *arguments: str,
    command: tuple[str, ...] = ("uvicorn", "app.main:app"),
    **settings: str,
) -> Generator[Server]:
    with started(service, *arguments, command=command, **settings) as server:
        for _ in patiently():
            assert server.process.poll() is None, server.output.read_text("utf-8")
            if is_open(server.port):
                break
        yield server


def patiently() -> Iterator[None]:
    """Go round until the time is up."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        yield
        time.sleep(0.02)


def is_open(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
