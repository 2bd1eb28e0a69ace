"""Requests driven in process: instructions and calls, which repeat, and the time of the CPU."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from statistics import median

from ..support import LAYERS
from .interleaved import interleaved
from .page import ratio, table, write
from .targets import Target, Targets, Worker
from .workload import WORKLOADS

KINDS = [name for name in WORKLOADS if name not in {"upload", "ticks"}]  # those are for `scale`
ENTRIES = (0, 1, 100)
_ALONE = (
    "A layer that is alone pays for the driver too, about 0.07; in a stack, neighbours share it."
)
WARM_UP = 200
ROUNDS = 80
SLICE_SECONDS = 0.008


def requests(targets: Targets) -> None:
    """Compare whole stacks, for each kind of request."""
    stacks = targets.stacks()
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        counted = [*executor.map(partial(counts, names=KINDS), stacks)]
    cpu = {name: times(stacks, name) for name in ("user", "stream")}
    bare = counted[0]
    for position, what in enumerate(("Instructions", "Calls")):
        rows = [
            [
                WORKLOADS[name].label,
                *(ratio(of[name][position] / bare[name][position]) for of in counted[1:]),
            ]
            for name in KINDS
        ]
        if what == "Instructions":
            rows += [
                [f"{WORKLOADS[name].label}, CPU", *map(ratio, ratios[1:])]
                for name, ratios in cpu.items()
            ]
        write(what, table(["request", *(target.label for target in stacks[1:])], rows))


def layers(targets: Targets) -> None:
    """Compare each layer alone, on top of what it needs, with bare FastAPI."""
    pairs = [(targets.alone(name), targets.required(name)) for name in LAYERS]
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        wanted = [targets.bare(), targets.quiet(), *{target for pair in pairs for target in pair}]
        found = executor.map(partial(counts, names=("user",)), wanted)
        measured = {target: count["user"] for target, count in zip(wanted, found, strict=True)}
    bare = measured[targets.bare()]
    rows = []
    for (alone, required), layer in zip(pairs, LAYERS.values(), strict=True):
        more = [1 + (measured[alone][i] - measured[required][i]) / bare[i] for i in (0, 1)]
        needs = "" if required == targets.quiet() else f", on top of {required.label}"
        rows.append([layer["label"] + needs, *(f"{value:.3f}" for value in more)])
    write("Each layer", f"{_ALONE}\n\n{table(['layer', 'instructions', 'calls'], rows)}")


def policies(targets: Targets) -> None:
    """Compare tables of policies for other routes of a service that has a hundred."""
    tables = [targets.policies(entries) for entries in ENTRIES]
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        count = partial(counts, names=("user",), routes=max(ENTRIES))
        bare, none, *others = executor.map(count, [targets.bare(), *tables])
    rows = [
        [
            target.label,
            *(f"{1 + (of['user'][i] - none['user'][i]) / bare['user'][i]:.3f}" for i in (0, 1)),
        ]
        for target, of in zip(tables, [none, *others], strict=True)
    ]
    write("Policies", table(["entries for other routes", "instructions", "calls"], rows))


def counts(target: Target, names: Iterable[str], routes: int = 1) -> dict[str, tuple[float, float]]:
    """Return the instructions and the calls of each kind of request."""
    found = {}
    with Worker(target, callgrind=True, routes=routes) as worker:
        for name in names:
            count = WORKLOADS[name].count
            worker.measure("cpu", name, min(WARM_UP, 2 * count))
            instructions = worker.measure("instructions", name, count)
            found[name] = (instructions, worker.measure("calls", name, count))
    return found


def times(targets: list[Target], name: str) -> list[float]:
    """Return the CPU time of each target as a ratio to the first one's."""
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(target)) for target in targets]
        for worker in workers:
            worker.measure("cpu", name, WORKLOADS[name].count)
        counts = [
            max(1, round(SLICE_SECONDS / worker.measure("cpu", name, WORKLOADS[name].count)))
            for worker in workers
        ]
        work = {
            worker: partial(worker.measure, "cpu", name, count)
            for worker, count in zip(workers, counts, strict=True)
        }
        rounds = interleaved(work, ROUNDS)
    return [median(taken[worker] / taken[workers[0]] for taken in rounds) for worker in workers]
