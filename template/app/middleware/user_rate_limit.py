"""User rate limit: limits how many requests one user can send in a period."""

from collections.abc import Awaitable, Collection, Iterator
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from .core.exchange import Decision, Exchange
from .core.layer import Layer
from .storage.base import Storage, attend_lifespan, same_titles
from .storage.limits import Limit, OnError


class UserRateLimitMiddleware(Layer):
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
        super().__init__(app, exempt_paths=probe_paths)
        self.storage = storage
        self.limit = Limit(
            name=f"user {route}".rstrip(),
            rate=rate,
            storage=storage,
            on_error=on_error,
        )

    def enter(self, exchange: Exchange) -> Decision | Awaitable[Decision]:
        user = exchange.state.get("user")
        return None if user is None else self.limit.spend(user.account, exchange)

    def faults(self, service: Any) -> Iterator[str]:
        return same_titles(self.storage, service)

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        await attend_lifespan(self.storage, self.app, scope, receive, send)
