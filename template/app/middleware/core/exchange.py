"""Exchange: one request and its response, shared by layers that are neighbours."""

import sys
from asyncio import CancelledError, timeout
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from starlette._utils import get_route_path
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from app.middleware.problem import Refusal, refusal_response, respond

from .cancellation import KeepingShields
from .headers import LONGEST, NAME, NO_NAMES, Added, HeaderRule, Headers, rule_names
from .logger import layer_logger
from .routes import route_template
from .scope import can_respond, complete, headers_by_name
from .upload import announces_body, linger

if TYPE_CHECKING:
    from .layer import Chain, Layer

Around: TypeAlias = Callable[["Exchange", "Place"], Awaitable[None]]
# What a layer decides about a request: let it pass, respond, or run something around the rest.
Decision: TypeAlias = Refusal | Response | Around | None
Enter: TypeAlias = Callable[["Exchange"], "Decision | Awaitable[Decision]"]
Filter: TypeAlias = Callable[[Send], Send]
Addition: TypeAlias = tuple[HeaderRule, Headers]
Head: TypeAlias = Callable[["Exchange", Message], "Addition | Filter | None"]
# What a place does to the head of a response: it adds headers, or calls a hook.
Change: TypeAlias = tuple[HeaderRule, Headers, "Head | None"]
Watcher: TypeAlias = Callable[["Exchange"], None]
Client: TypeAlias = tuple[str, int]
# What remains to be done at a layer's place: by a watcher, for the client that it saw, or at exit.
Leaving: TypeAlias = tuple[Watcher, Client | None, None] | tuple[None, None, Callable[[], object]]
# The next that a request meets: what some layers do to the response, and either of `enter` and
# `around` of the innermost of them.
Step: TypeAlias = tuple["Changes | None", Enter, Around | None]
Changes: TypeAlias = tuple[list[Change], list[Watcher]]

# The method of a websocket handshake, which has none.
HANDSHAKE: Final = "WEBSOCKET"
PROBE_METHODS: Final = frozenset({"GET", "HEAD"})
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")

# The key of the scope for the app whose layers have seen the request.
_OUTER: Final = "app.middleware"
# The one for the app around it, where that has layers too.
_AROUND: Final = "app.middleware.around"
# The one for a request whose client has left without a response.
_ABANDONED: Final = "app.middleware.abandoned"
_logger: Final = layer_logger(__name__)
# Others have still to see how the request ended, and no client would get another response.
_FAILED: Final = "a layer failed at the end of a request"
_CLIENT_CLOSED_REQUEST: Final = 499
_SERVER_ERROR: Final = 500
_SWITCHING_PROTOCOLS: Final = 101
_FORBIDDEN: Final = 403
_POLICY_VIOLATION: Final = 1008
_INTERNAL_ERROR: Final = 1011
_HEADS: Final = frozenset(
    {"http.response.start", "websocket.accept", "websocket.http.response.start"}
)
_ENDS: Final = frozenset(
    {
        "http.response.body",
        "http.response.pathsend",
        "http.response.zerocopysend",
        "websocket.http.response.body",
    }
)
# With these a server sends a file itself, by its path or descriptor.
_FILE_EXTENSIONS: Final = frozenset({"http.response.pathsend", "http.response.zerocopysend"})
_DISCONNECTS: Final = frozenset({"http.disconnect", "websocket.disconnect"})
_ABNORMAL_CLOSURE: Final = 1006
_INNERMOST: Final = sys.maxsize
_NOWHERE: Final = sys.maxsize + 1
_WIRE: Final = -1


def change_by(hook: Head | None) -> Change:
    """Return the change of a head by `hook`."""
    return (_NO_RULE, [], hook)


_NO_RULE: Final = HeaderRule({})
_NO_CHANGE: Final = change_by(None)


