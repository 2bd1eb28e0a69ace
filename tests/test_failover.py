"""A Redis server dies under load: nothing runs twice, and no limit starts anew."""

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from itertools import pairwise
from pathlib import Path
from typing import Final

import jwt
import pytest
from copier import run_copy

from .redis_sets import Cluster, RedisSet, Sentinels, several
from .support import free_port, run
from .test_ops import KEY, patiently, running

LIMIT: Final = 100
# Each call that runs writes its key down, and takes as long as a failover may take to notice.
ROUTES: Final = """

from pathlib import Path

from fastapi import Request


@app.post("/work")
async def work(request: Request) -> dict[str, str]:
    import asyncio

    key = request.headers["idempotency-key"]
    with Path("runs").open("a") as file:
        file.write(key + "\\n")
    await asyncio.sleep(float(request.headers["x-seconds"]))
    return {"key": key}
"""
SETTINGS: Final = {
    "JWT_ALGORITHMS": "HS256",
    "JWT_KEY": KEY,
    "RATE_LIMIT": f"{LIMIT}/hour",
    "STORAGE_ON_ERROR": "refuse",
}


@pytest.fixture(scope="module")
def service(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("failover") / "service"
    layers = ["proxy_headers", "rate_limit", "body_limit", "authentication", "idempotency"]
    data = {"layers": layers, "storage": "redis"}
    run_copy(str(template), folder, data=data, defaults=True, quiet=True, vcs_ref="HEAD")
    with (folder / "app/main.py").open("a", encoding="utf-8") as file:
        file.write(ROUTES)
    return folder


@dataclass
class Load:
    """Clients of two workers, each of which repeats a request until it succeeds."""

    ports: list[int]
    ends_at: float
    statuses: Counter[int] = field(default_factory=Counter)
    keys: list[str] = field(default_factory=list)
    # When each request with a key, and each that is only counted, was let in.
    done_at: list[float] = field(default_factory=list)
    admitted_at: list[float] = field(default_factory=list)

    def work(self, number: int) -> None:
        draw = random.Random(number)  # noqa: S311 - to spread the load
        user = jwt.encode({"sub": f"user-{number}", "exp": time.time() + 600}, KEY, "HS256")
        for turn in range(sys.maxsize):
            if time.monotonic() > self.ends_at:
                break
            key = f"{number}-{turn}"
            headers = {
                "Authorization": f"Bearer {user}",
                "Idempotency-Key": key,
                "X-Seconds": str(draw.random() / 20),
            }
            for attempt in range(sys.maxsize):
                # Each attempt from an IP address of its own: the limit is not the question here.
                address = f"10.{number}.{turn % 250}.{attempt % 250}"
                status = self.send("/work", "POST", {**headers, "X-Forwarded-For": address})
                if status == 200:
                    self.keys.append(key)
                    self.done_at.append(time.monotonic())
                    break
                time.sleep(0.05)
                if attempt > 1500:
                    return

    def count(self) -> None:
        """Send requests from one IP address until the limit is reached and the load is over."""
        limited = False
        while time.monotonic() < self.ends_at + (0 if limited else 20):
            status = self.send("/nowhere", "GET", {"X-Forwarded-For": "192.0.2.1"})
            limited = limited or status == 429
            if status == 404:
                self.admitted_at.append(time.monotonic())
            time.sleep(0.03)

    def send(self, path: str, method: str, headers: dict[str, str]) -> int:
        port = random.choice(self.ports)  # noqa: S311
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request(method, path, None, {"Host": "localhost", **headers})
            status = connection.getresponse().status
        except (OSError, HTTPException):
            status = 0
        finally:
            connection.close()
        self.statuses[status] += 1
        return status

    def longest_pause(self, after: float) -> float:
        times = sorted(at for at in self.done_at if at > after - 1)
        return max(later - earlier for earlier, later in pairwise(times))


def _under_load(
    service: Path, servers: RedisSet, folder: Path, fail: Callable[[], None], seconds: float
) -> Load:
    """Start two workers and ten clients, let a server fail after two seconds, and go on."""
    (service / "runs").unlink(missing_ok=True)
    ports = [free_port(), free_port()]
    with ExitStack() as stack:
        for port in ports:
            uvicorn = (sys.executable, "-m", "uvicorn", "app.main:app", "--no-proxy-headers")
            environment = {**SETTINGS, "STORAGE_URL": servers.url}
            log = folder / f"{port}.log"
            stack.enter_context(
                running(*uvicorn, "--port", str(port), cwd=service, output=log, **environment)
            )
        probe = Load(ports, 0)
        for port in ports:
            probe.ports = [port]
            for _ in patiently():
                if probe.send("/healthz", "GET", {}) == 200:
                    break
        load = Load(ports, time.monotonic() + seconds)
        threads = [threading.Thread(target=load.work, args=(number,)) for number in range(9)]
        threads.append(threading.Thread(target=load.count))
        for thread in threads:
            thread.start()
        time.sleep(2)
        failed_at = time.monotonic()
        fail()
        for thread in threads:
            thread.join()
        print(  # noqa: T201 - `pytest -s` shows how long it took
            f"pause {load.longest_pause(failed_at):.1f} s, {len(load.keys)} keys,"
            f" {len(load.admitted_at)} admitted, {dict(load.statuses)}"
        )
    return load


def _runs(service: Path) -> Counter[str]:
    return Counter((service / "runs").read_text("utf-8").split())


@pytest.mark.parametrize("way", ["killed", pytest.param("hung", marks=pytest.mark.matrix)])
def test_sentinel_replaces_a_master_and_nothing_runs_twice(
    way: str, service: Path, tmp_path: Path
) -> None:
    with several(Sentinels, tmp_path) as servers:
        fail = servers.kill if way == "killed" else servers.hang

        load = _under_load(service, servers, tmp_path, lambda: fail(servers.primary()), 8)

    runs = _runs(service)
    assert {key: number for key, number in runs.items() if number > 1} == {}
    assert {*load.keys} == {*runs}
    assert load.statuses[503] > 0
    assert load.longest_pause(load.done_at[0]) < 8
    assert load.statuses[429] > 0
    assert LIMIT - 10 <= len(load.admitted_at) <= LIMIT + 5


@pytest.mark.matrix
@pytest.mark.parametrize("way", ["killed", "hung"])
def test_a_cluster_replaces_a_primary_and_nothing_runs_twice(
    way: str, service: Path, tmp_path: Path
) -> None:
    with several(Cluster, tmp_path) as servers:

        def fail() -> None:
            primary = servers.primary()
            if way == "hung":
                servers.hang(primary)
                time.sleep(4)
            servers.kill(primary)
            if way == "killed":
                time.sleep(4)
            # Back as the replica of the one that took its place, which lacks one until then.
            servers.run(primary)

        load = _under_load(service, servers, tmp_path, fail, 16)

    runs = _runs(service)
    assert {key: number for key, number in runs.items() if number > 1} == {}
    assert {*load.keys} == {*runs}
    assert load.statuses[503] > 0
    assert load.longest_pause(load.done_at[0]) < 15
    assert load.statuses[429] > 0
    assert LIMIT - 10 <= len(load.admitted_at) <= LIMIT + 5


def test_redis_is_reached_by_tls_and_no_other_certificate_is_trusted(
    service: Path, tmp_path: Path
) -> None:
    certificates = [tmp_path / "one.pem", tmp_path / "other.pem"]
    for path in certificates:
        names = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
        keys = ("-newkey", "rsa:2048", "-nodes", "-keyout", f"{path}.key", "-out", str(path))
        assert run("openssl", "req", "-x509", *keys, *names, cwd=tmp_path).returncode == 0
    with ExitStack() as stack:
        servers = RedisSet(tmp_path, stack)
        port = free_port()
        mine = certificates[0]
        files = (f"tls-cert-file {mine}", f"tls-key-file {mine}.key", f"tls-ca-cert-file {mine}")
        servers.start(free_port(), f"tls-port {port}", "tls-auth-clients no", *files)
        url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs="

        counted = [_counts(service, f"{url}{path}") for path in certificates]

    assert counted == ["(1, 60.0)", "StorageLostError()"]


def _counts(service: Path, url: str) -> str:
    program = """
import asyncio, sys
from pydantic import SecretStr
from app.middleware.storage.redis import RedisStorage

async def count():
    storage = RedisStorage(SecretStr(sys.argv[1]))
    await storage.open(claims=False)
    try:
        return await storage.increment("a", 60)
    except Exception as error:
        return error
    finally:
        await storage.close()

print(repr(asyncio.run(count())))
"""
    return run(sys.executable, "-c", program, url, cwd=service).stdout.splitlines()[-1]
