"""API keys: each caller has a key, of which the service knows only the hash."""

import hmac
import re
from collections.abc import Iterable
from hashlib import sha256
from secrets import token_urlsafe
from typing import Annotated, Any, ClassVar, Final, NamedTuple

from fastapi.security import APIKeyHeader
from pydantic import AfterValidator, BeforeValidator, Field

from app.middleware.core.exchange import Exchange
from app.middleware.core.secret import OF_NOTHING
from app.middleware.core.setting_types import HeaderName, own_header
from app.middleware.user import BadCredentialError, Scheme, User

# A scope is what RFC 6749, 3.3, calls one.
_ENTRY: Final = re.compile(
    r"(?P<name>[A-Za-z0-9._-]{1,64}):(?P<digest>[0-9A-Fa-f]{64})"
    r"(?P<scopes>:[!#-\[\]-~]+( +[!#-\[\]-~]+)*)?"
)
_HOW_TO_MAKE_ONE: Final = "`python -m app.middleware api-key NAME` makes one"
_MAXIMUM_LENGTH: Final = 512


class ApiKey(NamedTuple):
    """The name of a caller, the SHA-256 of its key as hexadecimal digits, and its scopes."""

    name: str
    digest: str
    scopes: frozenset[str] = frozenset()


class ApiKeyVerifier(Scheme):
    """
    The caller whose key is in `header`.

    A key is random, so a fast hash is enough. It is compared with every known one, each in
    constant time, so the time doesn't reveal how close a guess was or whose key it is.
    """

    name: ClassVar = "api_key"
    called: ClassVar = "an API key"
    # RFC 9110 wants a challenge on every 401; no scheme is registered for keys.
    challenge: ClassVar = "ApiKey"
    security: ClassVar = APIKeyHeader(name="X-API-Key", scheme_name=name, auto_error=False)

    def __init__(self, *, header: str, api_keys: Iterable[ApiKey]) -> None:
        self.header = header.lower().encode("ascii")
        self.varies_on = header
        self.callers = [(key.digest.encode("ascii"), key) for key in api_keys]

    def is_used(self, exchange: Exchange) -> bool:
        return self.header in exchange.headers

    def user(self, exchange: Exchange) -> User:
        key = exchange.headers[self.header]
        if key is None:
            msg = "The request has more than one key. Send one."
            raise BadCredentialError(msg, code="invalid_request")
        if (caller := self._owner(key)) is None:
            msg = "The key is not known here."
            raise BadCredentialError(msg)
        return User(caller.name, caller.scopes)

    def _owner(self, key: bytes) -> ApiKey | None:
        if not 0 < len(key) <= _MAXIMUM_LENGTH:
            return None
        digest = sha256(key).hexdigest().encode("ascii")
        found = None
        for known, caller in self.callers:
            if hmac.compare_digest(known, digest):
                found = caller
        return found


def name_header(header: str) -> None:
    """Declare the header with the key for OpenAPI."""
    ApiKeyVerifier.security.model.name = header


def check_key_header(settings: Any) -> None:
    """
    Reject the header of another credential.

    Raises:
        ValueError: with a message that says what to set.

    """
    bearer = hasattr(settings, "jwt_algorithms")
    if bearer and settings.api_key_header.lower() == "authorization":
        msg = "API_KEY_HEADER must not be Authorization, which holds the bearer token"
        raise ValueError(msg)


def new_api_key(name: str) -> str:
    """Make a key for the caller NAME, or "NAME:SCOPE SCOPE", and its entry for API_KEYS."""
    key = token_urlsafe(32)
    name, colon, scopes = name.partition(":")
    entry = f"{name}:{sha256(key.encode('ascii')).hexdigest()}{colon}{scopes}"
    if not _ENTRY.fullmatch(entry) or "," in entry:
        msg = (
            "NAME must be 1 to 64 letters, digits, dots, hyphens or underscores, and scopes may"
            f" follow as in NAME:orders:read orders:write, not {name + colon + scopes!r}."
        )
        raise SystemExit(msg)
    return f"The key, shown only now: {key}\nIts entry for API_KEYS:\n{entry}"


def _header(value: str) -> str:
    return value if value.lower() == "authorization" else own_header("X-API-Key")(value)


def _api_key(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = _ENTRY.fullmatch(value)
    if match is None:
        msg = (
            "must be entries of the form name:sha256-hex or name:sha256-hex:scope scope;"
            f" {_HOW_TO_MAKE_ONE}"
        )
        raise ValueError(msg)
    if match["digest"].lower() in OF_NOTHING:
        msg = f"must not hold the hash of an empty key; {_HOW_TO_MAKE_ONE}"
        raise ValueError(msg)
    scopes = (match["scopes"] or "")[1:].split()
    return ApiKey(match["name"], match["digest"].lower(), frozenset(scopes))


def _distinct(keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
    if not keys:
        msg = f"must hold at least one key; {_HOW_TO_MAKE_ONE}"
        raise ValueError(msg)
    if len({key.digest for key in keys}) < len(keys):
        msg = "must not hold one key twice: it would have two names"
        raise ValueError(msg)
    return keys


KeyHeader = Annotated[HeaderName, AfterValidator(_header)]
ApiKeys = Annotated[
    tuple[Annotated[ApiKey, BeforeValidator(_api_key)], ...],
    AfterValidator(_distinct),
    Field(description=_HOW_TO_MAKE_ONE, repr=False),
]
