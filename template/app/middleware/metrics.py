"""Metrics: counts and times requests and rejections, for Prometheus."""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from shutil import disk_usage
from tempfile import TemporaryFile
from typing import Any, Final

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .core.check import readers_of
from .core.counters import DIRECTORY, Counters, ProcessCounters, SharedCounters, workers_share
from .core.exchange import HANDSHAKE, Exchange
from .core.gauges import Gauges, Reading
from .core.headers import LONGEST
from .core.layer import Layer
from .core.logger import layer_logger
from .core.networks import parse_address, parse_network
from .core.threads import Threads
from .problem import refuse

_METHODS: Final = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)
_FORBIDDEN: Final = 403
_IN_USE: Final = (
    "METRICS_PATH is also the path of another route ({}), which the metrics page would hide. Set"
    " another path."
)
_ROOM: Final = 16 * 1024 * 1024
_threads: Final = Threads(1)
_logger: Final = layer_logger(__name__)
_OTHER_PATH: Final[tuple[Match, Scope]] = (Match.NONE, {})


class MetricsMiddleware(Layer):
    """
    Count each request once: after its last byte was sent, or when it ended without one.

    A client that disconnected early counts as 499. A websocket counts when it closes, as method
    WEBSOCKET, with 101 if it was accepted, and without a duration. Clients can't create labels:
    all paths without a route share one, and so do all unknown methods.
    """

    once = True

    def __init__(self, app: ASGIApp, *, readings: Sequence[Reading] = ()) -> None:
        super().__init__(app)
        one_worker = not workers_share()
        self.counters = _of_this_app() if one_worker else _of_this_worker()
        self.gauges = Gauges(readings, self.counters.registry, one_worker=one_worker)

    def faults(self, service: Any) -> Iterator[str]:
        for page in [route for route in service.routes if isinstance(route, _ExactRoute)]:
            endpoints = [getattr(it, "endpoint", None) for it in readers_of(service, page.path)]
            # A package can add a copy of each route.
            if any(endpoint is not page.endpoint for endpoint in endpoints):
                yield _IN_USE.format(page.path)

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.gauges.start()
        await super().lifespan(scope, receive, send)

    def enter(self, exchange: Exchange) -> None:
        exchange.state["metrics_registry"] = self.counters.registry
        method = exchange.method
        self.counters.begin(method if method in _METHODS else _other(exchange))

    def ended(self, exchange: Exchange) -> None:
        method = exchange.method
        method = method if method in _METHODS else _other(exchange)
        seconds = None if method == HANDSHAKE else exchange.seconds
        self.counters.end(method, exchange.route or "<unmatched>", exchange.status, seconds)
        if "refused_by" in exchange.state:
            # An app can keep anything there.
            self.counters.refuse(str(exchange.state["refused_by"]), exchange.status)


def _other(exchange: Exchange) -> str:
    return exchange.method if exchange.scope["type"] == "websocket" else "_OTHER"


class _MetricsPage:
    """Responds to clients of the networks `allow`, and returns 403 to others."""

    def __init__(self, *, allow: Collection[str]) -> None:
        self.networks = [parse_network(network) for network in allow]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._admits(scope.get("client")):
            detail = "Your IP address can't read the metrics."
            await refuse(scope, receive, send, layer="metrics", status=_FORBIDDEN, detail=detail)
            return
        registry = scope["state"]["metrics_registry"]
        if workers_share():
            registry = await _threads.run(_registry_of_all_workers)
        accept = Request(scope).headers.get("accept", "")[:LONGEST]
        try:
            encode, media_type = choose_encoder(accept)
        except (TypeError, ValueError):  # of prometheus-client, for a version that is no number
            encode, media_type = choose_encoder("")
        page = await _threads.run(encode, registry)
        # Caches don't know who may read it.
        headers = {"Cache-Control": "no-store", "Vary": "Accept"}
        response = Response(page, headers=headers, media_type=media_type)
        await response(scope, receive, send)

    def _admits(self, client: tuple[str, int] | None) -> bool:
        address = parse_address(client[0] if client else None)
        return address is not None and any(address in network for network in self.networks)


