"""Rate limit: so many requests a period from one address."""

import socket
from collections.abc import Awaitable, Collection
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from .core.probes import is_probe
from .storage.base import Storage, attend_lifespan
from .storage.limits import Limit, OnError

_MAPPED: Final = bytes(10) + b"\xff\xff"


class RateLimitMiddleware:
    """
    Answer 429 to an address that spent `rate`, with `Retry-After` (RFC 6585, 4).

    Every request counts, whatever becomes of it: 404s and websocket handshakes do as well,
    `probe_paths` don't. An IPv6 address counts as its /64, since one client has all of that.
    Clients whose address nobody knows share one limit. While the storage is lost, `on_error`
    says whether requests are admitted uncounted or answered 503.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        rate: str,
        storage: Storage,
        probe_paths: Collection[str],
        on_error: OnError = "allow",
    ) -> None:
        self.app = app
        self.storage = storage
        self.probe_paths = frozenset(probe_paths)
        self.limit = Limit(
            layer="rate_limit", name="default", rate=rate, storage=storage, on_error=on_error
        )

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "lifespan":
            return attend_lifespan(self.storage, self.app, scope, receive, send)
        if is_probe(scope, self.probe_paths):
            return self.app(scope, receive, send)
        return self.limit.spend(_address(scope), self.app, scope, receive, send)


def _address(scope: Scope) -> str:
    host = (scope.get("client") or ("",))[0]
    try:
        if ":" not in host:
            return socket.inet_pton(socket.AF_INET, host).hex()
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except (OSError, ValueError):
        return "unknown"
    # An IPv4 address in the clothes of IPv6 is the one that it wears (RFC 4291, 2.5.5.2).
    return packed[12:].hex() if packed.startswith(_MAPPED) else packed[:8].hex()
