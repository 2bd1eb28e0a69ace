"""Rate limit: limits how many requests one IP address can send in a period."""

import socket
from collections.abc import Awaitable, Collection
from typing import Final

from starlette.types import ASGIApp

from .core.exchange import Decision, Exchange
from .core.memo import Memo
from .storage.base import Storage, StoringLayer
from .storage.limits import Limit, OnError

_REMEMBERED: Final = 1024
_MAPPED: Final = bytes(10) + b"\xff\xff"


class RateLimitMiddleware(StoringLayer):
    """
    Return 429 with `Retry-After` (RFC 6585, 4) to an address that sent more than `rate`.

    Every request counts, 404s and websocket handshakes included; `probe_paths` don't. An IPv6
    address counts as its /64 network, since one client can have all of it. Clients without an
    address share one limit. A `route` with its own rate is counted separately. While the storage
    is unreachable, `on_error` decides whether requests pass uncounted or get 503.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        rate: str,
        storage: Storage,
        probe_paths: Collection[str],
        on_error: OnError = "allow",
        route: str = "",
    ) -> None:
        super().__init__(app, storage=storage, exempt_paths=probe_paths)
        self.limit = Limit(name=route or "default", rate=rate, storage=storage, on_error=on_error)
        self.keys = Memo(_address, most=_REMEMBERED)

    def enter(self, exchange: Exchange) -> Decision | Awaitable[Decision]:
        client = exchange.scope["client"]
        return self.limit.spend(self.keys[client[0] if client else ""], exchange)


def _address(host: str) -> str:
    try:
        if ":" not in host:
            return socket.inet_pton(socket.AF_INET, host).hex()
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except (OSError, ValueError):
        return "unknown"
    # An IPv4 address in IPv6 notation counts as IPv4 (RFC 4291, 2.5.5.2).
    return packed[12:].hex() if packed.startswith(_MAPPED) else packed[:8].hex()
