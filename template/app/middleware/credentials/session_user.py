"""Session user: the user whose id your login endpoint put into the session."""

from typing import Final

from fastapi.security import APIKeyCookie
from starlette.requests import HTTPConnection
from starlette.types import Scope

from app.middleware.user import BadCredentialError, User, read_scopes

# RFC 9110 wants a challenge on every 401; no scheme is registered for cookies.
CHALLENGE: Final = "Cookie"
SECURITY: Final = APIKeyCookie(name="session", scheme_name="session", auto_error=False)


def session_user(scope: Scope) -> User | None:
    """
    Return the user whose id stands under `session["user"]`, None where there is none.

    A login writes it, a logout clears the session. `session["scopes"]` is a list, or a text with
    spaces between the scopes. An id is a text or a whole number; anything
    else is refused, since a user that nobody can name must not pass for an anonymous one.
    """
    session = HTTPConnection(scope).session
    user = session.get("user")
    if user is None:
        return None
    if isinstance(user, bool) or not isinstance(user, str | int) or user == "":
        msg = "The session must hold the id of its user."
        raise BadCredentialError(msg)
    return User(str(user), read_scopes(session.get("scopes")))


def name_cookie(name: str) -> None:
    """Tell OpenAPI which cookie holds the session."""
    SECURITY.model.name = name