class Exchange:
    """
    A request and its response, as neighbouring layers see them.

    The request: `scope`; `state`, a dictionary for other layers and endpoints; `method` in
    capitals (WEBSOCKET for a handshake); `client`, which a layer can correct; `path`, without
    `root_path`, and `full_path` with it; `headers` by name, with None for one that was sent more
    than once; `receive`, which the next inner layer gets, and which a layer can replace;
    `started_at`, by `perf_counter`, when it reached the outermost of these layers.

    A service's own layer changes the request in `scope`, as a plain ASGI class does: layers inside
    read it anew. Setting `client` sets `scope["client"]` too.

    The outcome, set before `ended`: `route`, the template of the path, or None. `status`, the
    one that was sent; 499 if the client disconnected, or the server cancelled the request, before
    the end; 500 if an exception left no response, and `aborted` if it ended one half-way. A
    websocket ends when it closes, with 101 if it was accepted, `aborted` if then with 1011, and
    with the status of the rejection otherwise. `body_bytes`, 0 for HEAD. `seconds`, without
    background tasks.
    """

    __slots__ = (
        "_arriving",
        "_chain",
        "_changes",
        "_client",
        "_gone",
        "_over",
        "_receive",
        "_send",
        "_sent",
        "_steps",
        "aborted",
        "app",
        "at_wait",
        "body_bytes",
        "cut",
        "filters",
        "full_path",
        "headers",
        "if_cancelled",
        "is_open",
        "is_outermost",
        "leaving",
        "method",
        "path",
        "reached",
        "receive",
        "route",
        "scope",
        "seconds",
        "started_at",
        "state",
        "status",
        "waits",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, chain: "Chain") -> None:
        self.started_at = perf_counter()
        complete(scope)
        self.scope = scope
        self.state: dict[str, Any] = scope.setdefault("state", {})
        method: str = scope.get("method", HANDSHAKE)
        # Some apps in a mount take `post` for POST.
        self.method = method if method in METHODS else method.upper()
        self._client: Client | None = scope["client"]
        # Kept, since an app inside can change the scope.
        self.full_path: str = scope["path"]
        self.path = path = get_route_path(scope) if scope["root_path"] else self.full_path
        self.headers = headers_by_name(scope["headers"])
        self.receive: Receive = self.received
        self.is_open = self.aborted = self.waits = False
        self.route: str | None = None
        # What responds when the request is cancelled and goes on, and the depth of its place.
        self.if_cancelled: tuple[Around, int] | None = None
        self.status = self.body_bytes = 0
        self.seconds = 0.0
        # The place that the response has reached, and the one from which messages are dropped.
        self.reached = self.cut = _INNERMOST
        # What took over the response, with the places from the inside out.
        self.filters: list[tuple[Place, Send]] = []
        self._receive = receive
        self._changes: list[Change] = []
        self.leaving: list[Leaving] = []
        # Where an app has several exchanges, all but the outermost raise what ended the request.
        self.app = app = scope.get("app")
        outer = scope.get(_OUTER, scope)
        self.is_outermost = outer is not app
        scope[_OUTER] = app
        if outer is not scope:
            if self.is_outermost:
                scope[_AROUND] = outer
                self._part()
            if _AROUND in scope:
                chain = chain.inside(scope[_AROUND])
        if chain.reads_bodies and "extensions" in scope:
            self.read_files()
        # Whether more of the body is to come; None before anything was received.
        self._arriving: bool | None = None
        self._gone = False
        # Whether no watcher is left for the end of the request.
        self._over = not chain.is_watched
        self._sent = 0
        self._chain = chain
        probed = path in chain.exempt and self.method in PROBE_METHODS
        self._steps = iter(chain.exempt[path] if probed else chain.steps)
        self._send = send
        self.at_wait: list[Callable[[], object]] = []

    def _part(self) -> None:
        """Begin a state for the layers of a mounted app, which may find another user, or none."""
        outer, inner = self.state, {**self.state}
        self.state = self.scope["state"] = inner

        def hand_out(*_: object) -> None:
            for key, value in inner.items():
                if outer.get(key) is None:
                    outer[key] = value

        self.at_head(hand_out)
        self.at_exit(hand_out)

    # What a layer calls when a request enters.

    @property
    def client(self) -> Client | None:
        """The address and the port of the client; None where the server knows none."""
        return self._client

    @client.setter
    def client(self, client: Client | None) -> None:
        self._client = self.scope["client"] = client

    def header(self, name: bytes) -> str | None:
        """
        Return the value of a header that was sent exactly once, else None.

        Two readers of a doubled header could each use a different value, so a header that decides
        something must be sent once.
        """
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def lines(self, name: bytes) -> list[bytes]:
        """
        Return the values of a header, one for each time that it was sent.

        None are returned if they are longer than 16 KiB, since layers parse them.
        """
        if name not in self.headers:
            return []
        alone = self.headers[name]
        if alone is not None:
            return [alone] if len(alone) <= LONGEST else []
        values = [value for key, value in self.scope["headers"] if key == name]
        return values if sum(map(len, values)) + len(values) <= LONGEST else []

    def add(self, rule: HeaderRule, headers: Headers) -> None:
        """Add `headers` to the response, whatever it will be; see `Layer.head` for late ones."""
        self._changes.append((rule, headers, None))

    def at_head(self, hook: Head) -> None:
        """Call `hook` for this request as if it were the layer's `head`."""
        self._changes.append(change_by(hook))

    def at_exit(self, function: Callable[[], object]) -> None:
        """Call `function` when all that is inside has returned, unless it raised."""
        self.leaving.append((None, None, function))

    def when_waiting(self, function: Callable[[], object]) -> None:
        """Call `function` once, when the request waits for something; many never do."""
        if self.waits:  # for the task that this is
            function()
        else:
            self.at_wait.append(function)

    def drop_headers(self, names: frozenset[bytes]) -> None:
        """Hide headers of the request from what is inside."""
        self.scope["headers"] = [item for item in self.scope["headers"] if item[0] not in names]
        self.headers = headers_by_name(self.scope["headers"])

    def read_files(self) -> None:
        """Have the bytes of a file pass the layers, whatever the server could send itself."""
        extensions = self.scope.get("extensions") or {}
        if not _FILE_EXTENSIONS.isdisjoint(extensions):
            others = {name: extensions[name] for name in extensions if name not in _FILE_EXTENSIONS}
            self.scope["extensions"] = others

    # What the driver calls. The way in.

    def run(self) -> Awaitable[None]:
        """Let the layers inside see the request; return what is awaited for the response."""
        changed = self._changes
        for changes, enter, around in self._steps:
            if changes is not None:
                heads, watchers = changes
                changed += heads
                for watcher in watchers:
                    self.leaving.append((watcher, self._client, None))
            if around is not None:
                return around(self, self._here())
            decision = enter(self)
            if decision is not None:
                return self._obey(decision, enter)
        return self._chain.app(self.scope, self.receive, self.send)

    def _here(self) -> "Place":
        place = Place(self, len(self._changes))
        # So that it is the place of no other layer.
        self._changes.append(_NO_CHANGE)
        return place

    def _obey(self, decision: Decision | Awaitable[Decision], enter: Enter) -> Awaitable[None]:
        place = self._here()
        if decision is None:
            return place.proceed()
        if isinstance(decision, Refusal):
            layer: Layer = getattr(enter, "__self__")  # noqa: B009 - a bound method
            return place.refuse(layer.name, decision)
        if isinstance(decision, Response):
            return place.respond(decision)
        if callable(decision):  # which costs less to see than whether it can be awaited
            return decision(self, place)  # ty: ignore[invalid-explicit-return]
        return self._obey_later(decision, enter)

    async def _obey_later(self, decision: Awaitable[Decision], enter: Enter) -> None:
        await self._obey(await decision, enter)

    async def drive(self, rest: Awaitable[None]) -> None:
        """Await `rest` in a task of its own, as the driver does in that of the request."""
        await KeepingShields(rest.__await__(), None, self)

    async def follow(self, rest: Awaitable[None], depth: int) -> None:
        """Await `rest`, and do what is left to do inside of `depth`."""
        try:
            await rest
        except BaseException as exc:
            self.leave(depth, exc)
            raise
        self.leave(depth)

    async def received(self) -> Message:
        """Receive from outside these layers."""
        message = await self._receive()
        self._arriving = message.get("more_body", False)
        if message["type"] in _DISCONNECTS:
            self._gone = True
            self.is_open = False
        return message

    async def skip(self) -> None:
        """Receive and discard; a disconnect now isn't a 499, since the response is out."""
        self._arriving = (await self._receive()).get("more_body", False)

    async def give_up(self) -> None:
        """Respond to a request that was cancelled, while its code goes on."""
        if self.if_cancelled is not None:
            respond, depth = self.if_cancelled
            await respond(self, Place(self, depth))

    async def has_left(self) -> bool:
        """Return whether the client has left, as far as the server says so without a wait."""
        with suppress(TimeoutError):
            async with timeout(0):
                while self._arriving is not False:
                    await self.received()
                await self.received()  # after the body there is nothing else
        return self._gone

    def is_arriving(self) -> bool:
        """Return whether more of the body is to come."""
        return not self.is_held_back() if self._arriving is None else self._arriving

    def is_held_back(self) -> bool:
        """Return whether the client sends its body when it is asked to, which reading does."""
        return self._arriving is None and b"expect" in self.headers

    # The way out.

    def send(self, message: Message) -> Awaitable[None]:
        """Take a message of the app on its way out."""
        if self.cut != _INNERMOST:
            return _drop()
        if message["type"] in _HEADS:
            return self.send_head(message, len(self._changes))
        if self.filters:
            return self.filters[0][1](message)
        if message.get("more_body", False):  # as `deliver` does, without a call for each chunk
            self.body_bytes += len(message.get("body", b""))
            return self._send(message)
        return self.deliver(message)

    def send_head(self, message: Message, depth: int) -> Awaitable[None]:
        """Send the head of a response from `depth`."""
        if self.is_open:
            # So Starlette answers an HTTPException, which is too late here.
            msg = "a websocket that was accepted can only be closed"
            raise RuntimeError(msg)
        while self.filters and self.filters[-1][0].depth < depth:
            # Of an earlier response, that it held back; this one gets its own.
            self.filters.pop()[0].depth = _NOWHERE
        headers: Headers = [*message.get("headers", ())]
        message = {**message, "headers": headers}
        # Without a clash, which is nearly always, headers are added without a look.
        added: Added = NO_NAMES if rule_names.isdisjoint(map(NAME, headers)) else None
        for change in reversed(self._changes[:depth]):
            rule, ours, hook = change
            if hook is not None:
                length = len(headers)
                outcome = hook(self, message)
                if message["headers"] is not headers or len(headers) != length:
                    headers = message["headers"]
                    added = None  # it changed them by hand
                if outcome is None:
                    continue
                if not isinstance(outcome, tuple):
                    self.reached = place = self._changes.index(change)
                    here = Place(self, place)
                    taken = outcome(here.send)
                    self.filters.append((here, taken))
                    return taken(message)
                rule, ours = outcome
            if added is None or rule.shared:
                added = rule.merge(headers, ours, added)
            else:
                headers += ours
        self.reached = _WIRE
        if self.scope["type"] == "websocket":
            return self._answer_handshake(message)
        # Nobody gets it, whatever it says.
        self._sent = _CLIENT_CLOSED_REQUEST if self._gone else message["status"]
        return self._send(message)

    async def _answer_handshake(self, message: Message) -> None:
        if message["type"] != "websocket.accept" and not can_respond(self.scope):
            # The app responds to an HTTPException. The client sees 403, whatever its status.
            self.cut = _WIRE
            message = {"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": ""}
        try:
            await self._send(message)
        except (OSError, WebSocketDisconnect):
            self._gone = True
            # So Starlette says it of later messages.
            raise WebSocketDisconnect(_ABNORMAL_CLOSURE) from None
        self.is_open = message["type"] == "websocket.accept"
        self._sent = _SWITCHING_PROTOCOLS if self.is_open else message.get("status", _FORBIDDEN)
        if message["type"] == "websocket.close":
            self._end()

    def deliver(self, message: Message) -> Awaitable[None]:
        """Send a message that isn't a head to outside these layers."""
        if not message.get("more_body", False):
            if message["type"] == "websocket.close":
                self.reached = _WIRE
                self.is_open = False
            if not self._over or self.scope["type"] == "websocket":
                return self._send_last(message)
        self.body_bytes += len(message.get("body", b""))
        return self._send(message)

    async def _send_last(self, message: Message) -> None:
        # A client may leave as soon as it has all.
        gone = self._gone
        try:
            await self._send(message)
        except (OSError, WebSocketDisconnect):
            self._gone = True
            raise
        if message["type"] in _ENDS:
            self.body_bytes += len(message["body"]) if "body" in message else _file_size(message)
            self._end(gone=gone)
        elif message["type"] == "websocket.close":
            # As it closes after an exception, which a layer inside may have caught.
            self.aborted = self._sent != 0 and message.get("code") == _INTERNAL_ERROR
            self._sent = self._sent or _FORBIDDEN
            self._end()

    # The end.

    def finish(self, exc: BaseException | None = None) -> None:
        """Do what is left to do when the stack has returned, or raised."""
        self._leave(self.leaving, exc)
        if exc is not None:
            self.cut = _WIRE  # nothing follows that was held back
            self.scope["app"] = self.app  # a mounted app has put itself there
        # Hold nothing that holds this exchange: it would wait for the garbage collector.
        self.filters = []
        self.leaving = []
        self.at_wait.clear()
        del self.receive

    def leave(self, depth: int, exc: BaseException | None = None) -> None:
        """Do what is left to do inside of `depth`, from where all returned or `exc` comes."""
        inside = self.leaving[depth:]
        del self.leaving[depth:]
        self._leave(inside, exc)

    def _leave(self, inside: list[Leaving], exc: BaseException | None) -> None:
        for item in reversed(inside):
            watcher, _, function = item
            if watcher is None:
                if exc is None and function is not None:
                    try:
                        function()
                    except Exception:
                        _logger.exception(_FAILED)
            elif not self._over:
                self._tell(self._unfinished(exc), [item])

    def _unfinished(self, exc: BaseException | None) -> int:
        """Return the status where nobody ended the response, or the websocket."""
        # A client or a server that waits no longer is no failure of the service.
        is_websocket = self.scope["type"] == "websocket"
        abandoned = self._gone if exc is None else self.is_abandoned(exc)
        if abandoned or isinstance(exc, CancelledError):
            return (is_websocket and self._sent) or _CLIENT_CLOSED_REQUEST
        # A server closes a websocket that the app has left.
        self.aborted = self._sent != 0 and not (is_websocket and exc is None)
        return self._sent or _SERVER_ERROR

    def is_abandoned(self, exc: BaseException) -> bool:
        """Return whether `exc` is what the client of this request causes when it disconnects."""
        if isinstance(exc, BaseExceptionGroup):
            return all(map(self.is_abandoned, exc.exceptions))
        # The endpoint may be a client itself, and lose a connection of its own.
        if self.scope["type"] == "websocket":
            return self._gone and isinstance(exc, WebSocketDisconnect)
        lost = self._gone or isinstance(exc.__context__, OSError)
        if lost and isinstance(exc, ClientDisconnect):
            self.scope[_ABANDONED] = True
        # Classes between two exchanges may raise, since the inner one had nobody to respond to.
        return isinstance(exc, Exception) and _ABANDONED in self.scope

    def _end(self, *, gone: bool = False) -> None:
        """Call all watchers, the outermost first: the last byte was sent."""
        if not self._over:
            self._over = True
            self._tell(_CLIENT_CLOSED_REQUEST if gone else self._sent, self.leaving)

    def _tell(self, status: int, leaving: Iterable[Leaving]) -> None:
        """Call the watchers among `leaving`, the outermost first."""
        self.status = status
        if self.method == "HEAD" or self._sent == _CLIENT_CLOSED_REQUEST:
            self.body_bytes = 0  # whatever the service sends, the server keeps it (RFC 9110, 9.3.2)
        self.route = route_template(self.scope)
        self.seconds = perf_counter() - self.started_at
        for watcher, client, _ in leaving:
            if watcher is not None:
                self._client = client
                try:
                    watcher(self)
                except Exception:
                    _logger.exception(_FAILED)


