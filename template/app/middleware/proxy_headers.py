"""Proxy headers: the client's address and scheme, as the proxies in front report them."""

import os
from collections.abc import Awaitable, Collection, Iterator
from ipaddress import IPv4Network
from typing import Annotated, Any, Final

from pydantic import AfterValidator
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware as UvicornProxyHeaders

from .core.exchange import Exchange
from .core.layer import Layer
from .core.networks import MAPPED_BITS, network, parse_network
from .core.reading import in_any_case

# Of a client that came by a unix socket nobody knows an address.
_UNIX: Final = "unix"
_SCHEMES: Final = {
    "http": {"http": "http", "https": "https", "ws": "http", "wss": "https"},
    "websocket": {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"},
}


class ProxyHeadersMiddleware(Layer):
    """
    Believe X-Forwarded-For and X-Forwarded-Proto of `trusted_proxies`, and of nobody else.

    The client is the rightmost entry of X-Forwarded-For that is no trusted proxy: what stands
    left of it is hearsay. A peer that is not trusted is taken for the client itself; one that
    came by a unix socket has no address, and is trusted by the word `unix`. That is uvicorn's
    class; this one adds the lists that several proxies write, `X-Forwarded-Proto: https, http`,
    reads a scheme whatever its case (RFC 3986, 3.1), and trusts an IPv4 proxy that the server
    tells of as `::ffff:10.0.0.1`. The scope is changed in place, so that what stands further
    out sees the client too once the request went through. Websockets alike; their schemes are
    ws and wss, those of requests http and https, whichever pair a proxy names.
    """

    def __init__(self, app: ASGIApp, *, trusted_proxies: Collection[str]) -> None:
        super().__init__(app)
        self.uvicorn: Any = UvicornProxyHeaders(_nothing, list(_spellings(trusted_proxies)))

    def enter(self, exchange: Exchange) -> Awaitable[None] | None:
        if exchange.client is None and _UNIX in self.uvicorn.trusted_hosts:
            # The name by which uvicorn's class knows it.
            exchange.client = exchange.scope["client"] = (_UNIX, 0)
        client = exchange.client
        trusted = client is not None and client[0] in self.uvicorn.trusted_hosts
        return self._correct(exchange) if trusted else None

    async def _correct(self, exchange: Exchange) -> None:
        scope = exchange.scope
        await self.uvicorn(scope, exchange.receive, exchange.send)
        exchange.client = scope["client"]
        schemes = _entries(exchange, b"x-forwarded-proto")
        position = self._position(exchange, len(schemes)) if len(schemes) > 1 else 0
        scheme = _SCHEMES[scope["type"]].get(schemes[position].lower())
        if scheme is not None:
            scope["scheme"] = scheme
        await exchange.proceed()

    def _position(self, exchange: Exchange, length: int) -> int:
        """
        Return which entry of X-Forwarded-Proto tells how the client came.

        Where each proxy added to both lists, the entries of one place belong together, and
        those left of the client's are hearsay. Else the first proxy's is the leftmost.
        """
        addresses = _entries(exchange, b"x-forwarded-for")
        if len(addresses) == 1:
            # One proxy added to what the client sent: its line is the last.
            return length - len(exchange.lines(b"x-forwarded-proto")[-1].split(b","))
        if len(addresses) != length:
            return 0
        parse = self.uvicorn.trusted_hosts.get_trusted_client_address
        client = exchange.client
        return max((at for at, item in enumerate(addresses) if parse(item) == client), default=0)


async def _nothing(*_: object) -> None:
    """Stand where uvicorn's class calls an app."""


def check_server_agrees(trusted_proxies: Collection[str]) -> None:
    """
    Refuse FORWARDED_ALLOW_IPS where it says something else than TRUSTED_PROXIES.

    uvicorn reads that variable itself, and decides first unless it runs with
    `--no-proxy-headers`; two lists would be believed one after the other. An empty one is fine:
    it switches uvicorn's part off.

    Raises:
        ValueError: a sentence with the way out.

    """
    stated = os.environ.get("FORWARDED_ALLOW_IPS", "").strip()
    if stated and _as_set(stated.split(",")) != _as_set(trusted_proxies):
        msg = (
            "FORWARDED_ALLOW_IPS must be unset or name the same proxies as TRUSTED_PROXIES"
            f" ({','.join(trusted_proxies)}), not {stated!r}: one place decides who is believed"
        )
        raise ValueError(msg)


def _as_set(items: Collection[str]) -> set[object]:
    return {_canonical(item.strip()) for item in items}


def _canonical(item: str) -> object:
    try:
        return parse_network(item)
    except ValueError:
        return item


def _entries(exchange: Exchange, name: bytes) -> list[str]:
    values = b",".join(exchange.lines(name)).decode("latin-1")
    return [item.strip() for item in values.split(",")]


def _spellings(networks: Collection[str]) -> Iterator[str]:
    for item in networks:
        if item == _UNIX:
            yield item
            continue
        trusted = parse_network(item)
        yield str(trusted)
        if isinstance(trusted, IPv4Network):
            yield f"::ffff:{trusted.network_address}/{trusted.prefixlen + MAPPED_BITS}"


def _proxy(value: str) -> str:
    if value == _UNIX:
        return value
    if value.startswith(_UNIX):
        msg = f"must name the peers of a unix socket by the word unix alone, not {value!r}"
        raise ValueError(msg)
    if value == "*" or parse_network(network(value)).prefixlen == 0:
        msg = (
            f"must not hold {value!r}: whoever is trusted may claim any address, and everybody"
            " would be; list the addresses and networks of your proxies"
        )
        raise ValueError(msg)
    return value


TrustedProxies = tuple[Annotated[str, AfterValidator(_proxy), in_any_case(_UNIX)], ...]
