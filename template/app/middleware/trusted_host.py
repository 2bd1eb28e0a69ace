"""Trusted host: rejects requests whose Host header isn't one of yours."""

import re
from collections.abc import Collection
from typing import Annotated, Final

from pydantic import AfterValidator
from starlette.types import ASGIApp

from .core.exchange import Exchange
from .core.layer import Layer
from .core.memo import Memo
from .core.setting_types import host_name
from .problem import Refusal

_REMEMBERED: Final = 1024
_REFUSAL: Final = Refusal(
    status=400, detail="Send exactly one Host header, with a host name of this service."
)
_HOST: Final = re.compile(
    r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?)(:(?P<port>[1-9]\d{0,4}))?",
    re.IGNORECASE,
)
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
    try:
        return wild + host_name(value.removeprefix(wild))
    except ValueError as error:
        hint = "name the hosts, or *.api.example for all below one" if value == "*" else error
        msg = f"must be host names such as api.example or *.api.example, not {value!r}: {hint}"
        raise ValueError(msg) from None


def _some(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        msg = "must name at least one host, or every request is rejected"
        raise ValueError(msg)
    return value


HostPatterns = Annotated[
    tuple[Annotated[str, AfterValidator(_pattern)], ...], AfterValidator(_some)
]
