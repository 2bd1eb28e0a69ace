"""Session: stores small data for your endpoints in a signed cookie."""

import re
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, Field, SecretStr
from starlette.datastructures import Secret
from starlette.middleware.sessions import Session
from starlette.middleware.sessions import SessionMiddleware as StarletteSessions
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.middleware.order import LAYERS

from .core.check import mounted_in
from .core.exchange import Addition, Exchange
from .core.headers import NAME, Clash, HeaderRule, Headers
from .core.layer import Layer
from .core.logger import layer_logger
from .core.reading import Plain, in_any_case
from .core.secret import HOW_TO_MAKE_ONE, check_secret
from .core.threads import nothing, run_at_once

_logger: Final = layer_logger(__name__)
_OPEN_TO_ALL: Final = (
    "SESSION_SAME_SITE=none lets any site send requests as a user, and this service has no"
    " layer cross_origin. Add it, or have code of yours reject them"
)
_SHARED: Final = (
    "The app mounted at {0} has a SessionMiddleware of its own with the cookie {1!r}, and each"
    " session would overwrite the other. Remove it, or set SESSION_COOKIE to another name, such as"
    " app_{1}."
)
_SENDS: Final = "session.sends"
_RULE: Final = HeaderRule(
    {b"cache-control": Clash.KEEP, b"set-cookie": Clash.BOTH, b"vary": Clash.APPEND}
)
# How the names of cookies begin that browsers take with Secure only (RFC 6265bis, 4.1.3).
_OF_HTTPS: Final = ("__host-", "__http-", "__secure-")


class SessionMiddleware(Layer):
    """
    Provide `request.session`, and set its cookie when the session changed.

    Starlette's class reads and writes the cookie. This class runs it only for requests with the
    cookie, and for responses whose endpoint used the session. A response with the cookie has
    `Cache-Control: no-store`, unless the endpoint set its own. A websocket can read the session;
    its changes aren't stored.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        secret_key: Secret,
        session_cookie: str,
        max_age: int,
        same_site: Literal["lax", "strict", "none"],
        https_only: bool,
    ) -> None:
        super().__init__(app)
        self.cookie = session_cookie.encode("ascii")
        self.open_to_all = same_site == "none" and "cross_origin" not in LAYERS
        self.starlette = StarletteSessions(
            _hand_over,
            secret_key=secret_key,
            session_cookie=session_cookie,
            max_age=max_age,
            same_site=same_site,
            https_only=https_only,
        )

    def faults(self, service: Any) -> Iterator[str]:
        ours = self.starlette.session_cookie
        for place, mounted in mounted_in(service):
            for item in mounted.user_middleware:
                keeps_one = isinstance(item.cls, type) and issubclass(item.cls, StarletteSessions)
                if keeps_one and item.kwargs.get("session_cookie", "session") == ours:
                    yield _SHARED.format(place, ours)

    def enter(self, exchange: Exchange) -> None:
        sent = exchange.headers.get(b"cookie", b"")
        cookies = self._own(exchange) if sent is None or self.cookie in sent else []
        session = Session()
        if cookies:
            scope: Scope = {**exchange.scope, "headers": cookies}
            run_at_once(self.starlette(scope, exchange.receive, nothing))
            session = scope["session"]
        exchange.scope["session"] = session
        # An app that is mounted may put a session of its own in the place of this one.
        exchange.at_head(partial(self._set_cookie, session, cookies))

    def _own(self, exchange: Exchange) -> Headers:
        """
        Return the session's cookie alone, found by the bytes of its name.

        Starlette strips a no-break space before a name too. For browsers that is another name,
        which any host of the domain may set, although `__Host-` forbids it (RFC 6265bis, 4.1.3).
        """
        named = self.cookie + b"="
        pairs = b";".join(exchange.lines(b"cookie")).split(b";")
        return [(b"cookie", pair) for pair in pairs if pair.lstrip(b" \t").startswith(named)]

    def _set_cookie(
        self, session: Session, cookies: Headers, exchange: Exchange, message: Message
    ) -> Addition | None:
        if session.accessed and message["type"] == "http.response.start":
            # In a copy of the scope, since Starlette reads the session from the cookie again.
            sends: list[Send] = []
            scope = {**exchange.scope, "headers": cookies, _SENDS: sends}
            run_at_once(self.starlette(scope, exchange.receive, nothing))
            scope["session"] = session
            head: Message = {**message, "headers": []}
            run_at_once(sends.pop()(head))
            added: Headers = head["headers"]
            if b"set-cookie" in map(NAME, added):
                # A cache that stored it would give one session to several visitors.
                added.append((b"cache-control", b"no-store"))
            return _RULE, added
        return None

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.open_to_all:
            _logger.warning(_OPEN_TO_ALL)
        await super().lifespan(scope, receive, send)


async def _hand_over(scope: Scope, _: Receive, send: Send) -> None:
    """Act as the app that Starlette's class calls, and keep the `send` that it passes."""
    if _SENDS in scope:
        scope[_SENDS].append(send)


def _secret(value: SecretStr) -> SecretStr:
    """Reject a secret that can be guessed: anyone who has it can forge sessions."""
    secret = value.get_secret_value().strip()
    check_secret(secret)
    return SecretStr(secret)


def check_cookie(*, name: str, same_site: str, https_only: bool) -> None:
    """
    Reject a cookie that browsers drop: SameSite=None and some names require Secure.

    Raises:
        ValueError: with a message that says what to set.

    """
    if https_only:
        return
    prefixed = name.lower().startswith(_OF_HTTPS)
    if same_site == "none" or prefixed:
        cause = f"SESSION_COOKIE={name}" if prefixed else "SESSION_SAME_SITE=none"
        msg = f"SESSION_HTTPS_ONLY must be true with {cause}, or browsers drop the cookie"
        raise ValueError(msg)


def _cookie_name(value: str) -> str:
    """Reject an invalid name of a cookie (RFC 6265, 4.1.1)."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", value):
        msg = (
            "must be the name of a cookie: letters, digits, hyphens, dots and underscores,"
            f" not {value!r}"
        )
        raise ValueError(msg)
    return value


_SameSite = Literal["lax", "strict", "none"]
SameSite = Annotated[_SameSite, in_any_case(*get_args(_SameSite))]
CookieName = Annotated[str, AfterValidator(_cookie_name), Plain]
SessionSecret = Annotated[SecretStr, Field(description=HOW_TO_MAKE_ONE), AfterValidator(_secret)]
