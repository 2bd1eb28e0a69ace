"""IP filter: admits and refuses clients by their addresses."""

from collections.abc import Awaitable, Collection
from functools import lru_cache
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from .core.networks import parse_address, parse_network
from .problem import refuse

_REMEMBERED: Final = 4096


class IpFilterMiddleware:
    """
    Answer 403 to a client whose address is in `deny`, or not in `allow` where that is set.

    `deny` wins. An IPv4 address that the server spells as IPv6, `::ffff:192.0.2.1`, is taken
    for what it is. A client without an address, such as one that came by a unix socket, can't
    be in a list: it is refused where `allow` is set. Websocket handshakes are checked alike,
    and so are probes: a prober's address belongs in `allow`.
    """

    def __init__(self, app: ASGIApp, *, allow: Collection[str], deny: Collection[str]) -> None:
        self.app = app
        self.allow = [parse_network(item) for item in allow]
        self.deny = [parse_network(item) for item in deny]
        self.admits = lru_cache(_REMEMBERED)(self._admits)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "lifespan":
            return self.app(scope, receive, send)
        client = scope.get("client")
        if self.admits(client[0] if client else None):
            return self.app(scope, receive, send)
        return refuse(
            scope,
            receive,
            send,
            layer="ip_filter",
            status=403,
            detail="Requests from this address are not accepted.",
        )

    def _admits(self, host: str | None) -> bool:
        address = parse_address(host)
        if address is None:
            return not self.allow
        if any(address in network for network in self.deny):
            return False
        return not self.allow or any(address in network for network in self.allow)
