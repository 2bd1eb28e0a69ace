"""What grows with the number of layers, routes, clients and streams, and with bodies."""

from collections.abc import Sequence
from typing import Any, Final

from .page import megabytes, ratio, table, write
from .targets import Target, Targets, Worker

LAYERS: Final = (0, 10, 20, 40)
ROUTES: Final = (10, 100, 1000)
CLIENTS: Final = (1, 1000, 100_000)
SIZES: Final = (1000, 100_000, 10_000_000)
STREAMS: Final = 1000


def scale(targets: Targets) -> None:
    """Write one section of several tables."""
    tables = (
        ("Layers that do nothing, in instructions:", _layers(targets)),
        ("What the twelve concerns add in calls, among so many other routes:", _routes(targets)),
        ("The twelve concerns, counting so many clients in memory:", _clients(targets)),
        ("Memory that the process gained by uploads of that size:", _uploads(targets)),
        (f"{STREAMS:,} streams side by side, against bare FastAPI:", _streams(targets)),
    )
    write("Scale", "\n\n".join(f"{title}\n\n{text}" for title, text in tables))


def _layers(targets: Targets) -> str:
    found = []
    for number in LAYERS:
        with Worker(Target("", f"no-op:{number}", targets.folder), callgrind=True) as worker:
            worker.measure("cpu", "user", 200)
            found.append(worker.measure("instructions", "user", 100))
    row = ["ratio to none", *(f"{count / found[0]:.3f}" for count in found)]
    return table(["layers", *map(str, LAYERS)], [row])


def _routes(targets: Targets) -> str:
    bare = [_calls(targets.quiet(), number) for number in ROUTES]
    twelve = [_calls(targets.twelve(), number) for number in ROUTES]
    ours = [more - less for more, less in zip(twelve, bare, strict=True)]
    rows = [
        ["bare FastAPI, to the fewest", *(f"{count / bare[0]:.3f}" for count in bare)],
        ["what the layers add, to the fewest", *(f"{count / ours[0]:.3f}" for count in ours)],
    ]
    return table(["routes", *(f"{number:,}" for number in ROUTES)], rows)


def _calls(target: Target, routes: int) -> float:
    with Worker(target, routes=routes) as worker:
        worker.measure("cpu", "user", 50)
        return worker.measure("calls", "user", 50)


def _clients(targets: Targets) -> str:
    calls: list[Any] = []
    memory: list[Any] = []
    for number in CLIENTS:
        with Worker(targets.twelve()) as worker:
            alone = worker.measure("memory", "get", 1000)
            memory.append(worker.measure("memory", "get", number, clients=number) - alone)
            calls.append(worker.measure("calls", "get", 100, clients=number))
    rows = [
        ["calls a request, to one client", *(f"{count / calls[0]:.3f}" for count in calls)],
        ["memory gained", *map(megabytes, memory)],
    ]
    return table(["clients", *(f"{number:,}" for number in CLIENTS)], rows)


def _uploads(targets: Targets) -> str:
    rows = []
    for target in (targets.bare(), targets.twelve(), targets.everything()):
        with Worker(target) as worker:
            worker.measure("memory", "upload", 100, size=SIZES[0])
            held = [worker.measure("memory", "upload", 20, size=size) for size in SIZES]
        rows.append([target.label, *(megabytes(each - held[0]) for each in held)])
    return table(["stack", *(f"{size / 1000:,.0f} KB" for size in SIZES)], rows)


def _streams(targets: Targets) -> str:
    stacks = (targets.bare(), targets.twelve(), targets.everything())
    cpu: list[float] = []
    memory: list[float] = []
    for target in stacks:
        with Worker(target) as worker:
            alone = worker.measure("memory", "ticks", 100)
            cpu.append(worker.measure("together", "ticks", STREAMS))
            memory.append(worker.measure("memory", "ticks", 1) - alone)
    return table(["stack", "CPU", "memory gained"], _rows(stacks, cpu, memory))


def _rows(
    stacks: Sequence[Target], cpu: Sequence[float], memory: Sequence[float]
) -> list[list[str]]:
    figures = zip(stacks, cpu, memory, strict=True)
    return [
        [target.label, ratio(taken / cpu[0]), megabytes(held)] for target, taken, held in figures
    ]
