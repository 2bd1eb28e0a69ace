"""Networks: the addresses in settings, and those of clients."""

import re
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_network,
)
from typing import Annotated, Any, Final

from pydantic import AfterValidator

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAPPED_BITS: Final = 96
# Without brackets, the end of an IPv6 address is no port.
_WITH_PORT: Final = re.compile(r"([^:]+|\[.+\]):[0-9]*")
_ZONE: Final = re.compile(r"%[^]/]*")
_EVERY_CLIENT: Final = "; for every client, write 0.0.0.0/0,::/0"


def parse_address(host: str | None) -> Address | None:
    """
    Return the address in `host`, or None.

    A server that listens on IPv6 may report an IPv4 client as `::ffff:192.0.2.1` (RFC 4291,
    2.5.5.2); the result is the IPv4 address, or each list would need both.
    """
    try:
        address = ip_address(host or "")
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def parse_network(value: str) -> Network:
    """Return the network that `value` spells, folded as addresses are; an address is one too."""
    spelled = ip_network(value)
    mapped = spelled.network_address.ipv4_mapped if isinstance(spelled, IPv6Network) else None
    if mapped is None or spelled.prefixlen < MAPPED_BITS:
        return spelled
    return IPv4Network((mapped, spelled.prefixlen - MAPPED_BITS))


def covers(networks: Iterable[Network], inner: Network) -> bool:
    """Return whether `networks` hold all of `inner`, together too."""
    # Those of one version only can be joined.
    alike: list[Any] = [it for it in networks if isinstance(it, type(inner))]
    return any(inner[0] in outer and inner[-1] in outer for outer in collapse_addresses(alike))


def network(value: str, everybody: str = _EVERY_CLIENT) -> str:
    """Refuse what is no address or network, a zone, and the address that nobody has."""
    meant = meant_network(value)
    if meant is not None and _is_unspecified(meant):
        msg = f"must not hold {value!r}: no client has that address{everybody}"
        raise ValueError(msg)
    if meant is not None and _ZONE.search(value):
        msg = f"must hold addresses without a zone, since each is compared in all, not {value!r}"
        raise ValueError(msg + _network_hint(value, meant))
    try:
        ip_network(value)
    except ValueError:
        msg = f"must hold addresses and networks such as 10.0.0.5 or 10.0.0.0/8, not {value!r}"
        hint = everybody if value == "*" else _network_hint(value, meant)
        raise ValueError(msg + hint) from None
    return value


def meant_network(value: str) -> Network | None:
    """Return what was meant by `10.0.0.1/8`, `[::1]:80` and `fe80::1%eth0`; None if unclear."""
    bare = _ZONE.sub("", value)
    with_port = _WITH_PORT.fullmatch(bare)
    with suppress(ValueError):
        return _around((with_port[1] if with_port else bare).strip("[]"))
    return None


def _around(value: str) -> Network:
    """Return the network of which `value` may be any address, folded as `parse_network` does."""
    found = ip_network(value, strict=False)
    address, bits = parse_address(value.partition("/")[0]), found.prefixlen
    if isinstance(found, IPv6Network) and isinstance(address, IPv4Address):
        # In `::ffff:10.0.0.0/8` the length is that of IPv4.
        bits -= MAPPED_BITS if bits >= MAPPED_BITS else 0
        return IPv4Network((address, bits), strict=False)
    return found


def holds_everybody(value: str) -> bool:
    """Return whether every client was meant, however it is spelled."""
    meant = meant_network(value)
    return value == "*" or (meant is not None and (meant.prefixlen == 0 or _is_unspecified(meant)))


def _is_unspecified(meant: Network) -> bool:
    return meant.num_addresses == 1 and meant.network_address.is_unspecified


def _network_hint(value: str, meant: Network | None) -> str:
    if value.lower() == "localhost":
        return "; write 127.0.0.1,::1"
    if meant is None:
        return ""
    return f"; write {meant.network_address if meant.num_addresses == 1 else meant}"


Networks = tuple[Annotated[str, AfterValidator(network)], ...]
