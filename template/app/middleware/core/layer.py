"""
Layer: the base class of every layer, and the driver that runs them.

Neighbouring layers share one `Exchange`, so a request and its response pass through the driver
once, instead of once per layer. The order, and what each layer sees, are those of nested plain
ASGI classes.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, final

from fastapi.security.base import SecurityBase
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.middleware.order import LAYERS, dotted_name, layer_of

from .cancellation import KeepingShields
from .exchange import (
    HANDSHAKE,
    PROBE_METHODS,
    Addition,
    Changes,
    Decision,
    Exchange,
    Filter,
    Place,
    Step,
    change_by,
)
from .routes import with_copies

if TYPE_CHECKING:
    from .policies import Policies, Rule

HTTP: Final = frozenset({"http"})
WEBSOCKET: Final = frozenset({"websocket"})
# The scopes of a layer whose settings leave it nothing to do.
NOTHING: Final = frozenset[str]()
_RETURNED: Final[Any] = object()
# The classes of the stack, of which each keeps the exchange as its scope is.
_STACK: Final = {place.cls for place in LAYERS.values()}


class Layer:
    """
    One layer of the stack: an ASGI 3 application around `app`.

    A subclass overrides what concerns it:

    - `name`: what it is called in its rejections, the log, the metrics and `explain`; without one,
      as its class.
    - `scopes`: the types of scopes that it handles; others pass.
    - `once`: whether it does nothing in a mounted app, where the outer one has the same layer.
    - `reads_bodies`: whether it needs the bytes of every response, those of files too, which some
      servers can send themselves.
    - `exempt_paths`: exact paths, without `root_path`, whose GET and HEAD requests pass too.
    - `enter`: a request arrives. Let it pass, or respond to it.
    - `around`: it passed. Do something around all that is inside.
    - `head`: the head of a response leaves. Change it, or take over the response.
    - `ended`: the request is over.
    - `lifespan`: the service starts and stops.

    A layer's own responses pass its own `head` and `ended`, as those from inside do. One object
    serves all requests: store request data in `exchange.state` or a closure, never on `self`.
    """

    name: str
    scopes: Collection[str] = HTTP | WEBSOCKET
    once = False
    reads_bodies = False
    # Other settings for single routes; None where no route has any.
    policies: "Policies | None" = None
    # For OpenAPI: the schemes of credentials that it accepts, whether each request needs one, and
    # the headers that it reads, each with what its Parameter Object says besides the name.
    security: Sequence[SecurityBase] = ()
    needs_security = False
    openapi_headers: Mapping[str, Mapping[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.name = layer_of(cls) or vars(cls).get("name") or cls.__name__

    def __init__(self, app: ASGIApp, *, exempt_paths: Collection[str] = ()) -> None:
        self.app = app
        self.exempt_paths = frozenset(exempt_paths)

    def spares(self, path: str, method: str) -> bool:
        """Return whether it does nothing for a request; OpenAPI and policies ask this too."""
        kind = "websocket" if method == HANDSHAKE else "http"
        is_exempt = method in PROBE_METHODS and path in self.exempt_paths
        return is_exempt or kind not in type(self).scopes

    def spares_route(self, path: str, method: str) -> bool:
        """Return the same, where the path fills no parameter of a route."""
        return self.spares(path, method)

    def enter(self, exchange: Exchange) -> Decision | Awaitable[Decision]:
        """
        Decide about a request that arrives; where that takes waiting, as a coroutine.

        Returns:
            None to let it pass; a `Refusal` to reject it; another response to send instead; or a
            method such as `around`, to call for this request.

        """

    async def around(self, exchange: Exchange, place: Place) -> None:  # noqa: ARG002
        """Run all that is inside, by `await place.proceed()`, or `place.respond()` instead."""
        await place.proceed()

    def head(self, exchange: Exchange, message: Message) -> Addition | Filter | None:
        """
        Handle the head of a response; `message` is a copy: extend or replace its `headers`.

        The head is `http.response.start`, `websocket.accept` or `websocket.http.response.start`.
        Headers that are known earlier are added in `enter`, by `exchange.add`.

        Returns:
            None to let it pass; a `HeaderRule` and the headers to add by it; or a function that
            takes over the response: it gets the outer `send`, and returns one that gets this head
            and all further messages.

        """

    def ended(self, exchange: Exchange) -> None:
        """Handle the end of a request: its last byte was sent, or none will be."""

    def faults(self, service: Any) -> Iterable[str]:  # noqa: ARG002 - for subclasses
        """Return a sentence for each thing in `service` with which the layer can't work."""
        return ()

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on the start and the stop of the service."""
        await self.app(scope, receive, send)

    @final
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        chain = self._chains.get(scope["type"])
        if chain is None:
            await self.lifespan(scope, receive, send)
        else:
            if self.policies is not None:
                chain = chain.under(self.policies.rule_for(scope))
            exchange = Exchange(scope, receive, send, chain)
            try:
                steps: Any = exchange.run().__await__()
                future = next(steps, _RETURNED)
                if future is not _RETURNED:  # most return without having waited
                    await KeepingShields(steps, future, exchange)
            except BaseException as exc:
                exchange.finish(exc)
                if exchange.is_outermost and exchange.is_abandoned(exc):
                    return  # no client waits for a response, and nothing is wrong
                raise
            else:
                exchange.finish()

    @cached_property
    def _chains(self) -> dict[str, "Chain"]:
        # At the first request, since by then the stack is built whatever others put into it.
        layers, app = _neighbours(self)
        *_, router = layers_from(app)
        # What neither is a layer nor the framework's may copy the scope.
        if isinstance(router, Router) and not isinstance(app, Layer | ExceptionMiddleware):
            app = with_copies(app, router)
        return {kind: Chain(app, layers, kind) for kind in ("http", "websocket")}


class Chain:
    """What neighbouring layers do with the requests of one type, found once."""

    def __init__(self, app: ASGIApp, layers: list[Layer], kind: str) -> None:
        self.app = app
        self._layers = layers
        self._kind = kind
        self._others: dict[Any, Chain] = {}
        concerned = [layer for layer in layers if kind in layer.scopes]
        self.steps = _steps(concerned)
        self.reads_bodies = any(layer.reads_bodies for layer in concerned)
        self.is_watched = any(_overrides(layer, "ended") for layer in concerned)
        exempt = {path for layer in concerned for path in layer.exempt_paths if kind in HTTP}
        # What is done instead with probes of these paths.
        self.exempt = {
            path: _steps(layer for layer in concerned if path not in layer.exempt_paths)
            for path in exempt
        }

    def under(self, rule: "Rule | None") -> "Chain":
        """Return what they do with the requests of a route that has other settings."""
        if rule is None:
            return self
        if rule not in self._others:
            others = (rule.replaced.get(layer, layer) for layer in self._layers)
            present = [layer for layer in others if layer is not None]
            self._others[rule] = Chain(self.app, present, self._kind)
        return self._others[rule]

    def inside(self, outer: Any) -> "Chain":
        """Return what they do with requests that have passed the layers of another app."""
        if outer not in self._others:
            done = {item.cls for item in getattr(outer, "user_middleware", ())}
            others = [layer for layer in self._layers if not (layer.once and type(layer) in done)]
            self._others[outer] = Chain(self.app, others, self._kind)
        return self._others[outer]


def _steps(layers: Iterable[Layer]) -> tuple[Step, ...]:
    steps: list[Step] = []
    changes: Changes = ([], [])
    for layer in layers:
        heads, watchers = changes
        if _overrides(layer, "head"):
            heads.append(change_by(layer.head))
        if _overrides(layer, "ended"):
            watchers.append(layer.ended)
        for hook in ("enter", "around"):  # in two steps, since `enter` may wait
            if _overrides(layer, hook):
                around = layer.around if hook == "around" else None
                steps.append((changes if any(changes) else None, layer.enter, around))
                changes = ([], [])
    if any(changes):
        steps.append((changes, _pass, None))
    return tuple(steps)


def _pass(_: Exchange) -> None:
    """Decide nothing: outside of the app, some layers only change the response."""


def _neighbours(layer: Layer) -> tuple[list[Layer], ASGIApp]:
    """
    Return `layer` with the inner layers that can share its exchange, and what is inside them all.

    A layer with `ended` must see the messages at its own place, so inside a layer that can take
    over a response it starts a chain of its own. So does what is inside of a service's own layer,
    which can change any part of the scope: a new exchange reads it anew.
    """
    layers, app = [layer], layer.app
    filters = _overrides(layer, "head")
    while (
        isinstance(app, Layer)
        and not (filters and _overrides(app, "ended"))
        and not _may_change_scope(layers[-1])
    ):
        layers.append(app)
        filters = filters or _overrides(app, "head")
        app = app.app
    return layers, app


def _may_change_scope(layer: Layer) -> bool:
    acts = _overrides(layer, "enter") or _overrides(layer, "around")
    return acts and dotted_name(type(layer)) not in _STACK


def _overrides(layer: Layer, hook: str) -> bool:
    own: Callable[..., object] = getattr(type(layer), hook)
    return own is not getattr(Layer, hook)


def layers_from(app: Any) -> Iterator[Any]:
    """Yield `app` and what is inside it, the router last."""
    while app is not None:
        yield app
        # The `app` of a router is a method of its own.
        app = None if isinstance(app, Router) else getattr(app, "app", None)
