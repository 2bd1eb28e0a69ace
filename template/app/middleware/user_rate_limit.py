"""User rate limit: limits how many requests one user can send in a period."""

from collections.abc import Awaitable, Collection

from starlette.types import ASGIApp

from .core.exchange import Decision, Exchange
from .storage.base import Storage, StoringLayer
from .storage.limits import Limit, OnError


class UserRateLimitMiddleware(StoringLayer):
    """
    Return 429 with `Retry-After` (RFC 6585, 4) to a user who sent more than `rate`.

    Websocket handshakes count too. Anonymous requests and `probe_paths` pass uncounted. A `route`
    with its own rate is counted separately. While the storage is unreachable, `on_error` decides
    whether requests pass uncounted or get 503.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        rate: str,
        storage: Storage,
        probe_paths: Collection[str],
        on_error: OnError = "allow",
        route: str = "",
    ) -> None:
        super().__init__(app, storage=storage, exempt_paths=probe_paths)
        self.limit = Limit(
            name=f"user {route}".rstrip(),
            rate=rate,
            storage=storage,
            on_error=on_error,
        )

    def enter(self, exchange: Exchange) -> Decision | Awaitable[Decision]:
        user = exchange.state.get("user")
        return None if user is None else self.limit.spend(user.account, exchange)
