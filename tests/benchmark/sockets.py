"""Requests over loopback: a server on one core, wrk on another."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median
from typing import Final
from urllib.request import Request, urlopen

from ..support import free_port
from .interleaved import interleaved
from .page import ratio, table, write
from .targets import Target, Targets
from .workload import WORKLOADS, Headers

ROUNDS: Final = 15
SECONDS: Final = 1
CONNECTIONS: Final = 16


def rates(targets: Targets) -> None:
    """Compare how many requests a second each stack answers."""
    stacks = targets.stacks()
    logging = Target("bare FastAPI, uvicorn's access log on", "telemetry", targets.folder)
    headers = Target("bare FastAPI, with the headers of the twelve", "headers", stacks[2].service)
    names = ("user", "stream")
    with ExitStack() as stack:
        served = {target: stack.enter_context(server(target))[0] for target in (*stacks, headers)}
        served[logging], _ = stack.enter_context(server(logging, "--access-log"))
        found = {name: _rounds(served, name) for name in names}
    rows = [[target.label, *(ratio(found[name][target]) for name in names)] for target in served]
    write("Rate", table(["stack", *(WORKLOADS[name].label for name in names)], rows))


def _rounds(served: dict[Target, int], name: str) -> dict[Target, float]:
    """Return the rate of each target as a ratio to the first one's, round by round."""
    work = {target: partial(_rate, port, name) for target, port in served.items()}
    rounds = interleaved(work, ROUNDS)
    bare = next(iter(served))
    return {target: median(taken[target] / taken[bare] for taken in rounds) for target in served}


def _rate(port: int, name: str) -> float:
    workload = WORKLOADS[name]
    # wrk adds a Host of its own to one in small letters.
    headers = [
        part
        for name, value in workload.headers.items()
        for part in ("-H", f"{name.title()}: {value}")
    ]
    client = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", *headers]
    done = subprocess.run(
        _pinned(1, *client, f"http://127.0.0.1:{port}{workload.path}"),
        capture_output=True,
        text=True,
        check=True,
    )
    if "Non-2xx" in done.stdout:
        raise RuntimeError(done.stdout)
    (rate,) = re.findall(r"Requests/sec:\s+([\d.]+)", done.stdout)
    return float(rate)


@contextmanager
def server(
    target: Target, log: str = "--no-access-log", *, under: Sequence[str] = ()
) -> Generator[tuple[int, int]]:
    """Yield the port and the process of a server of one target, which runs `under` a command."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmark.server:app", log, "--port", str(port)]
    process = subprocess.Popen(
        [*under, *command] if under else _pinned(0, *command),
        cwd=target.service,
        env=target.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/items/1", WORKLOADS["user"].headers)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def wait_for(address: str, headers: Headers) -> None:
    """Ask until somebody answers."""
    while True:
        try:
            urlopen(Request(address, headers=headers), timeout=5).close()
        except ConnectionError:
            time.sleep(0.005)
        except OSError as error:
            if not isinstance(getattr(error, "reason", None), ConnectionError):
                raise
            time.sleep(0.005)
        else:
            return


def _pinned(core: int, *command: str) -> list[str]:
    return ["taskset", "--cpu-list", str(core % (os.cpu_count() or 1)), *command]
