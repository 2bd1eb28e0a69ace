"""
Limits and idempotency where it is hard: several workers, many clients, a Redis that fails.

Real servers answer here, and a real Redis of the test's own, which the rendered service brings:
`redis-server` must be installed.
"""

import asyncio
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import jwt
import pytest

from .conftest import Render
from .support import FAILED_START, run

KEY: Final = "Zq3v8KpT1sXw6YbN4mRj7HcD0fLg9aEu"
EVERYBODY: Final = ["request_id", "access_log", "error_handler", "rate_limit", "body_limit"]
USERS: Final = [*EVERYBODY, "authentication", "user_rate_limit", "idempotency"]

# An import, or a dependency.
REDIS: Final = re.compile(r"^ *(import redis|from redis|\"redis)", re.MULTILINE)

# Drives the app of a service without a server: all that counts is what the stack does.
DRIVE: Final = """
import asyncio, json, resource, sys, tracemalloc
from fastapi import FastAPI
from app.middleware import StackSettings, stack_options

app = FastAPI(**stack_options(StackSettings(_env_file=None, rate_limit="5/minute")))

async def ask(address):
    statuses = []
    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}
    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
    await app({"type": "http", "method": "GET", "path": "/nowhere", "raw_path": b"/nowhere",
        "query_string": b"", "headers": [(b"host", b"localhost")], "scheme": "http",
        "client": (address, 1), "server": ("localhost", 80), "http_version": "1.1",
        "asgi": {"version": "3.0"}}, receive, send)
    return statuses[0]

def calls_of(address):
    counted = 0
    def count(frame, event, argument):
        nonlocal counted
        counted += event in {"call", "c_call"}
    async def counting():
        await ask(address)
        sys.setprofile(count)
        await ask(address)
        sys.setprofile(None)
    asyncio.run(counting())
    return counted

def address_of(number):
    return ".".join(str(part) for part in (10, *number.to_bytes(3, "big")))

async def many(addresses):
    return [await ask(address) for address in addresses]

"""
BOUNDED: Final = """
def megabytes():
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * resource.getpagesize() // 2**20

few, bare = calls_of("192.0.2.1"), megabytes()
asyncio.run(many(map(address_of, range(200_000))))
grown = [megabytes() - bare]
asyncio.run(many(map(address_of, range(200_000, 400_000))))
grown.append(megabytes() - bare)
print(json.dumps({"few": few, "many": calls_of("192.0.2.2"), "grown": grown}))
"""
ROTATING: Final = """
addresses = [f"2001:db8:1:2:{number >> 16:x}:{number & 0xffff:x}:0:1" for number in range(20_000)]
asyncio.run(many(addresses[:5]))
tracemalloc.start()
statuses = asyncio.run(many(addresses[5:]))
print(json.dumps({"statuses": sorted(set(statuses)), "kept": tracemalloc.get_traced_memory()[0]}))
"""


