"""Networks: the addresses that a setting names, and those that a server tells of a client."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

from .setting_types import split_commas

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAPPED_BITS: Final = 96


def parse_address(host: str | None) -> Address | None:
    """
    Return the address that `host` spells, None where it spells none.

    A server that listens on IPv6 may tell of an IPv4 client as `::ffff:192.0.2.1` (RFC 4291,
    2.5.5.2); that is folded to the IPv4 address, or each list would need both.
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


def network(value: str) -> str:
    """Refuse what is neither an address nor a network."""
    try:
        ip_network(value)
    except ValueError:
        msg = f"must hold addresses and networks such as 10.0.0.5 or 10.0.0.0/8, not {value!r}"
        raise ValueError(msg) from None
    return value


Networks = Annotated[
    tuple[Annotated[str, AfterValidator(network)], ...], NoDecode, BeforeValidator(split_commas)
]
