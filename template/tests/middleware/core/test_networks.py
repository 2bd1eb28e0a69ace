"""Networks: addresses are folded, and settings that spell none are refused."""

import pytest

from app.middleware.core.networks import (
    MAPPED_BITS,
    covers,
    holds_everybody,
    meant_network,
    network,
    parse_address,
    parse_network,
)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:C000:0201", "192.0.2.1"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_an_address_has_one_form(host: str, address: str) -> None:
    assert str(parse_address(host)) == address


@pytest.mark.parametrize("host", [None, "", "testclient", "192.0.2.1:80", "192.0.2", "/run/x.sock"])
def test_what_is_no_address_is_none(host: str | None) -> None:
    assert parse_address(host) is None


@pytest.mark.parametrize(
    ("value", "folded"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.5", "10.0.0.5/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::/0", "::/0"),
    ],
)
def test_a_network_has_one_form(value: str, folded: str) -> None:
    assert str(parse_network(value)) == folded


@pytest.mark.parametrize("address", ["10.0.0.5", "::ffff:10.0.0.5", "::ffff:0:0", "2001:db8::5"])
def test_what_is_meant_holds_what_was_written(address: str) -> None:
    """Its length is the one that was written, in bits of IPv4 or IPv6; else nothing is meant."""
    for bits in range(130):
        meant = meant_network(f"{address}/{bits}")
        if meant is not None:
            assert parse_address(address) in meant
            assert meant.prefixlen in {bits, bits - MAPPED_BITS}


@pytest.mark.parametrize("value", ["::ffff:0:0/90", "::ffff:10.0.0.5/33", "::1/129"])
def test_no_end_of_an_address_is_a_port(value: str) -> None:
    assert meant_network(value) is None


@pytest.mark.parametrize(
    ("networks", "inner", "outer"),
    [
        ("10.0.0.0/8", "10.1.0.0/16", "8.0.0.0/5"),
        ("10.0.0.0/9 10.128.0.0/9", "10.0.0.0/8", "::/0"),
        ("::/0 128.0.0.0/1 0.0.0.0/2 64.0.0.0/3", "128.0.0.0/1", "0.0.0.0/0"),
        ("0.0.0.0/1 128.0.0.0/1", "0.0.0.0/0", "::/0"),
    ],
)
def test_networks_hold_what_they_hold_together(networks: str, inner: str, outer: str) -> None:
    found = [parse_network(each) for each in networks.split()]

    assert covers(found, parse_network(inner))
    assert not covers(found, parse_network(outer))


@pytest.mark.parametrize("value", ["*", "10.0.0.1/8", "10.0.0.256", "example.com", "10.0.0.5:80"])
def test_nonsense_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="must hold addresses and networks such as"):
        network(value)


@pytest.mark.parametrize("value", ["fe80::1%eth7", "fe80::1%eth7/128", "[fe80::1%25eth7]:80"])
def test_a_zone_is_refused(value: str) -> None:
    """The address would be that of another host in another zone too."""
    with pytest.raises(ValueError, match=r"must hold addresses without a zone.*; write fe80::1$"):
        network(value)


@pytest.mark.parametrize(
    "value", ["*", "0.0.0.0/0", "0.0.0.0:80", "[::]", "::/0", "::", "10.0.0.5/0", "::%eth0"]
)
def test_everybody_has_many_names(value: str) -> None:
    assert holds_everybody(value)
    assert not holds_everybody("0.0.0.0/8")
