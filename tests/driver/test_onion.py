"""
The driver against an onion of plain ASGI classes: same messages, same order, same end.

Runs in a rendered service (`tests/test_driver.py`). Each kind of layer is written twice: on the
driver's base, and by hand as a plain class that wraps `send`. For random stacks around random
apps, both must do the same.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.middleware.core.exchange import Addition, Decision, Exchange, Filter, Place
from app.middleware.core.headers import Clash, HeaderRule
from app.middleware.core.layer import HTTP, Layer
from app.middleware.problem import Refusal, refuse

NAMES = (b"x-one", b"x-two")
TAKEN = {"http.response.start", "websocket.accept"}
HEADS = {"http.response.start", "websocket.accept", "websocket.http.response.start"}
Item = tuple[bytes, bytes]


@dataclass
class Seen:
    """What the layers of one run took note of."""

    order: list[str] = field(default_factory=list)
    ends: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """A kind of layer: `number` distinguishes those of one stack."""

    name: str
    number: int
    header: bytes = b"x-one"
    clash: Clash = Clash.KEEP

    @property
    def item(self) -> Item:
        return (self.header, b"%d" % self.number)


# Each kind on the driver's base.


class Base(Layer):
    def __init__(self, app: ASGIApp, kind: Kind, seen: Seen) -> None:
        super().__init__(app)
        self.kind = kind
        self.seen = seen
        self.refusal = Refusal(status=403, detail=f"by {kind.number}")
        # Before the first request, so that clashes are known in advance.
        self.rule = HeaderRule({kind.header: kind.clash})

    async def note_both_ways(self, _: Exchange, place: Place) -> None:
        self.seen.order.append(f"enter {self.kind.number}")
        try:
            await place.proceed()
        finally:
            self.seen.order.append(f"leave {self.kind.number}")


class Passing(Base):
    def enter(self, exchange: Exchange) -> None:
        self.seen.order.append(f"enter {self.kind.number}")


class Gate(Base):
    def enter(self, exchange: Exchange) -> Refusal:
        return self.refusal


class HttpGate(Gate):
    scopes = HTTP


class LateGate(Base):
    async def enter(self, exchange: Exchange) -> Refusal:
        await asyncio.sleep(0)
        return self.refusal


class LatePassing(Base):
    async def enter(self, exchange: Exchange) -> None:
        self.seen.order.append(f"enter {self.kind.number}")
        await asyncio.sleep(0)


class Responder(Base):
    def enter(self, exchange: Exchange) -> Response:
        return PlainTextResponse(f"by {self.kind.number}")


class Around(Base):
    async def around(self, exchange: Exchange, place: Place) -> None:
        await self.note_both_ways(exchange, place)


class Wrapper(Base):
    def enter(self, exchange: Exchange) -> Decision:
        return self.note_both_ways


class LateWrapper(Base):
    async def enter(self, exchange: Exchange) -> Decision:
        await asyncio.sleep(0)
        return self.note_both_ways


class Decorator(Base):
    def enter(self, exchange: Exchange) -> None:
        exchange.add(self.rule, [self.kind.item])


class LateDecorator(Base):
    def head(self, exchange: Exchange, message: Message) -> Addition:
        return self.rule, [self.kind.item]


class Head(Base):
    def head(self, exchange: Exchange, message: Message) -> None:
        message["headers"].append(self.kind.item)
        if "status" in message:
            message["status"] += 1


class Holder(Base):
    """
    Holds the head back until the first part of the body, and marks each part.

    Marks what is sent over a websocket too.
    """

    def head(self, exchange: Exchange, message: Message) -> Filter | None:
        if message["type"] not in TAKEN:
            return None
        return lambda send: holding(send, self.kind)


class Catcher(Base):
    async def around(self, exchange: Exchange, place: Place) -> None:
        try:
            await place.proceed()
        except ValueError:
            if place.is_open:
                await place.send({**CLOSE, "code": 1011})
                return
            if place.started:
                raise
            await place.respond(PlainTextResponse(f"caught by {self.kind.number}", 500))


class Leaver(Base):
    def enter(self, exchange: Exchange) -> None:
        exchange.at_exit(lambda: self.seen.order.append(f"exit {self.kind.number}"))


class Watcher(Base):
    def ended(self, exchange: Exchange) -> None:
        self.seen.order.append(f"end {self.kind.number}")
        self.seen.ends.append((self.kind.number, exchange.status, exchange.body_bytes))


# The same by hand.


class Plain:
    def __init__(self, app: ASGIApp, kind: Kind, seen: Seen) -> None:
        self.app = app
        self.kind = kind
        self.seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await getattr(self, f"as_{self.kind.name}")(scope, receive, send)

    async def as_passing(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.order.append(f"enter {self.kind.number}")
        await self.app(scope, receive, send)

    as_foreign = as_late_passing = as_passing

    async def as_leaver(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
        self.seen.order.append(f"exit {self.kind.number}")

    async def as_gate(self, scope: Scope, receive: Receive, send: Send) -> None:
        layer = LAYERS[self.kind.name].__name__
        detail = f"by {self.kind.number}"
        await refuse(scope, receive, send, layer=layer, status=403, detail=detail)

    as_late_gate = as_gate

    async def as_responder(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and not scope.get("extensions"):
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
        else:
            await PlainTextResponse(f"by {self.kind.number}")(scope, receive, send)

    async def as_http_gate(self, scope: Scope, receive: Receive, send: Send) -> None:
        do = self.as_gate if scope["type"] == "http" else self.app
        await do(scope, receive, send)

    async def as_around(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.order.append(f"enter {self.kind.number}")
        try:
            await self.app(scope, receive, send)
        finally:
            self.seen.order.append(f"leave {self.kind.number}")

    as_wrapper = as_late_wrapper = as_around

    async def as_decorator(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def decorated(message: Message) -> None:
            if message["type"] in HEADS:
                headers = [*message.get("headers", ())]
                name, value = self.kind.item
                present = [theirs for key, theirs in headers if key == name]
                joined = {
                    Clash.REPLACE: [value],
                    Clash.PREPEND: [value, *present],
                    Clash.APPEND: [*present, value],
                }
                if not present or self.kind.clash is Clash.BOTH:
                    headers.append((name, value))
                elif self.kind.clash in joined:
                    place = [key for key, _ in headers].index(name)
                    behind = [item for item in headers[place:] if item[0] != name]
                    one = (name, b", ".join(joined[self.kind.clash]))
                    headers = [*headers[:place], one, *behind]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, decorated)

    as_late_decorator = as_decorator

    async def as_head(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def changed(message: Message) -> None:
            if message["type"] in HEADS:
                headers = [*message.get("headers", ()), self.kind.item]
                message = {**message, "headers": headers}
                if "status" in message:
                    message["status"] += 1
            await send(message)

        await self.app(scope, receive, changed)

    async def as_holder(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken: list[Send] = []

        async def held(message: Message) -> None:
            if message["type"] in TAKEN:
                taken.append(holding(send, self.kind))
            await (taken[0] if taken else send)(message)

        await self.app(scope, receive, held)

    async def as_catcher(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = is_open = False

        async def noted(message: Message) -> None:
            nonlocal started, is_open
            started = True
            is_open = message["type"] in {"websocket.accept", "websocket.send"}
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except ValueError:
            if is_open:
                await send({**CLOSE, "code": 1011})
                return
            if started:
                raise
            response = PlainTextResponse(f"caught by {self.kind.number}", 500)
            if scope["type"] == "websocket" and not scope.get("extensions"):
                await send({"type": "websocket.close", "code": 1008, "reason": ""})
            else:
                await response(scope, receive, send)

    async def as_watcher(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = size = 0
        over = False

        def end(status: int) -> None:
            nonlocal over
            if not over:
                over = True
                self.seen.order.append(f"end {self.kind.number}")
                self.seen.ends.append((self.kind.number, status, size))

        async def watched(message: Message) -> None:
            nonlocal status, size
            await send(message)
            if message["type"].endswith("response.start"):
                status = message["status"]
            elif message["type"] == "websocket.accept":
                status = 101
            elif message["type"] == "websocket.close":
                status = status or 403
                end(status)
            elif message["type"].endswith("response.body"):
                size += len(message["body"])
                if not message.get("more_body"):
                    end(status)

        try:
            await self.app(scope, receive, watched)
        except asyncio.CancelledError:
            end((scope["type"] == "websocket" and status) or 499)
            raise
        except BaseException:
            end(status or 500)
            raise
        end(status or 500)


def holding(send: Send, kind: Kind) -> Send:
    head: list[Message] = []

    async def held(message: Message) -> None:
        if message["type"] == "http.response.start":
            head.append(message)
            return
        if message["type"].startswith("websocket."):
            mark = {"websocket.send": "text", "websocket.close": "reason"}.get(message["type"])
            await send({**message, mark: f"{message.get(mark, '')}|"} if mark else message)
            return
        if head:
            start = head.pop()
            await send({**start, "headers": [*start["headers"], kind.item]})
        await send({**message, "body": message["body"] + b"|"})

    return held


LAYERS: dict[str, type[Base]] = {
    "passing": Passing,
    "gate": Gate,
    "http_gate": HttpGate,
    "late_gate": LateGate,
    "late_passing": LatePassing,
    "responder": Responder,
    "around": Around,
    "wrapper": Wrapper,
    "late_wrapper": LateWrapper,
    "decorator": Decorator,
    "late_decorator": LateDecorator,
    "head": Head,
    "holder": Holder,
    "catcher": Catcher,
    "watcher": Watcher,
    "leaver": Leaver,
}
# These end a request early, so there are few of them.
GATES = ("gate", "http_gate", "late_gate", "responder")
OFTEN = (
    "passing",
    "late_passing",
    "around",
    "wrapper",
    "late_wrapper",
    "decorator",
    "late_decorator",
    "head",
    "holder",
    "catcher",
    "watcher",
    "leaver",
    "foreign",
) * 3


@st.composite
def stacks(draw: st.DrawFn) -> list[Kind]:
    names = draw(st.lists(st.sampled_from((*OFTEN, *GATES)), max_size=9))
    return [
        Kind(name, number, draw(st.sampled_from(NAMES)), draw(st.sampled_from(list(Clash))))
        for number, name in enumerate(names)
    ]


# What the app does: messages in this order, and an end.
START = {"type": "http.response.start", "status": 200, "headers": [(b"x-one", b"app")]}
PART = {"type": "http.response.body", "body": b"part", "more_body": True}
LAST = {"type": "http.response.body", "body": b"last"}
ACCEPT = {"type": "websocket.accept", "headers": [(b"x-two", b"app")]}
TEXT = {"type": "websocket.send", "text": "hello"}
CLOSE = {"type": "websocket.close", "code": 1000}
DENY = {"type": "websocket.http.response.start", "status": 401, "headers": []}
DENIED = {"type": "websocket.http.response.body", "body": b"no"}
TALKS: dict[str, list[list[Message]]] = {
    "http": [[], [START], [START, LAST], [START, PART], [START, PART, PART, LAST]],
    "websocket": [[], [ACCEPT], [ACCEPT, TEXT, CLOSE], [CLOSE], [DENY, DENIED]],
}
ENDS = ("return", "raise", "hang")


@dataclass(frozen=True)
class Talk:
    kind: str
    messages: list[Message]
    end: str
    denial: bool


@st.composite
def talks(draw: st.DrawFn) -> Talk:
    kind = draw(st.sampled_from(("http", "http", "websocket")))
    messages = draw(st.sampled_from(TALKS[kind]))
    # An app must not respond to a handshake where the server lacks the extension.
    denial = draw(st.booleans()) or DENIED in messages
    return Talk(kind, messages, draw(st.sampled_from(ENDS)), denial)


Outcome = tuple[list[Message], str, Seen]


def run(talk: Talk, build: Callable[[ASGIApp, Seen], ASGIApp]) -> Outcome:
    """Drive a stack once; return what it sent, what it raised, and what its layers saw."""
    seen = Seen()
    sent: list[Message] = []
    hangs = asyncio.Event()

    async def endpoint(_: Scope, __: Receive, send: Send) -> None:
        for message in talk.messages:
            await send({**message})
        if talk.end == "raise":
            raise ValueError
        if talk.end == "hang":
            hangs.set()
            await asyncio.Event().wait()

    async def receive() -> Message:
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": talk.kind, "path": "/", "headers": [], "http_version": "1.1"}
    scope["method" if talk.kind == "http" else "subprotocols"] = (
        "GET" if talk.kind == "http" else []
    )
    if talk.denial:
        scope["extensions"] = {"websocket.http.response": {}}

    async def drive() -> str:
        done: Awaitable[None] = build(endpoint, seen)(scope, receive, send)
        task = asyncio.ensure_future(done)
        hanging = asyncio.ensure_future(hangs.wait())
        await asyncio.wait([task, hanging], timeout=1, return_when=asyncio.FIRST_COMPLETED)
        hanging.cancel()
        task.cancel()
        (raised,) = await asyncio.gather(task, return_exceptions=True)
        return type(raised).__name__

    return sent, asyncio.run(drive()), seen


@settings(max_examples=1500, deadline=None)
@given(stacks(), talks(), st.booleans())
def test_the_driver_does_what_an_onion_does(stack: list[Kind], talk: Talk, apart: bool) -> None:  # noqa: FBT001
    """Neighbours share an exchange, or each has its own, as inside of a service's own layers."""

    def driven(app: ASGIApp, seen: Seen) -> ASGIApp:
        for kind in reversed(stack):
            cls = LAYERS.get(kind.name)
            app = Plain(app, kind, seen) if cls is None else cls(app, kind, seen)
        return app

    def by_hand(app: ASGIApp, seen: Seen) -> ASGIApp:
        for kind in reversed(stack):
            app = Plain(app, kind, seen)
        return app

    expected = run(talk, by_hand)
    with patch("app.middleware.core.layer._may_change_scope", lambda _: apart):
        actual = run(talk, driven)

    assert [*map(_plain, actual[0])] == [*map(_plain, expected[0])]
    assert actual[1] == expected[1]
    assert actual[2].order == expected[2].order
    assert actual[2].ends == expected[2].ends


def _plain(message: Message) -> dict[str, Any]:
    return {**message, "headers": [tuple(item) for item in message.get("headers", ())]}
