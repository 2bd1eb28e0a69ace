"""Recorder: notes what passes between two layers, and changes nothing of it."""

from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field
from itertools import count
from time import perf_counter
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADS: Final = frozenset(
    {
        "http.response.start",
        "websocket.accept",
        "websocket.close",
        "websocket.http.response.start",
    }
)
# What layers note for each other, no part of the request.
_NOTES: Final = "app.middleware"
_moments: Final = count()


@dataclass
class Passage:
    """
    What passed one place: the request as it arrived there, and what came back.

    `head` is the message that starts a response, or that accepts or closes a websocket; `moment`
    orders the heads of a request. `seconds` is the time that everything inside of the place took.
    """

    scope: Scope
    request: Scope
    head: Message | None = None
    moment: int = 0
    closed: Message | None = None
    body: bytearray = field(default_factory=bytearray)
    chunks: int = 0
    received: int = 0
    error: BaseException | None = None
    seconds: float = 0.0

    def note(self, message: Message) -> None:
        """Note a message on its way out."""
        if message["type"] in _HEADS:
            if self.head is None:
                self.head = {**message, "headers": list(_headers(message))}
                self.moment = next(_moments)
            else:
                self.closed = message
        elif body := message.get("body"):
            self.body += body
            self.chunks += 1


Passages = MutableMapping[int, Passage]


class Recorder:
    """
    Record in `passages`, under `place`, what passes between two layers.

    The scope, the messages and the exceptions that pass are the same objects, in the same order.
    """

    def __init__(self, app: ASGIApp, *, place: int, passages: Passages) -> None:
        self.app = app
        self.place = place
        self.passages = passages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        passage = self.passages[self.place] = Passage(scope, _copied(scope))
        outside = 0.0

        async def note_received() -> Message:
            nonlocal outside
            began = perf_counter()
            message = await receive()
            outside += perf_counter() - began
            passage.received += len(message.get("body", b""))
            return message

        async def note_sent(message: Message) -> None:
            nonlocal outside
            passage.note(message)
            began = perf_counter()
            await send(message)
            outside += perf_counter() - began

        began = perf_counter()
        try:
            await self.app(scope, note_received, note_sent)
        except BaseException as error:
            passage.error = error
            raise
        finally:
            passage.seconds = perf_counter() - began - outside


def _headers(message: Message) -> Iterable[tuple[bytes, bytes]]:
    yield from message.get("headers") or ()
    if subprotocol := message.get("subprotocol"):
        # A server sends it as a header.
        yield b"sec-websocket-protocol", subprotocol.encode("latin-1")


def _copied(scope: Scope) -> Scope:
    """Return the request as it is now: what is inside changes the scope itself."""
    shown = (item for item in scope.items() if not item[0].startswith(_NOTES))
    return {key: _copy(value) for key, value in shown}


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return dict(value)
    return list(value) if isinstance(value, list) else value
