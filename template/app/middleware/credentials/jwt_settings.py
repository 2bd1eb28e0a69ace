"""JWT settings: their types, and how they fit together."""

import re
from collections.abc import Collection
from contextlib import suppress
from ipaddress import ip_network
from socket import inet_aton, inet_ntoa
from string import punctuation
from typing import Annotated, Final, Literal, get_args
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from cryptography.exceptions import UnsupportedAlgorithm
from pydantic import AfterValidator, SecretStr, ValidationInfo

from app.middleware.core.networks import covers, parse_network
from app.middleware.core.reading import PLACEHOLDER, Plain, in_any_case, plain, without_user
from app.middleware.core.secret import HOW_TO_MAKE_ONE, check_secret, kind_of_key
from app.middleware.core.setting_types import meant_host

from .jwt_keys import algorithms_for, is_pem, load_public_key

_RULE: Final = (
    "must be a public key in PEM (RSA of 2048 bits or more, EC or Ed25519) or a shared secret"
)
# What to write instead of something that is made of a key, but isn't the public key in PEM: as a
# shared secret it would be known to everybody (RFC 8725, 2.1).
_PUBLIC_KEY: Final = {
    "CERTIFICATE": "not a certificate; `openssl x509 -pubkey -noout` prints the key in it",
    "ENCODED": "not in base64; decode it",
    "JWK": "not a JWK; set JWT_JWKS_URL to the address where it is published",
    "PRIVATE": "not the private one, which only the issuer may have; `openssl pkey -pubout` prints"
    " the public one",
    "PUBLIC": "which is -----BEGIN PUBLIC KEY-----\\n, the base64 of the key, and"
    " \\n-----END PUBLIC KEY-----, with nothing before",
    "SSH": "not in the format of SSH; `ssh-keygen -e -m PKCS8` prints the key in PEM",
}
_UNFILLED: Final = re.compile(rf"\*|{PLACEHOLDER.pattern}")
_INSIDE: Final = (".svc", ".svc.cluster.local", ".internal", ".localhost")
_PRIVATE: Final = tuple(
    map(
        ip_network,
        ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1", "fc00::/7"),
    )
)


def _url(value: str) -> str:
    """Refuse what is no address of a key set."""
    if not value:
        return value
    try:
        parts = urlsplit(value)
        host = parts.hostname or ""
        wrong = not host or parts.scheme not in {"http", "https"} or parts.port == 0
    except ValueError:
        wrong, host, parts = True, "", urlsplit("")
    if wrong or re.search(r"\s|,\w+:", value):
        hint = "write one such as https://id.example/keys"
    elif "openid-configuration" in parts.path or "oauth-authorization-server" in parts.path:
        hint = "that document names the keys; write its jwks_uri"
    elif parts.username is not None:
        hint = "no user or password is sent to it"
    elif host.endswith("."):
        hint = "leave the last dot of the host out"
    elif "" in host.split("."):
        hint = "its host has two dots in a row"
    elif found := _UNFILLED.search(unquote(value)):
        hint = f"use its real name instead of {found[0]}"
    elif (sent := _as_sent(value)) != value:
        host_rule = "a lookup takes its host in ASCII, with 63 characters at most between two dots"
        hint = f"write {sent}" if sent else host_rule
    else:
        return value
    msg = f"must be the https address of a key set, not {without_user(value)!r}: {hint}"
    raise ValueError(msg)


def _as_sent(value: str) -> str | None:
    """Return an address as a request has it, None where its host is none."""
    parts = urlsplit(value.replace("\\", "/"))
    port = "".join(re.findall(r":[0-9]*$", parts.netloc))
    name = parts.netloc.removesuffix(port)
    host = name if name.startswith("[") else meant_host(name)
    if host is None:
        return None
    # It may have capitals.
    host = name if name.lower() == host else host
    return quote(urlunsplit(parts._replace(netloc=host + port)), safe=punctuation)


def _is_inside(host: str) -> bool:
    """Return whether `host` can't be public, so that no stranger can respond in its place."""
    # As a lookup reads 134744072, 0x08080808 and 8.526344.
    with suppress(OSError):
        host = inet_ntoa(inet_aton(host))
    try:
        address = parse_network(host)
    except ValueError:
        labels = host.lower().split(".")
        return len(labels) == 1 or host.lower().endswith(_INSIDE)
    return covers(_PRIVATE, address)


