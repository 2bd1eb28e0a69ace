"""JWT: the user that a bearer token names, signed with a key that the service trusts."""

import json
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import replace
from time import time
from types import MappingProxyType
from typing import Any, ClassVar, Final, NamedTuple

import jwt
from fastapi.security import HTTPBearer
from pydantic import SecretStr

from app.middleware.core.exchange import Exchange
from app.middleware.user import BadCredentialError, Scheme, User, read_scopes

from .jwks import PublishedKeys
from .jwt_keys import FixedKey, Key, Keys

_HEADER: Final = b"authorization"
_LEEWAY: Final = 30
# Longer tokens are refused unread: to parse one costs time that grows with its length.
_MAXIMUM_LENGTH: Final = 16_384
_MAXIMUM_REMEMBERED: Final = 1024
_LONGEST_REMEMBERED: Final = 4096
_FOREVER: Final = float("inf")


class _UnknownKeyError(Exception):
    """No key of the service has the name and the algorithm of the token."""


_REASONS: Final[Mapping[type[Exception], str]] = {
    jwt.ExpiredSignatureError: "The token has expired.",
    jwt.ImmatureSignatureError: "The token is not valid yet.",
    jwt.InvalidAudienceError: "The token is meant for another audience.",
    jwt.InvalidIssuerError: "The token comes from another issuer.",
    _UnknownKeyError: "The token is signed with an unknown key.",
}


class _Verified(NamedTuple):
    user: User
    # As JSON, where a list or an object is among them, which an endpoint can change.
    claims: str | None
    not_before: float
    expires: float


class JwtVerifier(Scheme):
    """
    The user of the bearer token of a request (RFC 6750).

    A token needs `sub` and `exp`, one of `issuers` and one of `audiences` (RFC 7519); clocks may
    differ by 30 seconds. A `sub` is unique for its issuer (4.1.2), so users of several have both.
    The algorithm must be one of `algorithms` and fit the key, so `none` and a public key used as a
    secret get nowhere (RFC 8725). A websocket, for which a browser can't set headers, may offer the
    subprotocols `bearer` and the token.

    To verify costs more than all else a request does here, so up to 1024 good tokens are
    remembered, until they expire or the keys change.
    """

    name: ClassVar = "jwt"
    called: ClassVar = "a bearer token"
    challenge: ClassVar = "Bearer"
    security: ClassVar = HTTPBearer(bearerFormat="JWT", scheme_name=name, auto_error=False)
    subprotocol: ClassVar = "bearer"
    varies_on = "Authorization"

    def __init__(
        self,
        *,
        key: SecretStr | None,
        jwks_url: str,
        algorithms: Collection[str],
        issuers: Sequence[str],
        audiences: Sequence[str],
    ) -> None:
        self.keys: Keys = (
            FixedKey(key.get_secret_value(), algorithms)
            if key is not None
            else PublishedKeys(jwks_url, algorithms)
        )
        self.algorithms = tuple(algorithms)
        self.issuers = list(issuers) or None
        self.names_issuer = len(issuers) != 1
        self.audiences = list(audiences) or None
        self._verified: dict[bytes, _Verified] = {}  # by the credential as it was sent
        self._version = self.keys.version

    def is_used(self, exchange: Exchange) -> bool:
        return _HEADER in exchange.headers or _is_offered(exchange)

    def user(self, exchange: Exchange) -> User | Awaitable[User]:
        credential = exchange.headers.get(_HEADER)
        if credential is None or "subprotocols" in exchange.scope:
            credential = _single(exchange)
        renewal = self.keys.keep_fresh()
        if renewal is not None:
            return self._verified_user(credential, renewal)
        if self._version != self.keys.version:
            self._version = self.keys.version
            self._verified.clear()
        known = self._verified.get(credential)
        if known is not None and known.not_before <= time() < known.expires:
            if known.claims is None:
                return known.user
            return replace(known.user, claims=MappingProxyType(json.loads(known.claims)))
        return self._verified_user(credential)

    async def _verified_user(
        self, credential: bytes, renewal: Awaitable[object] | None = None
    ) -> User:
        if renewal is not None:
            await renewal
        user = await self._verify(_token(credential))
        self._remember(credential, user)
        return user

    async def _verify(self, token: str) -> User:
        # Whatever a token makes the parser raise is the token's fault, never a 500.
        try:
            header = jwt.get_unverified_header(token)
        except Exception:  # noqa: BLE001
            raise _bad(None) from None
        if header.get("alg") not in self.algorithms:
            raise _bad(_UnknownKeyError())
        keys = self.keys.fitting(header)
        user = self._user_by(keys, token)
        if user is None and await self.keys.renew():
            keys = self.keys.fitting(header)
            user = self._user_by(keys, token)
        if user is None:
            if not keys:
                self.keys.check_known()
                raise _bad(_UnknownKeyError())
            raise _bad(None)
        return user

    def _user_by(self, keys: Collection[Key], token: str) -> User | None:
        """Return the user of a token that one of `keys` verifies, None where none does."""
        for key in keys:
            try:
                claims: dict[str, Any] = jwt.decode(
                    token,
                    key.key,
                    algorithms=key.algorithms,
                    issuer=self.issuers,
                    audience=self.audiences,
                    leeway=_LEEWAY,
                    options={"require": ["exp", "sub"]},
                )
                return _user(claims, names_issuer=self.names_issuer)
            except jwt.InvalidSignatureError:
                continue
            except Exception as error:  # noqa: BLE001
                raise _bad(error) from None
        return None

    def _remember(self, credential: bytes, user: User) -> None:
        if len(credential) > _LONGEST_REMEMBERED:
            return
        claims: Mapping[str, Any] = user.claims
        self._verified.pop(credential, None)
        if len(self._verified) >= _MAXIMUM_REMEMBERED:
            del self._verified[next(iter(self._verified))]
        changeable = any(isinstance(claim, (dict, list)) for claim in claims.values())
        self._verified[credential] = _Verified(
            user,
            claims=json.dumps({**claims}) if changeable else None,
            not_before=int(claims["nbf"]) - _LEEWAY if "nbf" in claims else -_FOREVER,
            expires=int(claims["exp"]) + _LEEWAY,
        )


