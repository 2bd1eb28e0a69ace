"""User rate limit: so many requests a period of one user, from wherever."""

from collections.abc import Awaitable, Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from .core.probes import is_probe
from .storage.base import Storage, attend_lifespan
from .storage.limits import Limit, OnError


class UserRateLimitMiddleware:
    """
    Answer 429 to a user who spent `rate`, with `Retry-After` (RFC 6585, 4).

    Websocket handshakes count as well. Anonymous requests pass uncounted, as do `probe_paths`.
    While the storage is lost, `on_error` says whether requests are admitted uncounted or
    answered 503.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        rate: str,
        storage: Storage,
        probe_paths: Collection[str],
        on_error: OnError = "allow",
    ) -> None:
        self.app = app
        self.storage = storage
        self.probe_paths = frozenset(probe_paths)
        self.limit = Limit(
            layer="user_rate_limit", name="user", rate=rate, storage=storage, on_error=on_error
        )

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "lifespan":
            return attend_lifespan(self.storage, self.app, scope, receive, send)
        user = scope.get("state", {}).get("user")
        if user is None or is_probe(scope, self.probe_paths):
            return self.app(scope, receive, send)
        return self.limit.spend(user.id, self.app, scope, receive, send)
