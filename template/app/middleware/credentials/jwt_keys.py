"""JWT keys: which algorithms a key is made for, and the one that is configured."""

from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_MINIMUM_RSA_BITS: Final = 2048


class Key(NamedTuple):
    """A key and the algorithms that it may verify: those that fit it and that are allowed."""

    key: str | PublicKey
    algorithms: list[str]
    kid: str | None = None


class Keys(Protocol):
    """Where a verifier finds its keys; `version` changes when they do."""

    version: int

    def fitting(self, header: Mapping[str, Any]) -> Sequence[Key]:
        """Return the keys that may have signed a token with this header, a few at most."""
        ...

    async def renew(self) -> bool:
        """Look the keys up again; return whether they have changed."""
        ...

    def check_known(self) -> None:
        """Raise `CannotCheckError` where the keys are not known at the moment."""

    def keep_fresh(self) -> Awaitable[object] | None:
        """Look after the keys; return what a request has to wait for, if they are too old."""


class FixedKey:
    """The one key that is configured: a public key in PEM, or a shared secret."""

    def __init__(self, key: str, algorithms: Collection[str]) -> None:
        self.version = 0
        loaded = load_public_key(key) if is_pem(key) else key
        self._key = Key(loaded, common(algorithms, algorithms_for(loaded)))

    def fitting(self, header: Mapping[str, Any]) -> Sequence[Key]:
        return [self._key] if header.get("alg") in self._key.algorithms else []

    async def renew(self) -> bool:
        return False

    def check_known(self) -> None:
        pass

    def keep_fresh(self) -> None:
        pass


def is_pem(key: str) -> bool:
    """Return whether `key` is one in PEM, rather than a shared secret."""
    return key.lstrip().startswith("-----BEGIN")


def load_public_key(pem: str) -> PublicKey:
    """
    Return a public key that is strong enough.

    Raises:
        ValueError: it is no public key, or a weak one.

    """
    key = load_pem_public_key(pem.encode())
    if not isinstance(key, PublicKey) or not algorithms_for(key):
        msg = "no strong public key"
        raise ValueError(msg)
    return key


def algorithms_for(key: str | PublicKey) -> frozenset[str]:
    """Return the algorithms (RFC 7518, 3.1) that `key` is made for and strong enough for."""
    match key:
        case RSAPublicKey():
            return _RSA if key.key_size >= _MINIMUM_RSA_BITS else frozenset()
        case EllipticCurvePublicKey():
            return frozenset({_CURVES[key.curve.name]} if key.curve.name in _CURVES else ())
        case Ed25519PublicKey():
            return frozenset({"EdDSA"})
        case str():
            bits = len(key.encode()) * 8
            return frozenset(f"HS{size}" for size in (256, 384, 512) if bits >= size)


def common(allowed: Collection[str], fitting: Collection[str]) -> list[str]:
    """Return those of `allowed` that are `fitting` too, in their order."""
    return [algorithm for algorithm in allowed if algorithm in fitting]