class _ExactRoute(Route):
    """A route without parameters, which looks for its path first, since every request asks it."""

    # What gave it its path.
    setting: Final = "METRICS_PATH"

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if self.path in scope["path"]:
            return super().matches(scope)
        return _OTHER_PATH


def metrics_route(path: str, *, allow: Collection[str]) -> Route:
    """Return the route of the page, for clients of the networks `allow`."""
    return _ExactRoute(path, _MetricsPage(allow=allow), methods=["GET"], include_in_schema=False)


def check_directory_of_workers() -> None:
    """
    Reject a directory that isn't writable or has less than 16 MiB of free space.

    Raises:
        ValueError: with a message that says what to set.

    """
    directory = os.environ.get(DIRECTORY)
    if directory is None:
        return
    if not _can_be_written_to(directory):
        msg = f"{DIRECTORY} must be a writable directory, not {directory!r}"
        raise ValueError(msg)
    if disk_usage(directory).free < _ROOM:
        # The files are memory-mapped: on a full disk a write kills the process without a log line.
        msg = f"{DIRECTORY} must have 16 MiB of free space, which {directory!r} doesn't have"
        raise ValueError(msg)


def _can_be_written_to(directory: str) -> bool:
    try:
        TemporaryFile(dir=directory).close()
    except OSError:
        return False
    return directory != ""  # which would be the working directory


def _of_this_app() -> Counters:
    """Return counters for one app; the default registry stays free for other metrics."""
    registry = CollectorRegistry()
    registry.register(REGISTRY)
    return ProcessCounters(registry)


@cache
def _of_this_worker() -> Counters:
    # A process with the same ID may have left files in the directory. Its counts go on.
    mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]
    for file in _files(f"*_{os.getpid()}"):
        if not _can_be_read(file):
            file.unlink()
    return SharedCounters()


class _Collector(MultiProcessCollector):
    """Leaves out files that can't be read, as a process that was killed can leave one."""

    def collect(self) -> Iterable[Metric]:
        try:
            return _merged(_files("*"))
        except Exception:  # noqa: BLE001 - what is in a file decides which
            return _merged(filter(_can_be_read, _files("*")))


def _files(name: str) -> Iterator[Path]:
    return Path(os.environ[DIRECTORY]).glob(f"{name}.db")


def _merged(files: Iterable[Path]) -> Iterable[Metric]:
    metrics: Iterable[Metric] = _Collector.merge(map(str, files))  # type: ignore[no-untyped-call]
    return metrics


def _can_be_read(file: Path) -> bool:
    try:
        _merged([file])
    except Exception as exc:  # noqa: BLE001 - as above
        _warn_of(file, repr(exc))
        return False
    return True


@cache
def _warn_of(file: Path, reason: str) -> None:
    _logger.warning("the metrics leave out %s, which can't be read: %s", file, reason)


def _registry_of_all_workers() -> CollectorRegistry:
    """Return the sums over all workers, including ended ones, but without the gauges of those."""
    registry = CollectorRegistry()
    _Collector(registry)  # type: ignore[no-untyped-call]
    for file in _files("gauge_live*"):
        pid = file.stem.rpartition("_")[2]  # or what else a process is named by
        # Another worker may do the same at the same time.
        with suppress(FileNotFoundError):
            if pid.isdecimal() and _has_ended(int(pid)):
                mark_process_dead(int(pid))  # type: ignore[no-untyped-call]
    return registry


def _has_ended(pid: int) -> bool:
    if os.name != "posix":
        return False  # elsewhere os.kill would end it
    try:
        os.kill(pid, 0)
    except OSError as exc:
        return isinstance(exc, ProcessLookupError)
    return False
