"""A rendered service under a real server: how it is started, asked, and read."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from .support import free_port

SECONDS: Final = 90  # a machine may be busy
ORIGIN: Final = "https://app.example"

SETTINGS: Final = {
    "BLOCKED_CLIENTS": "LegacyApp/1.",
    "CORS_ALLOW_ORIGINS": ORIGIN,
    "CROSS_ORIGIN_TRUSTED": ORIGIN,
    "JWT_ALGORITHMS": "HS256",
    "JWT_KEY": "Zq3v8KpT1sXw6YbN4mRj7HcD0fLg9aEu",
    "RATE_LIMIT": "1000000/minute",
    "SESSION_SECRET": "Zq3v8KpT1sXw6YbN4mRj7HcD0fLg9aEu",
    "SHUTDOWN_DELAY": "0",
}


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: str

    def json(self) -> Any:
        return json.loads(self.body)


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
            return reply(connection.getresponse())

    def log(self) -> str:
        return self.output.read_text("utf-8")

    def stop(self, by: int = signal.SIGTERM) -> int:
        """Stop the process as an orchestrator does, and return its status."""
        self.process.send_signal(by)
        return self.process.wait(SECONDS)

    def lines(self, request_id: str, count: int = 1) -> list[dict[str, Any]]:
        """Return the access-log lines of a request; the last may come after its answer."""
        found: list[dict[str, Any]] = []
        for _ in patiently():
            ended = self.process.poll() is not None
            found = [line for line in self._written(request_id) if line["event"] == "request"]
            if ended or len(found) >= count:
                break
        return found

    def incidents(self, request_id: str) -> list[dict[str, Any]]:
        """Return the lines of a request that show a traceback."""
        return [line for line in self._written(request_id) if "exception" in line]

    def _written(self, request_id: str) -> list[dict[str, Any]]:
        lines = self.log().split("\n")[:-1]
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


def reply(response: http.client.HTTPResponse) -> Reply:
    headers = {key.lower(): value for key, value in response.getheaders()}
    return Reply(response.status, headers, response.read().decode())


@contextmanager
def running(
    command: Sequence[str | Path], *, service: Path, port: int, **environment: str
) -> Generator[Server]:
    """Run a server in the folder of a service, and wait for nothing."""
    output = service / f"output-{port}.txt"
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTEST_", "VIRTUAL_ENV", "PYTHON"))
    }
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=service,
            env={**kept, **SETTINGS, "PYTHONUNBUFFERED": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Server(port, output, process)
    finally:
        process.terminate()
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def started(
    service: Path, *arguments: str, command: tuple[str, ...], **settings: str
) -> Generator[Server]:
    port = free_port()
    options = ("--host", "127.0.0.1", "--port", str(port), "--no-proxy-headers", *arguments)
    whole = (sys.executable, "-m", *command, *options)
    with running(whole, service=service, port=port, **settings) as server:
        yield server


@contextmanager
def serving(
    service: Path,
    *arguments: str,
    command: tuple[str, ...] = ("uvicorn", "app.main:app"),
    **settings: str,
) -> Generator[Server]:
    with started(service, *arguments, command=command, **settings) as server:
        wait_for(server)
        yield server


def wait_for(server: Server) -> None:
    """Wait until the server accepts connections."""
    for _ in patiently():
        assert server.process.poll() is None, server.log()
        if is_open(server.port):
            break


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in patiently():
        if condition():
            return
    pytest.fail("it never came")


def patiently() -> Iterator[None]:
    """Go round until the time is up."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        yield
        time.sleep(0.02)


def is_open(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
