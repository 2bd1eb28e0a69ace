"""A Redis for the tests: a server of their own, with an empty database for each app."""

import atexit
import functools
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from types import TracebackType
from typing import Final, Self

import pytest

_DATABASES: Final = itertools.cycle(range(16))
_START_TIMEOUT: Final = 10
# Its input ends with the process that started it, however that ends, and so does the server.
_KEEPER: Final = '"$@" >/dev/null 2>&1 & echo $!; read -r _; kill -9 $!; wait'


class RedisServer:
    """A server that keeps nothing on disk, on a port that `with` takes and gives back."""

    def __init__(self) -> None:
        executable = shutil.which("redis-server")
        if executable is None:
            pytest.skip("redis-server is not installed; these tests start their own")
        with socket.create_server(("127.0.0.1", 0)) as unused:
            self.port = unused.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [executable, "--port", str(self.port), "--bind", "127.0.0.1"]
        self._command += ["--save", "", "--appendonly", "no", "--loglevel", "warning"]
        self._keeper: subprocess.Popen[bytes] | None = None
        self._pid = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        self._keeper = keeper = subprocess.Popen(  # noqa: S603 - the arguments are those above
            ["/bin/sh", "-c", _KEEPER, "sh", *self._command],
            cwd=tempfile.gettempdir(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert keeper.stdout is not None
        self._pid = int(keeper.stdout.readline())
        ends_at = time.monotonic() + _START_TIMEOUT
        while True:
            try:
                self.ask("PING")
            except OSError:
                if time.monotonic() > ends_at:
                    raise
                time.sleep(0.005)
            else:
                return

    def kill(self) -> None:
        if self._keeper is not None:
            self._keeper.communicate()
            self._keeper = None

    def hang(self) -> None:
        """Take connections and bytes as before, but never answer."""
        os.kill(self._pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    def ask(self, *lines: str) -> bytes:
        """Send inline commands, and return the beginning of what comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=_START_TIMEOUT) as peer:
            peer.sendall("".join(f"{line}\r\n" for line in [*lines, "QUIT"]).encode())
            answer = b""
            while chunk := peer.recv(65536):
                answer += chunk
        return answer


def fresh_url() -> str:
    """Return the address of an empty database."""
    number = next(_DATABASES)
    _shared().ask(f"SELECT {number}", "FLUSHDB")
    return f"redis://127.0.0.1:{_shared().port}/{number}"


@functools.cache
def _shared() -> RedisServer:
    from app.middleware.storage import redis  # noqa: PLC0415 - others use the server alone

    # Where many tests run at once a Redis may be late, and is no lost one for that.
    for name in ("_COUNTS_TIMEOUT", "_RESPONSES_TIMEOUT"):
        setattr(redis, name, 5.0)
    server = RedisServer()
    server.start()
    atexit.register(server.kill)
    return server
