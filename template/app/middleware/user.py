"""The user of a request, and what can go wrong on the way to one."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from starlette.types import Scope


@dataclass(frozen=True, slots=True)
class User:
    """Who is calling: `request.state.user`, which is None when nobody says."""

    id: str
    scopes: frozenset[str] = frozenset()
    claims: Mapping[str, object] = field(default_factory=dict, repr=False)


def read_scopes(value: object) -> frozenset[str]:
    """Read a text with spaces between the scopes, or a list of them; anything else is none."""
    names = value.split() if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return frozenset()
    return frozenset(names)


class BadCredentialError(Exception):
    """
    A credential was sent and is wrong; the message is for its sender: ASCII, no quotes.

    `code` names the error in the challenge (RFC 6750, 3.1); None where nothing is named.
    """

    def __init__(self, message: str, *, code: str | None = "invalid_token") -> None:
        super().__init__(message)
        self.code = code


class CannotCheckError(Exception):
    """Nobody knows whether the credential is good; the message is for its sender."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


# None is a request without a credential. Awaitable where it has to wait for somebody.
Authenticate = Callable[[Scope], User | Awaitable[User | None] | None]
