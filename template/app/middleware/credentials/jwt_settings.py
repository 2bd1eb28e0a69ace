"""JWT settings: their types, and how they fit together."""

from collections.abc import Collection
from ipaddress import ip_address
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import NoDecode

from app.middleware.core.secret import check_secret
from app.middleware.core.setting_types import split_commas

from .jwt_keys import algorithms_for, is_pem, load_public_key

_RULE: Final = (
    "must be a public key in PEM (RSA of 2048 bits or more, EC or Ed25519) or a shared secret"
)


def _url(value: str) -> str:
    """Refuse an address whose answer others could forge on its way."""
    parts = urlsplit(value)
    inside = parts.scheme == "http" and _is_inside(parts.hostname or "")
    if value and not (parts.hostname and (parts.scheme == "https" or inside)):
        msg = (
            "must be an https address (http only for a loopback address or a name without dots,"
            f" which are not reached over the internet), not {value!r}"
        )
        raise ValueError(msg)
    return value


def _is_inside(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return bool(host) and "." not in host


def _key(value: SecretStr | None) -> SecretStr | None:
    """Refuse what is no public key and what could be guessed."""
    key = value.get_secret_value().strip() if value else ""
    if is_pem(key):
        # One line of a `.env` file holds no line breaks.
        key = key.replace("\\n", "\n")
        try:
            load_public_key(key)
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError(_RULE) from None
    elif key:
        check_secret(key)
    return SecretStr(key) if key else None


def check_jwt_key(*, key: SecretStr | None, jwks_url: str, algorithms: Collection[str]) -> None:
    """
    Refuse no key, two sources of keys, and algorithms that the key is not made for.

    Raises:
        ValueError: a sentence with the way out.

    """
    if (key is None) == (not jwks_url):
        msg = "JWT_JWKS_URL or JWT_KEY must be set, and not both"
        raise ValueError(msg)
    if key is None:
        if any(name.startswith("HS") for name in algorithms):
            msg = "JWT_ALGORITHMS must not hold HS256 with JWT_JWKS_URL, whose keys are public"
            raise ValueError(msg)
        return
    text = key.get_secret_value()
    fitting = algorithms_for(load_public_key(text) if is_pem(text) else text)
    if not fitting.intersection(algorithms):
        msg = f"JWT_ALGORITHMS must hold one that fits JWT_KEY: {' or '.join(sorted(fitting))}"
        raise ValueError(msg)


Algorithm = Literal[
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
Algorithms = Annotated[tuple[Algorithm, ...], NoDecode, BeforeValidator(split_commas)]
JwksUrl = Annotated[str, AfterValidator(_url)]
JwtKey = Annotated[SecretStr | None, AfterValidator(_key)]