class Place:
    """
    The place of a layer in an exchange.

    What is sent from it passes the layers outside, the layer's own `head`, and the headers that
    its `enter` added.
    """

    __slots__ = ("_exchange", "_proceeded", "depth")

    def __init__(self, exchange: Exchange, depth: int) -> None:
        self._exchange = exchange
        self.depth = depth
        self._proceeded = False

    @property
    def started(self) -> bool:
        """Whether a response has passed this place: a second one would break the protocol."""
        return self._exchange.reached < self.depth

    @property
    def is_open(self) -> bool:
        """Whether it is a websocket that was accepted, and can only be closed."""
        return self._exchange.is_open

    def proceed(self) -> Awaitable[None]:
        """
        Let the layers inside, and the app, see the request.

        Raises:
            RuntimeError: they saw it already, and would not reject it again.

        """
        if self._proceeded:
            msg = "place.proceed() can be called once: the layers inside see a request once"
            raise RuntimeError(msg)
        self._proceeded = True
        exchange = self._exchange
        depth = len(exchange.leaving)
        try:
            rest = exchange.run()
        except BaseException as exc:
            exchange.leave(depth, exc)
            raise
        if exchange.waits:  # for the task that this is
            rest = exchange.drive(rest)
        # Where nothing is left to do inside, a coroutine around it would have nothing to do.
        return rest if len(exchange.leaving) == depth else exchange.follow(rest, depth)

    def send(self, message: Message) -> Awaitable[None]:
        """Send a message of ASGI."""
        exchange = self._exchange
        if self.depth > exchange.cut:
            return _drop()
        if message["type"] in _HEADS:
            return exchange.send_head(message, self.depth)
        for place, taken in exchange.filters:
            if place.depth < self.depth:
                return taken(message)
        return exchange.deliver(message)

    async def respond(
        self, response: Response, *, close_code: int = 1008, closes: bool = False
    ) -> None:
        """
        Send `response` instead of everything inside, whose messages are dropped from now on.

        A websocket handshake is closed with `close_code` if the server can't send a response
        to it. `closes` ends the connection, for a client that is still sending its body.
        """
        exchange = self._exchange
        exchange.cut = min(exchange.cut, self.depth)
        send: Send = self.send
        # A body that was held back may follow or not (RFC 9110, 10.1.1). HTTP/2 and HTTP/3 forbid
        # this header (RFC 9113, 8.2.2; RFC 9114, 4.2).
        if (closes or exchange.is_held_back()) and exchange.scope["http_version"][0] == "1":
            response.headers["Connection"] = "close"
        if announces_body(exchange.scope, exchange.headers):
            send = linger(send, exchange.skip, exchange.is_arriving)
        await respond(response, exchange.scope, exchange.receive, send, close_code=close_code)

    async def refuse(self, layer: str, refusal: Refusal) -> None:
        """Send `refusal` in the name of `layer`."""
        response = refusal_response(self._exchange.scope, layer, refusal)
        await self.respond(response, close_code=refusal.close_code, closes=refusal.closes)


def is_inside_layers(scope: Scope) -> bool:
    """Return whether another app, with layers of its own, is around the app of `scope`."""
    outer = scope.get(_AROUND, scope.get(_OUTER))
    return outer is not None and outer is not scope.get("app")


def _file_size(message: Message) -> int:
    """Return the size of a file that the server sends by its path."""
    try:
        return Path(message["path"]).stat().st_size
    except (KeyError, OSError):  # no file, or it is gone
        return 0


async def _drop() -> None:
    """Send nothing: another layer responds."""
