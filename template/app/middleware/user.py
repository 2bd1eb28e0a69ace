"""The user of a request, and the errors of checking credentials."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from starlette.types import Scope


@dataclass(frozen=True, slots=True)
class User:
    """The caller: `request.state.user`, or None for an anonymous request."""

    id: str
    scopes: frozenset[str] = frozenset()
    claims: Mapping[str, object] = field(default_factory=dict, repr=False)


def read_scopes(value: object) -> frozenset[str]:
    """Read a text with spaces between the scopes, or a list; any other value has none."""
    names = value.split() if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return frozenset()
    return frozenset(names)


class BadCredentialError(Exception):
    """
    The credential is wrong; the message is for the client: ASCII, without quotes.

    `code` names the error in the challenge (RFC 6750, 3.1), if any.
    """

    def __init__(self, message: str, *, code: str | None = "invalid_token") -> None:
        super().__init__(message)
        self.code = code


class CannotCheckError(Exception):
    """The credential can't be checked now; the message is for the client."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


# None without a credential; awaitable if the check has to wait.
Authenticate = Callable[[Scope], User | Awaitable[User | None] | None]
