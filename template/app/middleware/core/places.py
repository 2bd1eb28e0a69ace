"""The places of your own layers, for `app/main.py`."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app.middleware.order import LAYERS, layer_of

from .environment import refuse_to_start
from .layer import layers_from

_OUTERMOST: Final = "outermost"
_INNERMOST: Final = "innermost"
_INSIDE: Final = "directly inside"
_OUTSIDE: Final = "directly outside"


class Own(NamedTuple):
    """A layer of yours and its place; made by one of the functions below."""

    middleware: Middleware
    place: str
    neighbour: str = ""


class _Found(Middleware):
    """A layer of yours, of which the layers inside are found whatever it keeps them in."""

    def __iter__(self) -> Iterator[Any]:
        return iter((self._build, self.args, self.kwargs))

    def _build(self, app: ASGIApp, *args: Any, **kwargs: Any) -> ASGIApp:
        layer = self.cls(app, *args, **kwargs)
        return layer if any(it is app for it in layers_from(layer)) else _Holder(layer, app)


class _Holder:
    """Show the app inside of what hides it, such as a function."""

    def __init__(self, layer: ASGIApp, app: ASGIApp) -> None:
        self.layer = layer
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.layer(scope, receive, send)


def outermost(middleware: Middleware) -> Own:
    """Run outside every layer."""
    return Own(middleware, _OUTERMOST)


def innermost(middleware: Middleware) -> Own:
    """Run inside every layer, next to the routes."""
    return Own(middleware, _INNERMOST)


def inside(layer: str, middleware: Middleware) -> Own:
    """Run directly inside `layer`: requests that it rejects don't arrive here."""
    return Own(middleware, _INSIDE, layer)


def outside(layer: str, middleware: Middleware) -> Own:
    """Run directly outside `layer`: its rejections pass here too."""
    return Own(middleware, _OUTSIDE, layer)


def with_own(stack: Sequence[Middleware], own: Sequence[Own]) -> list[Middleware]:
    """
    Return `stack` with each layer of `own` in its place.

    Layers for one place keep their order, the first outermost. The service doesn't start with a
    layer without a place, or with a neighbour that this stack lacks, for example since an update.

    Raises:
        SystemExit: after one sentence.

    """
    around = {name: index for index, name in enumerate(layer_of(m.cls) for m in stack) if name}
    outer: list[Middleware] = []
    inner: list[Middleware] = []
    slots: list[list[Middleware]] = [[] for _ in range(len(stack) + 1)]
    items: Sequence[Any] = own  # from code without a type check
    for item in items:
        if not isinstance(item, Own) or not isinstance(item.middleware, Middleware):
            refuse_to_start(
                "own= takes a list of layers with a place, such as outermost(Middleware(X)) or"
                f" inside({next(iter(LAYERS))!r}, Middleware(X)), not {item!r}."
            )
        given, place, neighbour = item
        middleware: Middleware = _Found(given.cls, *given.args, **given.kwargs)
        if place == _OUTERMOST:
            outer.append(middleware)
        elif place == _INNERMOST:
            inner.append(middleware)
        elif neighbour in around:
            slots[around[neighbour] + (place == _INSIDE)].append(middleware)
        else:
            refuse_to_start(
                f"{getattr(middleware.cls, '__name__', middleware.cls)} can't be {place}"
                f" {neighbour!r}: LAYERS in app/middleware/order.py has no such layer."
            )
    arranged = [*outer, *slots[0]]
    for middleware, slot in zip(stack, slots[1:], strict=True):
        arranged += [middleware, *slot]
    return [*arranged, *inner]
