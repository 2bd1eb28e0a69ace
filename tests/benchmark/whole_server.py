"""A whole server under callgrind: what it does for a request that comes over a socket."""

import os
import subprocess
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

from .page import ratio, table, write
from .sockets import server
from .targets import Target, Targets
from .workload import WORKLOADS, Workload

KINDS: Final = ("get", "user", "post", "404", "large", "stream")
WARM_UP: Final = 250
_MISSES: Final = ("I1mr", "D1mr", "D1mw", "Bcm", "Bim")
_CYCLES_OF_A_MISS: Final = 10


def rates(targets: Targets) -> None:
    """Compare the rates that the costs of a request give."""
    stacks = (targets.bare(), targets.quiet(), targets.twelve(), targets.everything())
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        bare, *others = executor.map(partial(costs, names=KINDS), stacks)
    rows = [
        [WORKLOADS[name].label, *(ratio(bare[name] / other[name]) for other in others)]
        for name in KINDS
    ]
    write("Rate, modelled", table(["request", *(target.label for target in stacks[1:])], rows))


def costs(target: Target, names: Iterable[str]) -> dict[str, float]:
    """Return the cost of each kind of request."""
    with tempfile.TemporaryDirectory(prefix="callgrind-", dir=target.service) as folder:
        out = Path(folder)
        under = (
            *("valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no"),
            *("--cache-sim=yes", "--branch-sim=yes", f"--callgrind-out-file={out}/of.%p"),
        )
        with server(target, under=under) as (port, pid):
            connection = HTTPConnection("127.0.0.1", port)
            found = {name: _cost(WORKLOADS[name], connection, pid, out) for name in names}
            connection.close()
    return found


def _cost(workload: Workload, connection: HTTPConnection, pid: int, out: Path) -> float:
    _send(workload, connection, min(WARM_UP, 2 * workload.count))
    for option in ("--zero", "--instr=on"):
        _control(option, pid)
    _send(workload, connection, workload.count)
    for option in ("--instr=off", "--dump"):
        _control(option, pid)
    dump = max(out.glob("*.*"), key=lambda path: path.stat().st_mtime)
    told = [line.partition(": ") for line in dump.read_text().splitlines()]
    lines = {key: value.split() for key, _, value in told if key in {"events", "totals"}}
    counted = dict(zip(lines["events"], map(int, lines["totals"]), strict=True))
    misses = sum(counted[event] for event in _MISSES)
    return (counted["Ir"] + _CYCLES_OF_A_MISS * misses) / workload.count


def _send(workload: Workload, connection: HTTPConnection, count: int) -> None:
    for _ in range(count):
        connection.request(workload.method, workload.path, workload.body or None, workload.headers)
        response = connection.getresponse()
        response.read()
        if response.status != workload.status:
            msg = f"{workload.label} was answered {response.status}"
            raise RuntimeError(msg)


def _control(option: str, pid: int) -> None:
    command = ("callgrind_control", option, str(pid))
    subprocess.run(command, check=True, capture_output=True)
