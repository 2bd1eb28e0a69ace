"""From the start of a server to its first answer: time, CPU and memory."""

import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

from ..support import free_port
from .interleaved import interleaved
from .page import megabytes, seconds, table, write
from .sockets import wait_for
from .targets import Targets

ROUNDS: Final = 7
_SECRET: Final = "a secret that is long enough to be one, by far"
_ENVIRONMENT: Final = {
    "JWT_ALGORITHMS": "HS256",
    "JWT_KEY": _SECRET,
    "SESSION_SECRET": _SECRET,
}
_BARE: Final = """\
from fastapi import FastAPI

app = FastAPI()


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}
"""


def start_up(targets: Targets) -> None:
    """Start each service as uvicorn does, several times in turn."""
    bare = targets.folder / "bare"
    (bare / "app").mkdir(parents=True, exist_ok=True)
    (bare / "app" / "main.py").write_text(_BARE)
    services = {
        "bare FastAPI": bare,
        "minimal": targets.service("minimal", preset="minimal"),
        "everything": targets.everything().service,
    }
    work = {name: partial(_started, service) for name, service in services.items()}
    rounds = interleaved(work, ROUNDS + 1)
    rows = []
    for name in services:
        # The first round wrote the bytecode.
        figures = [
            median(figure) for figure in zip(*(taken[name] for taken in rounds[1:]), strict=True)
        ]
        wall, cpu, memory = figures
        rows.append([name, seconds(wall), seconds(cpu), megabytes(memory)])
    write("Start-up", table(["service", "to the first response", "CPU", "memory"], rows))


def _started(service: Path) -> tuple[float, float, float]:
    port = free_port()
    start = time.perf_counter()
    process = subprocess.Popen(
        (sys.executable, "-m", "uvicorn", "app.main:app", "--port", str(port)),
        cwd=service,
        env={**os.environ, **_ENVIRONMENT},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(f"http://127.0.0.1:{port}/healthz", {})
    wall = time.perf_counter() - start
    status = Path(f"/proc/{process.pid}/status").read_text("ascii")
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    process.terminate()
    _, __, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    return wall, usage.ru_utime + usage.ru_stime, int(kilobytes) * 1024.0
