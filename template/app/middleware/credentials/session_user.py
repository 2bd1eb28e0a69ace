"""Session user: the user whose id your login endpoint put into the session."""

from typing import ClassVar

from fastapi.security import APIKeyCookie
from starlette.requests import HTTPConnection

from app.middleware.core.exchange import Exchange
from app.middleware.user import BadCredentialError, Scheme, User, read_scopes


class SessionUser(Scheme):
    """
    The user whose ID is `session["user"]`.

    A login sets it, a logout clears the session. `session["scopes"]` is a list, or a text with
    spaces between the scopes. An ID is a text or a whole number; other values are rejected, since
    a user without an ID must not pass as anonymous.
    """

    name: ClassVar = "session"
    called: ClassVar = "a login"
    # RFC 9110 wants a challenge on every 401; no scheme is registered for cookies.
    challenge: ClassVar = "Cookie"
    security: ClassVar = APIKeyCookie(name="session", scheme_name=name, auto_error=False)

    def is_used(self, exchange: Exchange) -> bool:
        # The property notes that the session was read, for Vary; the dictionary doesn't.
        return HTTPConnection(exchange.scope).session.get("user") is not None

    def user(self, exchange: Exchange) -> User:
        session = exchange.scope["session"]
        user = session["user"]
        if isinstance(user, bool) or not isinstance(user, str | int) or user == "":
            msg = "The session must hold the id of its user."
            raise BadCredentialError(msg)
        return User(str(user), read_scopes(session.get("scopes")))


def name_cookie(name: str) -> None:
    """Declare the session cookie for OpenAPI."""
    SessionUser.security.model.name = name
