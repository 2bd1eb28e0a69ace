"""IP filter: allows or blocks clients by IP address."""

from collections.abc import Collection
from functools import partial
from typing import Annotated, Final

from pydantic import AfterValidator
from starlette.types import ASGIApp

from .core.exchange import Exchange
from .core.layer import NOTHING, Layer
from .core.memo import Memo
from .core.networks import covers, network, parse_address, parse_network
from .problem import Refusal

_REMEMBERED: Final = 4096
_REFUSAL: Final = Refusal(status=403, detail="Requests from your IP address are blocked.")
_EVERYBODY: Final = ("0.0.0.0/0", "::/0")
_ALLOW_ALONE: Final = "without IP_DENY, every client outside IP_ALLOW is blocked"


class IpFilterMiddleware(Layer):
    """
    Return 403 to a client whose address is in `deny`, or isn't in `allow` if that is set.

    `deny` takes precedence. An IPv4 address in IPv6 notation, `::ffff:192.0.2.1`, is compared as
    IPv4. A client without an address, for example on a unix socket, is in no list, and is blocked
    if `allow` is set. Websocket handshakes and probes are checked too: `allow` must contain the
    prober's address.
    """

    def __init__(self, app: ASGIApp, *, allow: Collection[str], deny: Collection[str]) -> None:
        super().__init__(app)
        self.allow = [parse_network(item) for item in allow]
        self.deny = [parse_network(item) for item in deny]
        self.admits = Memo(self._admits, most=_REMEMBERED)
        if not (allow or deny):
            self.scopes = NOTHING

    def enter(self, exchange: Exchange) -> Refusal | None:
        client = exchange.scope["client"]
        return None if self.admits[client[0] if client else ""] else _REFUSAL

    def _admits(self, host: str) -> bool:
        address = parse_address(host)
        if address is None:
            return not self.allow
        if any(address in network for network in self.deny):
            return False
        return not self.allow or any(address in network for network in self.allow)


def check_lists(*, allow: Collection[str], deny: Collection[str]) -> None:
    """
    Reject lists that together block every client.

    Raises:
        ValueError: with a message that says what to set.

    """
    blocked = [parse_network(item) for item in deny]
    if all(covers(blocked, parse_network(item)) for item in allow or _EVERYBODY):
        rule = "all of IP_ALLOW, since it takes precedence" if allow else "every client"
        msg = f"IP_DENY must not block {rule}; {_ALLOW_ALONE}"
        raise ValueError(msg)


_denied: Final = partial(network, everybody=f"; {_ALLOW_ALONE}")
Denied = tuple[Annotated[str, AfterValidator(_denied)], ...]