def _named(value: str) -> str:
    """Refuse a pattern, a placeholder, and the address of a document instead of the name in it."""
    if not value.strip():
        msg = "must not hold an empty item"
        raise ValueError(msg)
    if found := _UNFILLED.search(value):
        kind = "pattern" if found[0] == "*" else f"placeholder {found[0]} in"
        msg = f"must hold values as tokens have them, not the {kind} {value!r}"
        raise ValueError(msg)
    if (at := value.find("/.well-known/")) >= 0:
        msg = f"must hold values as tokens have them; write {value[:at]}, not {value!r}"
        raise ValueError(msg)
    return value


def _key(value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
    """Refuse what is no public key, what others may know, no key and two sources of keys."""
    key = value.get_secret_value().strip() if value else ""
    plain(key, shown=False)
    kind = kind_of_key(key)
    if is_pem(key) and kind in {"", "PUBLIC"}:
        # One line of a `.env` file holds no line breaks.
        key = key.replace("\\n", "\n")
        try:
            load_public_key(key)
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError(_RULE) from None
    elif kind:
        msg = f"must be a public key in PEM, {_PUBLIC_KEY[kind]}"
        raise ValueError(msg)
    elif key.startswith(("http://", "https://")):
        msg = "must be a key, not the address of keys; set JWT_JWKS_URL to that"
        raise ValueError(msg)
    elif key:
        check_secret(key)
    if bool(key) == bool(info.data.get("jwt_jwks_url", not key)):
        msg = (
            "or JWT_JWKS_URL must be set, and not both: JWT_JWKS_URL is the address of a key set,"
            " such as https://id.example/keys; JWT_KEY is a public key in PEM, or a shared secret"
            f" with JWT_ALGORITHMS=HS256, of which {HOW_TO_MAKE_ONE}"
        )
        raise ValueError(msg)
    return SecretStr(key) if key else None


def check_jwt_key(
    *, key: SecretStr | None, jwks_url: str, insecure_http: bool, algorithms: Collection[str]
) -> None:
    """
    Refuse keys that others could exchange on their way, and algorithms that no key is made for.

    Raises:
        ValueError: with a message that says what to set.

    """
    if key is None:
        _check_way(jwks_url, insecure_http=insecure_http)
        if not algorithms:
            msg = "JWT_ALGORITHMS must hold at least one, such as RS256"
            raise ValueError(msg)
        if any(name.startswith("HS") for name in algorithms):
            msg = "JWT_ALGORITHMS must not hold HS256 with JWT_JWKS_URL, whose keys are public"
            raise ValueError(msg)
        return
    text = key.get_secret_value()
    fitting = algorithms_for(load_public_key(text) if is_pem(text) else text)
    if not fitting.intersection(algorithms):
        msg = f"JWT_ALGORITHMS must hold one that fits JWT_KEY: {' or '.join(sorted(fitting))}"
        raise ValueError(msg)


def _check_way(url: str, *, insecure_http: bool) -> None:
    host = urlsplit(url).hostname or ""
    if url.lower().startswith("https:") or insecure_http or _is_inside(host):
        return
    msg = (
        "JWT_JWKS_URL must be an https address, since on its way over http others could exchange"
        f" the keys, not {url!r}; http is for loopback and private addresses and for names that"
        " can't be public: without a dot, or below .svc, .svc.cluster.local, .internal or"
        " .localhost; JWT_JWKS_INSECURE_HTTP=true allows it for every name"
    )
    raise ValueError(msg)


_Algorithm = Literal[
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "HS256",
    "HS384",
    "HS512",
]
Algorithms = tuple[Annotated[_Algorithm, in_any_case(*get_args(_Algorithm))], ...]
JwksUrl = Annotated[str, AfterValidator(_url), Plain]
JwtKey = Annotated[SecretStr | None, AfterValidator(_key)]
Names = tuple[Annotated[str, AfterValidator(_named)], ...]
