"""Ten times the requests that a backend can take, and some that need no backend."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import ceil
from typing import Any, Final, NamedTuple

from ..support import ROOT, free_port
from .page import table, write
from .sockets import wait_for
from .targets import Target, Targets

PICTURE: Final = ROOT / "docs" / "overload.svg"
WORKERS: Final = 2
CAPACITY: Final = 20 * WORKERS  # of `backend.py`: two calls of 100 ms at a time in each worker
SECONDS: Final = 60
PATIENCE: Final = 2.0
RATES: Final = {"/backend": 10 * CAPACITY, "/alone": 20}
BASE: Final = ("request_id", "access_log", "error_handler", "timeout")


@dataclass(frozen=True, eq=False)
class Variant:
    """A stack under load."""

    label: str
    colour: str
    layers: tuple[str, ...]
    settings: Mapping[str, str]
    routes: Mapping[str, Any]


VARIANTS: Final = (
    Variant("without the layer", "red", BASE, {}, {}),
    Variant("MAX_CONCURRENCY=4", "blue", (*BASE, "concurrency"), {"MAX_CONCURRENCY": "4"}, {}),
    Variant(
        "a policy with max_concurrency=4",
        "green",
        (*BASE, "concurrency"),
        {},
        {"GET /backend": {"max_concurrency": 4}},
    ),
)


class Outcome(NamedTuple):
    """When a request was sent, and how long its 200 took; None where none came in time."""

    sent_at: float
    seconds: float | None


Outcomes = Mapping[str, list[Outcome]]


def overload(targets: Targets) -> None:
    """Compare what is served in time, by whole seconds and over all."""
    found = {}
    for variant in VARIANTS:
        service = targets.service("-".join(variant.layers), layers=[*variant.layers])
        with _serving(Target(variant.label, "", service), variant) as port:
            found[variant] = asyncio.run(_load(port))
    rows = [
        [
            variant.label,
            *(cell for path in RATES for cell in _row(outcomes[path])),
        ]
        for variant, outcomes in found.items()
    ]
    head = ["", "served per second", "99 % within", "served per second, of 20", "99 % within"]
    PICTURE.write_text(_picture(found), "utf-8")
    write("Overload", f"{_EXPLANATION}\n\n{table(head, rows)}\n\n![{_TITLE}](overload.svg)")


_TITLE: Final = "Requests served in time, per second, at ten times the capacity"
_EXPLANATION: Final = f"""\
{WORKERS} workers, each with a pool of two connections to a backend that takes 100 ms: {CAPACITY} requests a second.
For {SECONDS} seconds {RATES["/backend"]} a second come (the first two columns), and {RATES["/alone"]} that need no backend (the last two); both are `def` endpoints.
A client waits {PATIENCE:g} seconds. A request is served if its 200 comes in that time."""


def _row(outcomes: list[Outcome]) -> tuple[str, str]:
    times = sorted(item.seconds for item in outcomes if item.seconds is not None)
    slowest = f"{1000 * times[ceil(0.99 * len(times)) - 1]:.0f} ms" if times else "-"
    return f"{len(times) / SECONDS:.1f}", slowest


@contextmanager
def _serving(target: Target, variant: Variant) -> Generator[int]:
    port = free_port()
    environment = {**target.environment(), **variant.settings, "ROUTES": json.dumps(variant.routes)}
    command = (sys.executable, "-m", "uvicorn", "benchmark.backend:app", "--port", str(port))
    process = subprocess.Popen(
        (*command, "--workers", str(WORKERS), "--log-level", "warning"),
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/alone", {})
        yield port
    finally:
        process.terminate()
        process.wait()


async def _load(port: int) -> Outcomes:
    found: dict[str, list[Outcome]] = {path: [] for path in RATES}
    async with asyncio.TaskGroup() as tasks:
        for path in RATES:
            tasks.create_task(_send(port, path, found[path]))
    return found


async def _send(port: int, path: str, found: list[Outcome]) -> None:
    """Send requests at a fixed rate, without waiting for responses."""
    clock = asyncio.get_running_loop().time
    began = clock()

    async def ask() -> None:
        sent_at = clock()
        served = False
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                served = await _ask(port, path)
        found.append(Outcome(sent_at - began, clock() - sent_at if served else None))

    async with asyncio.TaskGroup() as tasks:
        for number in range(RATES[path] * SECONDS):
            await asyncio.sleep(began + number / RATES[path] - clock())
            tasks.create_task(ask())


async def _ask(port: int, path: str) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        return (await reader.readline()).startswith(b"HTTP/1.1 200")
    finally:
        writer.close()


_WIDTH: Final = 360
_HEIGHT: Final = 160
_LEFT: Final = 50
_TOP: Final = 50
# A dash for each line: these colours alone look the same to some.
_STYLE: Final = """<style>
svg { --ground: #ffffff; --text: #1f2328; --axis: #57606a; --red: #cf222e; --blue: #0969da; --green: #1a7f37 }
@media (prefers-color-scheme: dark) {
  svg { --ground: #0d1117; --text: #f0f6fc; --axis: #9198a1; --red: #ff7b72; --blue: #4493f8; --green: #3fb950 }
}
text { font: 13px sans-serif; fill: var(--text) }
path, polyline { fill: none; stroke-width: 1.5 }
.axis { stroke: var(--axis) }
.red { stroke: var(--red) }
.blue { stroke: var(--blue); stroke-dasharray: 7 3 }
.green { stroke: var(--green); stroke-dasharray: 2 2 }
</style>"""


def _picture(found: Mapping[Variant, Outcomes]) -> str:
    """Return two charts side by side: a line for each variant, a point for each second."""
    panels = [
        _panel(
            _LEFT + at * (_WIDTH + 90),
            title,
            {variant: _by_second(outcomes[path]) for variant, outcomes in found.items()},
        )
        for at, (path, title) in enumerate(
            {"/backend": "needs the backend", "/alone": "needs no backend"}.items()
        )
    ]
    legend = "".join(
        f'<path class="{variant.colour}" d="M{_LEFT + 270 * at},{_TOP + _HEIGHT + 50}h26"/>'
        f'<text x="{_LEFT + 270 * at + 34}" y="{_TOP + _HEIGHT + 55}">{variant.label}</text>\n'
        for at, variant in enumerate(found)
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 920 275" width="920" height="275"'
        f' role="img" aria-labelledby="title">\n<title id="title">{_TITLE}</title>\n{_STYLE}\n'
        '<rect width="920" height="275" rx="8" fill="var(--ground)"/>\n'
        f'<text x="{_LEFT}" y="20" style="font-weight: bold">{_TITLE}</text>\n'
        f"{''.join(panels)}{legend}</svg>\n"
    )


def _by_second(outcomes: list[Outcome]) -> list[int]:
    counts = [0] * SECONDS
    for item in outcomes:
        if item.seconds is not None and item.sent_at < SECONDS:
            counts[int(item.sent_at)] += 1
    return counts


def _panel(left: int, title: str, lines: Mapping[Variant, list[int]]) -> str:
    most = max(1, *(max(counts) for counts in lines.values()))
    bottom = _TOP + _HEIGHT
    drawn = "".join(
        f'<polyline class="{variant.colour}" points="'
        + " ".join(
            f"{left + _WIDTH * second / SECONDS:.0f},{bottom - _HEIGHT * count / most:.0f}"
            for second, count in enumerate(counts)
        )
        + '"/>\n'
        for variant, counts in lines.items()
    )
    return (
        f'<text x="{left}" y="{_TOP - 8}">{title}</text>\n'
        f'<path class="axis" d="M{left},{_TOP}V{bottom}H{left + _WIDTH}"/>\n'
        f'<text x="{left - 6}" y="{_TOP + 5}" text-anchor="end">{most}</text>\n'
        f'<text x="{left - 6}" y="{bottom + 5}" text-anchor="end">0</text>\n'
        f'<text x="{left + _WIDTH}" y="{bottom + 18}" text-anchor="end">{SECONDS} s</text>\n'
        f"{drawn}"
    )
