"""
Drives one target in process: a line of JSON in, a line of JSON out.

`python -m benchmark.worker TARGET [ROUTES]`, in the folder of a service. Whatever the app
writes to its standard output, such as its log, goes nowhere.
"""

import asyncio
import gc
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import uvloop
from fastapi import FastAPI
from starlette.types import Message, Scope

from .apps import make
from .workload import WORKLOADS

Drive = Callable[[], Awaitable[None]]


class Client:
    """Sends one request after the other, and stays until it is answered."""

    def __init__(self, app: FastAPI, body: bytes) -> None:
        self.status = 0
        self._app = app
        self._body = body
        self._sent = False

    async def send_all(self, scopes: Sequence[Scope]) -> None:
        loop = asyncio.get_running_loop()
        for scope in scopes:
            self._sent = False
            # A task for each, as the server does: timers end when the loop turns.
            await loop.create_task(self._app(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        if self._sent:
            await asyncio.get_running_loop().create_future()
        self._sent = True
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]


class Worker:
    """The apps of one target, and what it measures of them."""

    def __init__(self, target: str, routes: int) -> None:
        self._target = target
        self._routes = routes
        self._apps: dict[str, FastAPI] = {}

    async def measure(self, what: str, name: str, count: int, clients: int = 1) -> tuple[int, float]:
        """Return the last status, and what one of `count` requests took."""
        workload = WORKLOADS[name]
        app = self._apps.get(workload.limit)
        if app is None:
            app = make(self._target, limit=workload.limit, routes=self._routes)
            self._apps[workload.limit] = app
        client = Client(app, workload.body)
        scopes = [workload.scope(number % clients) for number in range(count)]
        # What was made at start-up is not to be collected on the bill of a few requests.
        gc.collect()
        gc.freeze()
        taken = await _MEASURES[what](lambda: client.send_all(scopes))
        return client.status, taken / count


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


async def _instructions(drive: Drive) -> float:
    """Count instructions; this process must run under callgrind, without collecting yet."""
    _control("--zero")
    _control("--instr=on")
    await drive()
    _control("--instr=off")
    _control("--dump")
    newest = max(Path(os.environ["CALLGRIND_OUT"]).glob("*.*"), key=lambda path: path.stat().st_mtime)
    totals = [line for line in newest.read_text().splitlines() if line.startswith("totals:")]
    return float(totals[0].split()[1])


def _control(option: str) -> None:
    command = ("callgrind_control", option, str(os.getpid()))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


async def _memory(drive: Drive) -> float:
    """Drive, and take the most bytes that this process ever held."""
    await drive()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


_MEASURES: Final = {"calls": _calls, "cpu": _cpu, "instructions": _instructions, "memory": _memory}


def main() -> None:
    """Measure what each line asks for."""
    told = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    target, routes = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1
    worker = Worker(target, routes)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin:
            print(json.dumps(runner.run(worker.measure(**json.loads(line)))), file=told, flush=True)


if __name__ == "__main__":
    main()
