"""Counters: the numbers of requests and rejections, for Prometheus."""

import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from operator import add
from tempfile import TemporaryDirectory
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client's own switch

_REQUESTS: Final = ("http_requests", "Requests by method, route and status.")
_DURATION: Final = (
    "http_request_duration_seconds",
    "Time from a request to the last byte of its response.",
)
_IN_PROGRESS: Final = (
    "http_requests_in_progress",
    "Requests and websockets in progress.",
)
_REFUSALS: Final = ("http_refusals", "Requests that a layer rejected.")
_BOUNDS: Final = Histogram.DEFAULT_BUCKETS
_NAMES: Final = [*map(str, _BOUNDS[:-1]), "+Inf"]


class Counters(Protocol):
    """The counters of requests; `seconds` is None for a websocket."""

    registry: CollectorRegistry

    def begin(self, method: str) -> None:
        """Count a request that is in progress."""

    def end(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """Count a request that ended."""

    def refuse(self, layer: str, status: int) -> None:
        """Count a refusal."""


class ProcessCounters:
    """
    The counters of one process: plain numbers, which a scrape makes into metrics.

    An instrument of prometheus-client takes a lock and searches its buckets one by one, which is
    ten times as slow.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._in_progress: defaultdict[str, int] = defaultdict(int)
        self._websockets: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        self._seconds: defaultdict[tuple[str, str, int], list[float]] = defaultdict(_no_seconds)
        self._refusals: defaultdict[tuple[str, int], int] = defaultdict(int)
        registry.register(self)

    def begin(self, method: str) -> None:
        self._in_progress[method] += 1

    def end(self, method: str, route: str, status: int, seconds: float | None) -> None:
        self._in_progress[method] -= 1
        if seconds is None:
            self._websockets[method, route, status] += 1
        else:
            buckets = self._seconds[method, route, status]
            buckets[bisect_left(_BOUNDS, seconds)] += 1
            buckets[-1] += seconds

    def refuse(self, layer: str, status: int) -> None:
        self._refusals[layer, status] += 1

    def collect(self) -> Iterator[Metric]:
        """Return what was counted so far; another thread may count at the same time."""
        requests = CounterMetricFamily(*_REQUESTS, labels=("method", "route", "status"))
        durations = HistogramMetricFamily(*_DURATION, labels=("method", "route"))
        of_routes: defaultdict[tuple[str, str], list[float]] = defaultdict(_no_seconds)
        for (method, route, status), (*counts, seconds) in self._seconds.copy().items():
            requests.add_metric((method, route, str(status)), sum(counts))
            total = of_routes[method, route]
            total[:] = map(add, total, (*counts, seconds))
        for (method, route, status), count in self._websockets.copy().items():
            requests.add_metric((method, route, str(status)), count)
        for labels, (*counts, seconds) in of_routes.items():
            buckets = [*zip(_NAMES, accumulate(counts), strict=True)]
            durations.add_metric(labels, buckets, seconds)
        yield requests
        yield durations
        in_progress = GaugeMetricFamily(*_IN_PROGRESS, labels=("method",))
        for method, count in self._in_progress.copy().items():
            in_progress.add_metric((method,), count)
        yield in_progress
        refusals = CounterMetricFamily(*_REFUSALS, labels=("layer", "status"))
        for (layer, status), count in self._refusals.copy().items():
            refusals.add_metric((layer, str(status)), count)
        yield refusals


def _no_seconds() -> list[float]:
    return [0] * (len(_BOUNDS) + 1)


class SharedCounters:
    """The counters of one of several processes: instruments that write into a directory."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        # Labelled instruments are kept, since finding them costs most.
        kept = lru_cache(maxsize=1024)
        self.requests = kept(
            Counter(*_REQUESTS, ("method", "route", "status"), registry=registry).labels
        )
        self._durations = kept(Histogram(*_DURATION, ("method", "route"), registry=registry).labels)
        self._refusals = kept(Counter(*_REFUSALS, ("layer", "status"), registry=registry).labels)
        gauge = Gauge(*_IN_PROGRESS, ("method",), registry=registry, multiprocess_mode="livesum")
        self._in_progress = kept(gauge.labels)

    def begin(self, method: str) -> None:
        self._in_progress(method).inc()

    def end(self, method: str, route: str, status: int, seconds: float | None) -> None:
        self._in_progress(method).dec()
        self.requests(method, route, status).inc()
        if seconds is not None:
            self._durations(method, route).observe(seconds)

    def refuse(self, layer: str, status: int) -> None:
        self._refusals(layer, status).inc()


def workers_share() -> bool:
    """Return whether several processes add up their counts in a directory."""
    return DIRECTORY in os.environ


@contextmanager
def counting_apart() -> Generator[None]:
    """Keep what this process counts apart from the workers, in a directory of its own."""
    if not workers_share():
        yield
        return
    with TemporaryDirectory() as directory:
        os.environ[DIRECTORY] = directory
        yield
