"""Limits that follow the latency against fixed ones: a simulation, which needs no server."""

import heapq
import random
from collections import deque
from collections.abc import Callable
from itertools import count
from math import ceil, log10
from statistics import mean
from typing import Final, Protocol

from .page import table, write
from .targets import Targets

CONNECTIONS: Final = 10
CALL_SECONDS: Final = 0.1
CAPACITY: Final = CONNECTIONS / CALL_SECONDS
RATE: Final = 10 * CAPACITY
SECONDS: Final = 60
PATIENCE: Final = 2.0
QUEUE_SECONDS: Final = 1.0
SLOW: Final = (20.0, 40.0)
SEEDS: Final = range(5)


class Limiter(Protocol):
    """Says how many requests may run."""

    limit: float

    def ended(self, seconds: float, in_work: int) -> None:
        """Learn how long a request ran, and how many run."""


class Fixed:
    """A limit that an operator sets."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def ended(self, seconds: float, in_work: int) -> None:
        """Learn nothing."""


class Gradient:
    """Gradient2 of Netflix's concurrency-limits, with its defaults."""

    def __init__(self) -> None:
        self.limit = 20.0
        self._usual = 0.0
        self._seen = 0

    def ended(self, seconds: float, in_work: int) -> None:
        """Shrink where a request took longer than usual."""
        self._seen += 1
        weight = 1 / self._seen if self._seen <= 10 else 2 / 601
        self._usual += (seconds - self._usual) * weight
        if self._usual > 2 * seconds:
            self._usual *= 0.95
        if in_work >= self.limit / 2:
            gradient = max(0.5, min(1.0, 1.5 * self._usual / seconds))
            self.limit = max(20.0, min(200.0, 0.8 * self.limit + 0.2 * (self.limit * gradient + 4)))


class Vegas:
    """Vegas of the same library: the shortest time is that of an empty queue."""

    def __init__(self) -> None:
        self.limit = 20.0
        self._shortest = float("inf")

    def ended(self, seconds: float, in_work: int) -> None:
        """Hold the queue between three and six times the logarithm of the limit."""
        self._shortest = min(self._shortest, seconds)
        if in_work < self.limit / 2:
            return
        queue, step = ceil(self.limit * (1 - self._shortest / seconds)), max(1.0, log10(self.limit))
        if queue < 3 * step:
            self.limit += step
        elif queue > 6 * step:
            self.limit = max(1.0, self.limit - step)


class Steps:
    """Additive increase, multiplicative decrease above `slow` seconds."""

    def __init__(self, slow: float) -> None:
        self.limit = 20.0
        self.slow = slow

    def ended(self, seconds: float, in_work: int) -> None:
        """Shrink by a tenth, or grow by one in a whole round."""
        if seconds > self.slow:
            self.limit = max(1.0, 0.9 * self.limit)
        elif in_work >= self.limit / 2:
            self.limit = min(200.0, self.limit + 1 / self.limit)


LIMITERS: Final[dict[str, Callable[[], Limiter]]] = {
    "none": lambda: Fixed(float("inf")),
    "fixed, 10: the pool": lambda: Fixed(10),
    "fixed, 20": lambda: Fixed(20),
    "fixed, 100: the default": lambda: Fixed(100),
    "gradient (Netflix)": Gradient,
    "Vegas": Vegas,
    "steps, above 0.5 s": lambda: Steps(0.5),
    "steps, above 1 s": lambda: Steps(1.0),
}


def limiters(_: Targets) -> None:
    """Compare what is served in time, with a steady backend and one that becomes slow."""
    rows = []
    for name, make in LIMITERS.items():
        cells: list[str] = []
        for factor in (1, 4):
            runs = [Simulation(make(), factor, seed).run() for seed in SEEDS]
            served = mean(len(times) / SECONDS for times in runs)
            slowest = mean(times[ceil(0.99 * len(times)) - 1] for times in runs)
            cells += [f"{served:.0f}", f"{1000 * slowest:.0f} ms"]
        rows.append([name, *cells])
    head = ["limit", "steady, served per second", "99 % within", "slow, served", "99 % within"]
    write("Limits that adapt", f"{_EXPLANATION}\n\n{table(head, rows)}")


_EXPLANATION: Final = f"""\
A simulation: one process with a pool of {CONNECTIONS} connections and calls of {1000 * CALL_SECONDS:.0f} ms, so {CAPACITY:.0f} requests a second; ten times as many come for {SECONDS} seconds, and clients wait {PATIENCE:g} seconds.
As many as the limit wait up to {QUEUE_SECONDS:g} second for a slot. In the last two columns the backend takes four times as long from {SLOW[0]:.0f} to {SLOW[1]:.0f} s, so 75 a second can be served. Means of {len(SEEDS)} runs."""


class Simulation:
    """One run, event by event."""

    def __init__(self, limiter: Limiter, factor: float, seed: int) -> None:
        self.limiter = limiter
        self.factor = factor
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()
        self._free = CONNECTIONS
        self._in_work = 0
        # Requests that have a slot and no connection, and those without a slot, by their arrival.
        self._entered: deque[tuple[float, float]] = deque()
        self._waiting: deque[float] = deque()
        self._times: list[float] = []

    def run(self) -> list[float]:
        """Return how long each request took that was served in time, the shortest first."""
        self._at(0.0, self._arrive)
        while self._events:
            now, _, event = heapq.heappop(self._events)
            event(now)
        return sorted(self._times)

    def _at(self, time: float, event: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), event))

    def _arrive(self, now: float) -> None:
        following = now + self._random.expovariate(RATE)
        if following < SECONDS:
            self._at(following, self._arrive)
        while self._waiting and now - self._waiting[0] > QUEUE_SECONDS:
            self._waiting.popleft()
        if self._in_work + 1 <= self.limiter.limit:
            self._enter(now, now)
        elif len(self._waiting) < self.limiter.limit:
            self._waiting.append(now)

    def _enter(self, now: float, arrived: float) -> None:
        self._in_work += 1
        self._entered.append((arrived, now))
        self._call(now)

    def _call(self, now: float) -> None:
        if self._free and self._entered:
            self._free -= 1
            request = self._entered.popleft()
            slow = self.factor if SLOW[0] <= now < SLOW[1] else 1
            seconds = CALL_SECONDS * slow * self._random.uniform(0.8, 1.2)
            self._at(now + seconds, lambda then: self._end(then, *request))

    def _end(self, now: float, arrived: float, entered: float) -> None:
        self._free += 1
        self.limiter.ended(now - entered, self._in_work)
        self._in_work -= 1
        if now - arrived <= PATIENCE and arrived < SECONDS:
            self._times.append(now - arrived)
        self._call(now)
        while self._waiting and self._in_work + 1 <= self.limiter.limit:
            arrived = self._waiting.popleft()
            if now - arrived <= QUEUE_SECONDS:
                self._enter(now, arrived)
