"""Proxy headers: reads client IP address and scheme from trusted proxies."""

import os
from collections.abc import Collection, Iterator
from ipaddress import IPv4Network
from traceback import walk_stack
from typing import Annotated, Any, Final, NoReturn

from pydantic import AfterValidator
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware as UvicornProxyHeaders

from .core.check import fail_start
from .core.exchange import Client, Exchange
from .core.headers import LONGEST
from .core.layer import Layer
from .core.networks import MAPPED_BITS, covers, holds_everybody, network, parse_network
from .core.reading import in_any_case
from .core.threads import nothing

# A peer on a unix socket has no address.
_UNIX: Final = "unix"
_ADDRESSES: Final = b"x-forwarded-for"
# What uvicorn and gunicorn trust by default.
_DEFAULTS: Final = frozenset({"127.0.0.1", "::1"})
# All that the internet has (RFC 4291, 2.4).
_EVERYBODY: Final = ("0.0.0.0/0", "2000::/3")
_DISAGREES: Final = (
    "The server trusts X-Forwarded-For from {}, which differs from TRUSTED_PROXIES."
    " Start it with --no-proxy-headers and without --forwarded-allow-ips: TRUSTED_PROXIES decides."
)
_SCHEMES: Final = {
    "http": {"http": "http", "https": "https", "ws": "http", "wss": "https"},
    "websocket": {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"},
}


class ProxyHeadersMiddleware(Layer):
    """
    Trust X-Forwarded-For and X-Forwarded-Proto from `trusted_proxies` only.

    The client is the rightmost address of X-Forwarded-For that isn't a trusted proxy; entries left
    of it can be forged. A peer that isn't trusted is the client itself. A peer on a unix socket has
    no address, and is trusted by the word `unix`. Where two lines of a chunked request name
    different clients, the client is unknown: the last one may be a trailer. Unlike uvicorn's class,
    this one reads the lists of several proxies, such as `X-Forwarded-Proto: https, http`, ignores
    the case of a scheme (RFC 3986, 3.1), and trusts an IPv4 proxy that the server reports as
    `::ffff:10.0.0.1`. It changes the scope in place, so outer layers see the client too once the
    request passed. Websockets get ws or wss and requests http or https, whichever pair the proxy
    sends.
    """

    def __init__(self, app: ASGIApp, *, trusted_proxies: Collection[str]) -> None:
        super().__init__(app)
        self.trusted_proxies = trusted_proxies
        spellings = list(_spellings(trusted_proxies))
        self.trusted: Any = UvicornProxyHeaders(nothing, spellings).trusted_hosts

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        # uvicorn and gunicorn's uvicorn worker put the same class around the app, where it would
        # decide first: of its callers the app sees that one.
        callers = [frame.f_locals.get("self") for frame, _ in walk_stack(None)]
        for caller in callers:
            if isinstance(caller, UvicornProxyHeaders):
                stated = _stated(caller)
                if not (stated <= _DEFAULTS or _as_set(stated) == _as_set(self.trusted_proxies)):
                    await fail_start(_DISAGREES.format(",".join(sorted(stated))), receive, send)
                caller.trusted_hosts = UvicornProxyHeaders(nothing, []).trusted_hosts
        await super().lifespan(scope, receive, send)

    def enter(self, exchange: Exchange) -> None:
        client = exchange.scope["client"]
        # Some servers report an empty address there.
        if (client is None or not client[0]) and _UNIX in self.trusted:
            # The name by which uvicorn's class knows it.
            client = exchange.client = (_UNIX, 0)
        if client is not None and client[0] in self.trusted:
            self._correct(exchange)

    def _correct(self, exchange: Exchange) -> None:
        scope = exchange.scope
        lines = [value for name, value in scope["headers"] if name == _ADDRESSES]
        client, proxies = self._client(b",".join(lines))
        # uvicorn with httptools takes the trailers of a chunked body for headers, so the last line
        # may be the client's where the proxy forwards them.
        chunked = b"transfer-encoding" in exchange.headers
        if chunked and len(lines) > 1 and self._disagree(lines):
            exchange.client = None
        elif client[0]:
            exchange.client = client
        schemes = _entries(exchange, b"x-forwarded-proto")
        # Each proxy adds to the end of both lists, and what is left of it can be forged.
        scheme = schemes[max(len(schemes) - 1 - proxies, 0)].lower()
        scope["scheme"] = _SCHEMES[scope["type"]].get(scheme, scope["scheme"])

    def _disagree(self, lines: list[bytes]) -> bool:
        if sum(map(len, lines)) > LONGEST:
            return True  # or all others would wait while they are read
        clients = {self._client(line)[0][0] for line in lines}
        return len([client for client in clients if client not in self.trusted]) > 1

    def _client(self, sent: bytes) -> tuple[Client, int]:
        """Return the rightmost address that no trusted proxy has, and how many are right of it."""
        # The end of a long list is what the proxies added.
        entries = sent[-LONGEST:].decode("latin-1").split(",")
        client: Client = ("", 0)
        for proxies, entry in enumerate(reversed(entries)):
            client = self.trusted.get_trusted_client_address(entry)
            if client[0] not in self.trusted:
                return client, proxies
        return client, len(entries) - 1


def _stated(server: UvicornProxyHeaders) -> set[str]:
    """Return the proxies that the server trusts by its settings."""
    hosts = server.trusted_hosts
    found = hosts.trusted_literals | hosts.trusted_hosts | hosts.trusted_networks
    return {"*"} if hosts.always_trust else {str(item) for item in found if item}


def check_server_agrees(trusted_proxies: Collection[str]) -> None:
    """
    Reject a FORWARDED_ALLOW_IPS that differs from TRUSTED_PROXIES.

    uvicorn reads that variable, and applies it first unless it runs with `--no-proxy-headers`;
    both lists would be trusted. An empty value is fine: it switches uvicorn's part off.

    Raises:
        ValueError: with a message that says what to set.

    """
    stated = os.environ.get("FORWARDED_ALLOW_IPS", "").strip()
    if stated and _as_set(stated.split(",")) != _as_set(trusted_proxies):
        msg = (
            "FORWARDED_ALLOW_IPS must be unset or name the same proxies as TRUSTED_PROXIES"
            f" ({','.join(trusted_proxies)}), not {stated!r}, or uvicorn trusts others"
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
        msg = f"must be the word unix alone for peers on a unix socket, not {value!r}"
        raise ValueError(msg)
    if holds_everybody(value):
        _refuse_everybody(value)
    return network(value)


def _proxies(items: tuple[str, ...]) -> tuple[str, ...]:
    """Reject everybody in parts, such as 0.0.0.0/1 with 128.0.0.0/1."""
    networks = [parse_network(item) for item in items if item != _UNIX]
    if any(covers(networks, parse_network(each)) for each in _EVERYBODY):
        _refuse_everybody(",".join(items))
    return items


def _refuse_everybody(value: str) -> NoReturn:
    msg = (
        f"must not hold {value!r}, with which every client can claim any address; list the"
        " addresses and networks of your proxies"
    )
    raise ValueError(msg)


TrustedProxies = Annotated[
    tuple[Annotated[str, AfterValidator(_proxy), in_any_case(_UNIX)], ...],
    AfterValidator(_proxies),
]
