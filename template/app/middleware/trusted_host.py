"""Trusted host: rejects requests whose Host header isn't one of yours."""

import re
from collections.abc import Collection
from contextlib import suppress
from typing import Annotated, Final

from pydantic import AfterValidator
from starlette.types import ASGIApp

from .core.exchange import Exchange
from .core.layer import Layer
from .core.memo import Memo
from .core.setting_types import host_name, meant_host
from .problem import Refusal

_REMEMBERED: Final = 1024
_REFUSAL: Final = Refusal(
    status=400, detail="The Host header must be a host name of this service, sent once."
)
_HOST: Final = re.compile(
    r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?)(:(?P<port>[1-9]\d{0,4})?)?",
    re.IGNORECASE,
)
_WILD: Final = re.compile(r"^([a-z]+://)?\*\.", re.IGNORECASE)
_HIGHEST_PORT: Final = 65_535


class TrustedHostMiddleware(Layer):
    """
    Return 400 if Host is missing, sent twice or not one of `allowed_hosts`.

    Redirects and absolute links are built from Host (RFC 9110, 7.2). Port and case are ignored.
    `*.example.com` allows names below example.com, but not example.com itself. `probe_paths` are
    exempt, since probes use the IP address of a container. Websocket handshakes are checked too.
    """

    def __init__(
        self, app: ASGIApp, *, allowed_hosts: Collection[str], probe_paths: Collection[str]
    ) -> None:
        super().__init__(app, exempt_paths=probe_paths)
        names = [host.lower() for host in allowed_hosts]
        self.names = frozenset(name for name in names if not name.startswith("*"))
        self.suffixes = tuple(name[1:] for name in names if name.startswith("*"))
        self.trusts = Memo(self._trusts, most=_REMEMBERED)

    def enter(self, exchange: Exchange) -> Refusal | None:
        host = exchange.headers.get(b"host")
        return None if host is not None and self.trusts[host] else _REFUSAL

    def _trusts(self, host: bytes) -> bool:
        match = _HOST.fullmatch(host.decode("latin-1"))
        if match is None or int(match["port"] or 0) > _HIGHEST_PORT:
            return False
        name = match["name"].lower()
        return name in self.names or name.endswith(self.suffixes)


def _pattern(value: str) -> str:
    wild = "*." if value.startswith("*.") else ""
    with suppress(ValueError):
        host = host_name(value.removeprefix(wild))
        if not (wild and _is_address(host)):
            return wild + host
    msg = f"must be host names such as api.example or *.api.example, not {value!r}: {_hint(value)}"
    raise ValueError(msg)


def _hint(value: str) -> str:
    bare, wild = _WILD.subn(r"\1", value)
    host = meant_host(bare)
    if value == "*":
        return "name the hosts, or *.api.example for all below one"
    if host is None:
        return "write a host name such as api.example, or an IPv6 address such as [::1]"
    if _is_address(host):
        return f"an address has brackets in IPv6, and no wildcard, port or zone; write {host}"
    below = f" or *.{host}" if bare.startswith(".") else ""
    hint = "a host name is ASCII, without scheme, port, path and dots around it"
    return f"{hint}; write {'*.' if wild else ''}{host}{below}"


def _is_address(host: str) -> bool:
    return host.startswith("[") or host.replace(".", "").isdigit()


def _some(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        msg = "must name at least one host, or every request is rejected"
        raise ValueError(msg)
    return value


HostPatterns = Annotated[
    tuple[Annotated[str, AfterValidator(_pattern)], ...], AfterValidator(_some)
]
