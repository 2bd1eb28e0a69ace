"""Gauges: numbers for alerts, besides those of requests."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

from anyio import CapacityLimiter
from anyio.to_thread import current_default_thread_limiter
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_SECONDS_BETWEEN_SAMPLES: Final = 1.0


class Reading(NamedTuple):
    """
    A number of this process, and how several workers' are joined: minimum, maximum or sum.

    With `label` it has several: `read` returns one for each value of the label.
    """

    name: str
    meaning: str
    read: Callable[[], Any]
    of_workers: Literal["livemin", "livemax", "livesum"]
    label: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.label,) if self.label else ()

    def samples(self) -> dict[tuple[str, ...], float]:
        """Return the numbers by the values of their labels."""
        read = self.read()
        return {(key,): number for key, number in read.items()} if self.label else {(): read}


class Gauges(Collector):
    """
    Show `readings` and the state of the thread pool.

    A single worker reads them at the scrape. Several workers write theirs once a second, since a
    scrape reaches only one of them.
    """

    def __init__(
        self, readings: Sequence[Reading], registry: CollectorRegistry, *, one_worker: bool
    ) -> None:
        pool = _ThreadPool()
        self._pool = pool
        self._readings = [*readings, *pool.readings()]
        self._written: list[tuple[Gauge, Reading]] = []
        self._timer: asyncio.TimerHandle | None = None
        if one_worker:
            registry.register(self)
            return
        for reading in self._readings:
            # Without a registry: the files of the workers hold its values.
            gauge = Gauge(
                reading.name,
                reading.meaning,
                reading.labels,
                registry=None,
                multiprocess_mode=reading.of_workers,
            )
            self._written.append((gauge, reading))

    def start(self) -> None:
        """Start to read, on the event loop of the server."""
        self._pool.limiter = current_default_thread_limiter()
        if self._timer is not None:
            self._timer.cancel()
        if self._written:
            self._sample(asyncio.get_running_loop())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for reading in self._readings:
            family = GaugeMetricFamily(reading.name, reading.meaning, labels=reading.labels)
            for labels, number in reading.samples().items():
                family.add_metric(labels, number)
            yield family

    def _sample(self, loop: asyncio.AbstractEventLoop) -> None:
        for gauge, reading in self._written:
            for labels, number in reading.samples().items():
                (gauge.labels(*labels) if labels else gauge).set(number)
        self._timer = loop.call_later(_SECONDS_BETWEEN_SAMPLES, self._sample, loop)


class _ThreadPool:
    """The threads of AnyIO, in which `def` endpoints and dependencies run."""

    limiter: CapacityLimiter | None = None

    def readings(self) -> tuple[Reading, ...]:
        return (
            Reading(
                "threadpool_busy_threads",
                "Threads that run a `def` endpoint or dependency.",
                lambda: self.limiter.borrowed_tokens if self.limiter else 0,
                "livesum",
            ),
            Reading(
                "threadpool_max_threads",
                "How many threads the pool may have.",
                lambda: self.limiter.total_tokens if self.limiter else 0,
                "livesum",
            ),
            Reading(
                "threadpool_waiting_calls",
                "Calls that wait for a thread.",
                lambda: self.limiter.statistics().tasks_waiting if self.limiter else 0,
                "livesum",
            ),
        )
