"""A stop with Readiness: a load balancer takes the service out in time, and loses no request."""

import signal
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException
from itertools import count
from pathlib import Path
from threading import Event
from typing import Final

import pytest
from copier import run_copy

from .serving import SECONDS, Server, patiently, serving, wait_until

LAYERS: Final = ["request_id", "access_log", "error_handler", "maintenance", "readiness"]
CLIENTS: Final = 6
PROBE_SECONDS: Final = 1.0


@pytest.fixture(scope="module")
def service(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopping") / "service"
    data = {"layers": LAYERS}
    run_copy(str(template), folder, data=data, defaults=True, quiet=True, vcs_ref="HEAD")
    return folder


@pytest.mark.parametrize("workers", ["1", "2"])
def test_readiness_ends_before_the_service_does(workers: str, service: Path) -> None:
    with serving(service, "--workers", workers, SHUTDOWN_DELAY="2") as server:
        # One that still starts would end at once, and so without a word.
        wait_until(lambda: server.log().count("Application startup complete") == int(workers))
        assert server.request("/readyz").status == 200
        for _ in patiently():
            # A second signal must not cut the delay short: systemd sends one to each process.
            server.process.send_signal(signal.SIGTERM)
            if server.request("/readyz").status == 503:
                break

        told_at = time.monotonic()
        assert server.request("/healthz").status == 200
        for path, status in (("/orders/1", 200), ("/boom", 500)):
            response = server.request(path)
            assert (response.status, response.headers["connection"]) == (status, "close")
        server.process.wait(SECONDS)

    assert 1 < time.monotonic() - told_at < 10
    assert server.output.read_text("utf-8").count("the service stops after a delay") == int(workers)


def test_ctrl_c_does_not_wait(service: Path) -> None:
    with serving(service, SHUTDOWN_DELAY="30") as server:
        started_at = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        server.process.wait(SECONDS)

    assert time.monotonic() - started_at < 15


class LoadBalancer:
    """Sends requests of its own to the instances whose readiness was 200 a moment ago."""

    def __init__(self) -> None:
        self.instances: list[Server] = []
        self.ready: list[int] = []
        self.seen: Counter[str] = Counter()
        self._ended = Event()

    @contextmanager
    def at_work(self) -> Generator[None]:
        with ThreadPoolExecutor(CLIENTS + 1) as threads:
            work = [threads.submit(task) for task in (self._probe, *[self._send] * CLIENTS)]
            try:
                yield
            finally:
                self._ended.set()
        for item in work:
            item.result()

    def wait_for(self, server: Server) -> None:
        for _ in patiently():
            if server.port in self.ready:
                return
        pytest.fail(server.output.read_text("utf-8"))

    def _probe(self) -> None:
        while not self._ended.wait(PROBE_SECONDS):
            self.ready = [item.port for item in self.instances if _is_ready(item)]

    def _send(self) -> None:
        kept: dict[int, HTTPConnection] = {}
        for turn in count():
            if self._ended.wait(0.005):
                break
            ready = self.ready
            if ready:
                port = ready[turn % len(ready)]
                if port not in kept:
                    kept[port] = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
                self.seen[_outcome(kept[port])] += 1
        for connection in kept.values():
            connection.close()


def _outcome(connection: HTTPConnection) -> str:
    try:
        connection.request("GET", "/orders/1", headers={"Host": "localhost"})
        response = connection.getresponse()
        response.read()
    except (OSError, HTTPException) as lost:
        connection.close()
        return type(lost).__name__
    return str(response.status)


def _is_ready(server: Server) -> bool:
    try:
        return server.request("/readyz").status == 200
    except (OSError, HTTPException):
        return False


@pytest.mark.matrix
@pytest.mark.parametrize(("delay", "loses"), [("3", False), ("0", True)])
def test_a_rolling_stop_under_load_loses_no_request(
    delay: str, *, loses: bool, service: Path
) -> None:
    """Each of two instances is replaced while six clients send; without the delay some lose."""
    balancer = LoadBalancer()
    with ExitStack() as running:

        def start() -> Server:
            server = serving(service, "--workers", "2", SHUTDOWN_DELAY=delay)
            return running.enter_context(server)

        balancer.instances = [start(), start()]
        with balancer.at_work():
            for old in list(balancer.instances):
                balancer.wait_for(old)
                new = start()
                balancer.instances = [*balancer.instances, new]
                balancer.wait_for(new)
                old.process.terminate()
                old.process.wait(SECONDS)
                balancer.instances = [item for item in balancer.instances if item is not old]
            time.sleep(0.5)

    answered = balancer.seen.pop("200")
    assert answered > 100
    assert bool(balancer.seen) is loses, balancer.seen