class Server:
    """A service that listens; its lines of log and what else it said."""

    def __init__(self, process: subprocess.Popen[str], port: int, log: Path) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.log = log

    def events(self, text: str) -> list[str]:
        lines = self.log.read_text("utf-8").splitlines()
        events = [json.loads(line)["event"] for line in lines if line.startswith("{")]
        return [event for event in events if text in event]

    def stop(self) -> str:
        """End it as an orchestrator does, and return all that it said."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
        return self.log.read_text("utf-8")


Serve = Callable[..., Server]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    started: list[Server] = []

    def start(service: Path, *options: str, **environment: str) -> Server:
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        log = tmp_path / f"server-{port}.log"
        command = [*(sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-m", "uvicorn")]
        command += ["app.main:app", "--no-proxy-headers", "--port", str(port), *options]
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=service,
                env={**os.environ, "JWT_KEY": KEY, "JWT_ALGORITHMS": "HS256", **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        server = Server(process, port, log)
        started.append(server)
        wait_for(lambda: answers(server), what=log)
        return server

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.terminate()
            server.process.wait(20)


def wait_for(holds: Callable[[], bool], *, what: object = "", seconds: float = 30) -> None:
    ends_at = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends_at, what
        time.sleep(0.02)


def answers(server: Server) -> bool:
    try:
        return httpx2.get(f"{server.url}/healthz").status_code == 200
    except httpx2.TransportError:
        return False


def ask_at_once(server: Server, count: int, path: str = "/orders/1") -> list[httpx2.Response]:
    """Send requests at the same time, each over its own connection."""

    async def ask() -> list[httpx2.Response]:
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=server.url, limits=limits, timeout=60) as client:
            return await asyncio.gather(*(client.get(path) for _ in range(count)))

    return asyncio.run(ask())


def order(server: Server, key: str, path: str = "/orders") -> httpx2.Response:
    token = jwt.encode({"sub": "alice", "exp": time.time() + 600}, KEY, algorithm="HS256")
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key}
    body = {"item": "onion", "quantity": 3}
    return httpx2.post(f"{server.url}{path}", json=body, headers=headers, timeout=60)


@contextmanager
def redis_of(service: Path) -> Generator[Any]:
    """Start the Redis that the tests of a rendered service start."""
    assert shutil.which("redis-server"), "install redis-server: nothing is skipped here"
    path = service / "tests/middleware/storage/redis_server.py"
    spec = importlib.util.spec_from_file_location("redis_server", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.RedisServer() as server:
        yield server


def drive(service: Path, scenario: str) -> dict[str, Any]:
    done = run(sys.executable, "-c", DRIVE + scenario, cwd=service)
    assert done.returncode == 0, done.stdout
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def test_workers_admit_exactly_what_the_limit_says(render: Render, serve: Serve) -> None:
    service = render(layers=EVERYBODY, storage="redis")
    with redis_of(service) as redis:
        settings = {"STORAGE_URL": redis.url, "RATE_LIMIT": "50/minute"}
        server = serve(service, "--workers", "4", **settings)
        wait_for(lambda: redis.ask("CLIENT LIST").count(b"name=") >= 5)  # four, and the question

        statuses = [response.status_code for response in ask_at_once(server, 300)]

        assert (statuses.count(200), statuses.count(429)) == (50, 250)
        assert server.events("storage") == []


def test_a_worker_admits_exactly_what_the_limit_says(render: Render, serve: Serve) -> None:
    server = serve(render(layers=EVERYBODY), RATE_LIMIT="50/minute")

    statuses = [response.status_code for response in ask_at_once(server, 300)]

    assert (statuses.count(200), statuses.count(429)) == (50, 250)


def test_memory_and_cost_do_not_grow_with_the_clients(render: Render) -> None:
    """Four times as many addresses as are kept; the figures are calls, and megabytes."""
    seen = drive(render(layers=["rate_limit"]), BOUNDED)

    assert 5 < seen["grown"][0] < 60
    assert seen["grown"][1] < seen["grown"][0] + 10
    assert abs(seen["many"] - seen["few"]) <= 10


def test_who_rotates_the_addresses_of_a_network_is_one_client(render: Render) -> None:
    seen = drive(render(layers=["rate_limit"]), ROTATING)

    assert seen["statuses"] == [429]
    assert seen["kept"] < 1_000_000


def test_the_service_goes_on_without_redis(render: Render, serve: Serve) -> None:
    service = render(layers=USERS, storage="redis")
    with redis_of(service) as redis:
        server = serve(service, STORAGE_URL=redis.url)
        assert "ratelimit" in ask_at_once(server, 1)[0].headers
        assert order(server, "first").status_code == 201

        for fail, mend in ((redis.hang, redis.go_on), (redis.kill, redis.start)):
            before = len(server.events("storage is lost for counts"))
            fail()
            started_at = time.monotonic()
            responses = ask_at_once(server, 50)
            responses += [response for _ in range(20) for response in ask_at_once(server, 1)]
            took = time.monotonic() - started_at

            assert {response.status_code for response in responses} == {200}
            assert "ratelimit" not in responses[-1].headers
            assert took < 5, "one of them waited"
            assert order(server, "lost").status_code == 503
            for kept in ("counts", "responses"):
                assert len(server.events(f"storage is lost for {kept}")) == before + 1

            mend()
            wait_for(lambda: "ratelimit" in ask_at_once(server, 1)[0].headers)
            wait_for(lambda: order(server, str(time.monotonic())).status_code == 201)
            for kept in ("counts", "responses"):
                assert len(server.events(f"storage is back for {kept}")) == before + 1

        said = server.stop()
        assert "ResourceWarning" not in said
        assert "Task " not in said


def test_a_service_that_may_not_count_refuses(render: Render, serve: Serve) -> None:
    service = render(layers=EVERYBODY, storage="redis")
    server = serve(service, STORAGE_URL="redis://127.0.0.1:1/0", STORAGE_ON_ERROR="refuse")

    response = httpx2.get(f"{server.url}/orders/1")

    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["layer"] == "rate_limit"


def test_workers_run_a_repeated_request_once(render: Render, serve: Serve) -> None:
    service = render(layers=USERS, storage="redis")
    routes = service / "app/routes.py"
    slow = '\n\n@router.post("/slow")\nasync def slow() -> str:\n    await asyncio.sleep(1)\n'
    slow += '    with open("runs.log", "a") as log:\n        log.write("x")\n    return "done"\n'
    routes.write_text("import asyncio\n" + routes.read_text() + slow)
    with redis_of(service) as redis:
        server = serve(service, "--workers", "4", STORAGE_URL=redis.url)

        async def ask() -> list[httpx2.Response]:
            asked = (asyncio.to_thread(order, server, "once", "/slow") for _ in range(12))
            return await asyncio.gather(*asked)

        responses = asyncio.run(ask())

        # One that comes late, on a busy machine, gets the stored response.
        first = [item for item in responses if "idempotency-replayed" not in item.headers]
        assert sorted({response.status_code for response in first}) == [200, 409]
        assert [response.status_code for response in first].count(200) == 1
        assert order(server, "once", "/slow").headers["idempotency-replayed"] == "true"
        assert (service / "runs.log").read_text() == "x"


QUERIES: Final = """

