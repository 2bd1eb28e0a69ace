"""IP filter: admits and refuses clients by their addresses."""

from collections.abc import Collection
from typing import Final

from starlette.types import ASGIApp

from .core.exchange import Exchange
from .core.layer import NOTHING, Layer
from .core.memo import remembered
from .core.networks import covers, parse_address, parse_network
from .problem import Refusal

_REMEMBERED: Final = 4096
_REFUSAL: Final = Refusal(status=403, detail="Requests from your IP address are blocked.")


class IpFilterMiddleware(Layer):
    """
    Answer 403 to a client whose address is in `deny`, or not in `allow` where that is set.

    `deny` wins. An IPv4 address that the server spells as IPv6, `::ffff:192.0.2.1`, is taken
    for what it is. A client without an address, such as one that came by a unix socket, can't
    be in a list: it is refused where `allow` is set. Websocket handshakes are checked alike,
    and so are probes: a prober's address belongs in `allow`.
    """

    def __init__(self, app: ASGIApp, *, allow: Collection[str], deny: Collection[str]) -> None:
        super().__init__(app)
        self.allow = [parse_network(item) for item in allow]
        self.deny = [parse_network(item) for item in deny]
        self.admits = remembered(self._admits, most=_REMEMBERED)
        if not (allow or deny):
            self.scopes = NOTHING

    def enter(self, exchange: Exchange) -> Refusal | None:
        client = exchange.scope["client"]
        return None if self.admits(client[0] if client else None) else _REFUSAL

    def _admits(self, host: str | None) -> bool:
        address = parse_address(host)
        if address is None:
            return not self.allow
        if any(address in network for network in self.deny):
            return False
        return not self.allow or any(address in network for network in self.allow)


def check_lists(*, allow: Collection[str], deny: Collection[str]) -> None:
    """
    Refuse lists that together admit nobody.

    Raises:
        ValueError: a sentence with the way out.

    """
    blocked = [parse_network(item) for item in deny]
    if allow and all(covers(blocked, parse_network(item)) for item in allow):
        msg = (
            "IP_DENY must not hold all that IP_ALLOW admits, since IP_DENY wins; without IP_DENY"
            " all but IP_ALLOW is refused"
        )
        raise ValueError(msg)