def _is_offered(exchange: Exchange) -> bool:
    """Return whether the subprotocols of a handshake carry a token."""
    return "bearer" in exchange.scope.get("subprotocols", ())[:-1]


def _single(exchange: Exchange) -> bytes:
    """Return the only token of a request, as an Authorization header would have it."""
    sent = exchange.headers.get(_HEADER)
    offered = _is_offered(exchange)
    if offered and _HEADER not in exchange.headers:
        subprotocols: Sequence[str] = exchange.scope["subprotocols"]
        return b"bearer " + subprotocols[subprotocols.index("bearer") + 1].encode()
    if offered or sent is None:
        msg = "The request has more than one token. Send one."
        raise BadCredentialError(msg, code="invalid_request")
    return sent


def _token(credential: bytes) -> str:
    scheme, _, token = credential.decode("latin-1").partition(" ")
    if scheme.lower() != "bearer":
        msg = "The Authorization header must hold a bearer token."
        raise BadCredentialError(msg, code=None)
    if len(token) > _MAXIMUM_LENGTH:
        msg = "The token is too long."
        raise BadCredentialError(msg)
    return token.strip()


def _bad(error: Exception | None) -> BadCredentialError:
    known = (reason for cls, reason in _REASONS.items() if isinstance(error, cls))
    return BadCredentialError(next(known, "The token is not valid."))


def _user(claims: Mapping[str, Any], *, names_issuer: bool) -> User:
    if not claims["sub"]:
        msg = "sub"
        raise jwt.MissingRequiredClaimError(msg)
    # RFC 8693, 4.2, or what Microsoft and Okta call it.
    scopes = read_scopes(claims.get("scope", claims.get("scp")))
    issuer = claims.get("iss") if names_issuer else None
    # Where every issuer is accepted, it may be any JSON.
    named = None if issuer is None else str(issuer)
    return User(claims["sub"], scopes, MappingProxyType(claims), issuer=named)
