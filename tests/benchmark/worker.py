"""
Drives one target in process: a line of JSON in, a line of JSON out.

`python -m benchmark.worker TARGET [ROUTES]`, in the folder of a service. Whatever the app
writes to its standard output, such as its log, goes nowhere.
"""

import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop
from fastapi import FastAPI
from starlette.types import Message, Scope

from .apps import make
from .workload import WORKLOADS

_CHUNK: Final = bytes(65_536)

Drive = Callable[[], Awaitable[None]]


class Client:
    """Sends one request after the other, and waits for each response."""

    def __init__(self, app: FastAPI, body: bytes, size: int = 0) -> None:
        self.statuses = Counter[int]()
        self._app = app
        self._body = body
        self._size = size
        self._scope: Scope = {}
        self._chunks: Iterator[Message] = iter(())

    async def send_all(self, scopes: Iterable[Scope]) -> None:
        loop = asyncio.get_running_loop()
        for scope in scopes:
            self._chunks = self._upload()
            self._scope = scope  # as servers do: what it holds may then hold itself
            # A task for each, as the server does: timers end when the loop turns.
            await loop.create_task(self._app(scope, self._receive, self._send))

    def _upload(self) -> Iterator[Message]:
        for start in range(0, self._size, len(_CHUNK)):
            chunk = _CHUNK[: self._size - start]
            yield {"type": "http.request", "body": chunk, "more_body": True}
        yield {"type": "http.request", "body": self._body, "more_body": False}

    async def _receive(self) -> Message:
        message = next(self._chunks, None)
        if message is None:
            await asyncio.get_running_loop().create_future()
        return message or {}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.statuses[message["status"]] += 1


@dataclass(frozen=True)
class Job:
    """What to measure; another `target` than the worker's is one of the same service."""

    what: str
    """
    `calls`, `instructions`, `cpu`; `together`, the CPU of all at once; `memory`, in the end;
    `garbage`, what all of them leave to the collector.
    """
    name: str
    """The workload's."""
    count: int
    target: str = ""
    clients: int = 1
    """From how many addresses the requests come, in turn."""
    size: int = 0
    """How many bytes more each body has."""


class Worker:
    """The apps of one target, and what it measures of them."""

    def __init__(self, target: str, routes: int) -> None:
        self._target = target
        self._routes = routes
        self._apps: dict[tuple[str, str], FastAPI] = {}

    async def measure(self, job: Job) -> tuple[Counter[int], float]:
        """Return how often each status came, and what one of the requests took."""
        workload = WORKLOADS[job.name]
        wanted = (job.target or self._target, workload.limit)
        if wanted not in self._apps:
            self._apps[wanted] = make(wanted[0], limit=workload.limit, routes=self._routes)
        app = self._apps[wanted]
        client = Client(app, workload.body, job.size)
        scopes: Iterable[Scope] = (
            workload.scope(number % job.clients) for number in range(job.count)
        )
        if job.what == "memory":
            await client.send_all(scopes)
            return client.statuses, _memory()
        if job.what == "garbage":
            left = await _garbage(lambda: client.send_all(scopes))
            return client.statuses, left
        scopes = [*scopes]
        # What was made at start-up is not to be collected on the bill of a few requests.
        gc.collect()
        gc.freeze()
        if job.what == "together":
            crowd = [Client(app, workload.body) for _ in scopes]
            each = [client.send_all([scope]) for client, scope in zip(crowd, scopes, strict=True)]
            taken = await _cpu(lambda: _gather(each))
            return sum((client.statuses for client in crowd), Counter()), taken / job.count
        taken = await _MEASURES[job.what](lambda: client.send_all(scopes))
        return client.statuses, taken / job.count


async def _gather(each: Iterable[Awaitable[None]]) -> None:
    await asyncio.gather(*each)


async def _calls(drive: Drive) -> float:
    """Count the calls of Python and of C functions."""
    count = 0

    def profile(_: Any, event: str, __: Any) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(profile)
    await drive()
    sys.setprofile(None)
    return count


async def _cpu(drive: Drive) -> float:
    """Take the seconds of this process on a processor."""
    start = time.process_time()
    await drive()
    return time.process_time() - start


async def _garbage(drive: Drive) -> int:
    """Count what reference counts don't free, since it holds itself."""
    gc.collect()
    gc.disable()
    await drive()
    found = gc.collect()
    gc.enable()
    return found


async def _instructions(drive: Drive) -> float:
    """Count instructions; this process must run under callgrind, without collecting yet."""
    _control("--zero")
    _control("--instr=on")
    await drive()
    _control("--instr=off")
    _control("--dump")
    return _total()


def _total() -> float:
    dumps = Path(os.environ["CALLGRIND_OUT"]).glob("*.*")
    newest = max(dumps, key=lambda path: path.stat().st_mtime)
    totals = [line for line in newest.read_text().splitlines() if line.startswith("totals:")]
    return float(totals[0].split()[1])


def _control(option: str) -> None:
    command = ("callgrind_control", option, str(os.getpid()))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _memory() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


_MEASURES: Final = {"calls": _calls, "cpu": _cpu, "instructions": _instructions}


def main() -> None:
    """Measure what each line asks for."""
    told = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    target, routes = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1
    worker = Worker(target, routes)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin:
            print(
                json.dumps(runner.run(worker.measure(Job(**json.loads(line))))),
                file=told,
                flush=True,
            )


if __name__ == "__main__":
    main()