@router.get("/query")
def query() -> None:
    time.sleep(3)


@router.get("/healthy")
def healthy() -> None: ...
"""


@pytest.mark.parametrize(
    ("policy", "statuses"),
    [
        ("Policy(max_concurrency=5, queue_timeout=0)", {200: 10}),
        ("Policy()", {503: 10}),
    ],
)
def test_hung_queries_hold_healthy_requests_up_only_where_they_share_their_slots(
    policy: str, statuses: dict[int, int], render: Render, serve: Serve
) -> None:
    service = render(layers=["request_id", "error_handler", "concurrency"])
    routes, main = service / "app/routes.py", service / "app/main.py"
    routes.write_text("import time\n" + routes.read_text() + QUERIES)
    options = f"stack_options(settings, routes={{'GET /query': {policy}}})"
    edited = main.read_text().replace("stack_options(settings)", options)
    main.write_text(edited.replace("import stack_options", "import Policy, stack_options"))
    server = serve(service, MAX_CONCURRENCY="10", QUEUE_TIMEOUT="0")

    async def ask() -> list[httpx2.Response]:
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=server.url, limits=limits, timeout=60) as client:
            hung = [asyncio.ensure_future(client.get("/query")) for _ in range(40)]
            await asyncio.sleep(1.5)
            healthy = await asyncio.gather(*(client.get("/healthy") for _ in range(10)))
            assert not all(request.done() for request in hung)
            await asyncio.wait(hung)
            return healthy

    assert Counter(response.status_code for response in asyncio.run(ask())) == statuses


def test_what_a_dead_worker_ran_can_run_again(render: Render, serve: Serve) -> None:
    """Its claim is one that nobody renews."""
    service = render(layers=USERS, storage="redis")
    routes = service / "app/routes.py"
    dying = '\n\n@router.post("/dies")\nasync def dies() -> None:\n    os._exit(1)\n'
    routes.write_text("import os\n" + routes.read_text() + dying)
    with redis_of(service) as redis:
        server = serve(service, STORAGE_URL=redis.url)

        with pytest.raises(httpx2.TransportError):
            order(server, "dying", "/dies")

        keys = [key for key in redis.ask("KEYS *").split() if key.startswith(b"answer:")]
        left = redis.ask(f"PTTL {keys[0].decode()}")
        assert len(keys) == 1
        assert 0 < int(left.splitlines()[0].lstrip(b":")) <= 60_000


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "STORAGE_URL must be set"),
        ({"STORAGE_URL": "memory://"}, "STORAGE_URL must be the address of a Redis"),
        ({"STORAGE_URL": "redis://:hunter2@h:x"}, "STORAGE_URL must be the address of a Redis"),
        ({"STORAGE_URL": "redis://h", "RATE_LIMIT": "100"}, "RATE_LIMIT must be a number above 0"),
        ({"STORAGE_URL": "redis://h", "STORAGE_ON_ERROR": "ignore"}, "STORAGE_ON_ERROR"),
    ],
)
def test_nonsense_ends_the_server_with_a_sentence(
    settings: dict[str, Any], sentence: str, render: Render
) -> None:
    service = render(layers=["rate_limit"], storage="redis")

    done = run(sys.executable, "-m", "uvicorn", "app.main:app", cwd=service, **settings)

    assert done.returncode == FAILED_START
    assert done.stdout.startswith(sentence)
    assert len(done.stdout.splitlines()) == 1
    assert "hunter2" not in done.stdout


def test_nothing_of_redis_is_there_with_memory(render: Render) -> None:
    service = render(layers=USERS, storage="memory")
    sources = [*service.rglob("*.py"), service / "pyproject.toml"]

    assert [path for path in sources if "redis" in path.name] == []
    assert [path for path in sources if REDIS.search(path.read_text("utf-8"))] == []
