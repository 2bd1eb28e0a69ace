"""Exchange: one request and its answer, watched until it ends."""

from abc import ABC, abstractmethod
from asyncio import CancelledError
from collections.abc import Awaitable, Sequence
from time import perf_counter
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .scope import route_template

_CLIENT_CLOSED_REQUEST: Final = 499
_SERVER_ERROR: Final = 500
_SWITCHING_PROTOCOLS: Final = 101
_FORBIDDEN: Final = 403


class Exchange:
    """
    A request and what became of it: told once, at its last byte, or when it ended without one.

    `method` (WEBSOCKET for one) and `client` are those that came in, whatever layers further in
    make of them. The rest is known at the end: `route` is the template of the path, None where none
    was taken. `status` is the one on the wire, 499 where the client went away, or the server gave
    the request up, before the end, 500 where an exception left no answer; a websocket ends when it
    closes, with 101 if it was accepted and the status of the refusal if not. `bytes` are those of
    the body on the wire, none for HEAD; `seconds` leave background tasks out.
    """

    __slots__ = (
        "_over",
        "_send",
        "_started_at",
        "_watchers",
        "bytes",
        "client",
        "method",
        "route",
        "scope",
        "seconds",
        "status",
    )

    def __init__(self, scope: Scope, send: Send, watchers: "Sequence[Watcher]") -> None:
        self.scope = scope
        self.method: str = scope.get("method", "WEBSOCKET")
        self.client: tuple[str, int] | None = scope.get("client")
        self.route: str | None = None
        self.status = 0
        self.bytes = 0
        self.seconds = 0.0
        self._send = send
        self._watchers = watchers
        self._over = False
        self._started_at = perf_counter()
        for watcher in watchers:
            watcher.began(self)

    async def run(self, app: ASGIApp, receive: Receive) -> None:
        """Let `app` answer."""
        try:
            await app(self.scope, receive, self._watch)
        except CancelledError:
            raise  # a client or a server that waits no longer: no failure of the service
        except BaseException:
            if not self._over:
                self._end(self.status or _SERVER_ERROR)
            raise
        finally:
            if not self._over:
                answered = self.scope["type"] == "websocket" and self.status
                self._end(answered or _CLIENT_CLOSED_REQUEST)

    def _watch(self, message: Message) -> Awaitable[None]:
        if message.get("more_body", False):
            self.bytes += len(message.get("body", b""))
            return self._send(message)
        return self._note(message)

    async def _note(self, message: Message) -> None:
        await self._send(message)
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self.status = message["status"]
            case "http.response.body" | "websocket.http.response.body":
                self.bytes += len(message.get("body", b""))
                if not self._over:
                    self._end(self.status)
            case "http.response.pathsend":
                self._end(self.status)
            case "websocket.accept":
                self.status = _SWITCHING_PROTOCOLS
            case "websocket.close" if not self.status:
                self.status = _FORBIDDEN
            case _:
                pass

    def _end(self, status: int) -> None:
        self._over = True
        self.status = status
        if self.method == "HEAD":
            self.bytes = 0  # whatever the service sends, the server keeps it (RFC 9110, 9.3.2)
        self.route = route_template(self.scope)
        self.seconds = perf_counter() - self._started_at
        for watcher in self._watchers:
            watcher.ended(self)


class Watcher(ABC):
    """
    A layer that is told what became of each request.

    Watchers that are neighbours share one exchange: as nothing stands between them, they would
    all see the same, and each message passes one hand instead of several.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._watchers: list[Watcher] = [self]
        while isinstance(app, Watcher):
            self._watchers.append(app)
            app = app.app
        self._watched = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "lifespan":
            return self.app(scope, receive, send)
        return Exchange(scope, send, self._watchers).run(self._watched, receive)

    @abstractmethod
    def began(self, exchange: Exchange) -> None:
        """Take note of a request that begins."""

    @abstractmethod
    def ended(self, exchange: Exchange) -> None:
        """Take note of what became of it."""
