"""The user of a request, the schemes of authentication, and the errors of checking credentials."""

import copyreg
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

from pydantic import PlainSerializer

from .core.exchange import Exchange


@dataclass(frozen=True, slots=True)
class User:
    """
    The caller: `request.state.user`, or None for an anonymous request.

    `scheme` names how the user authenticated, in a service with several schemes. `issuer` names
    whose `id` it is, in a service that accepts several issuers.
    """

    id: str
    scopes: frozenset[str] = frozenset()
    # An endpoint can return a user, though requests with one token share its claims.
    claims: Annotated[Mapping[str, object], PlainSerializer(dict)] = field(
        default_factory=dict, repr=False
    )
    scheme: str = ""
    issuer: str | None = None

    @property
    def account(self) -> str:
        """The key of what is kept for a user: an ID is unique for its scheme and issuer only."""
        # With its length, so that no two issuers and IDs make the same key.
        of = "" if self.issuer is None else f"{len(self.issuer)}:{self.issuer}:"
        return f"{self.scheme}:{of}{self.id}" if self.scheme else of + self.id


def _copied(claims: Any) -> Any:
    return dict, ({**claims},)


# So FastAPI can copy a user that is part of what an endpoint returns.
copyreg.pickle(MappingProxyType, _copied)


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


class Scheme(ABC):
    """
    A way to authenticate.

    What clients see belongs to the class, because routes are declared before there are settings:
    the `name` of the scheme, what its credential is `called`, the `challenge` of a 401 (RFC 9110,
    11.6.1) and the declaration for OpenAPI, `security`. A websocket client can offer the
    `subprotocol`, and gets it confirmed.

    `varies_on` is the header with the credential, for Vary: without it a cache gives users the
    response of an anonymous request (RFC 9111, 4.1), for Authorization too. The cookie of a session
    has its own Vary.
    """

    name: ClassVar[str]
    called: ClassVar[str]
    challenge: ClassVar[str]
    security: ClassVar[Any]
    subprotocol: ClassVar[str | None] = None
    varies_on: str | None = None

    @abstractmethod
    def is_used(self, exchange: Exchange) -> bool:
        """Return whether a request has a credential of this kind, right or wrong."""

    @abstractmethod
    def user(self, exchange: Exchange) -> User | Awaitable[User]:
        """
        Return the user of a request; awaitable if the check has to wait.

        Endpoints may change lists and dictionaries in it, so no two requests share one.

        Raises:
            BadCredentialError: the credential is wrong.
            CannotCheckError: the check isn't possible at the moment.

        """
