"""What to do about a layer that isn't in the list of `stack_options`; for the check."""

import sys
from typing import Any, Final

from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware

from app.middleware.order import (
    LAYERS,
    Observer,
    dotted_name,
    double_of,
    is_tracker,
    layer_of,
    observer_of,
)

_ADDED: Final = "{} was added outside the middleware stack by {}."
_ANY_WAY: Final = "add_middleware, an instrumentor or a call around the app"
_HAND_OVER: Final = " Pass it to stack_options instead: own=[{}]."
_AROUND_LAYERS: Final = _HAND_OVER.format('inside("error_handler", Middleware({}))')
# There it sees what it would see in an app without these layers: a transaction must not commit
# what another layer stopped.
_NEXT_TO_THE_ROUTES: Final = (
    f"{_HAND_OVER.format('innermost(Middleware({}))')} It sees every unhandled exception there."
    " Use outermost if it must see every response, rejections too."
)
_BY_A_PACKAGE: Final = (
    " If a package adds it by itself, use the package with another app, without stack_options,"
    ' and mount that one in yours: app.mount("/", ...).'
)
_OWN: Final = f"{__name__.partition('.')[0]}."


def advice(layer: Any, service: Starlette) -> str:
    """Return what to do about a layer outside of the check; nothing if it only observes."""
    item = _item_of(layer, service)
    cls = item.cls if item else layer if hasattr(layer, "__qualname__") else type(layer)
    if observer := observer_of(cls):
        return _advice_on_spans(observer, cls, service)
    if job := double_of(cls) or layer_of(cls):
        return advice_on_double(cls, job)
    if cls is BaseHTTPMiddleware:
        function = layer.dispatch_func
        what = _ADDED.format(f"The function {dotted_name(function)}", "@app.middleware")
        return what + _way_in(function, f"BaseHTTPMiddleware, dispatch={_short(function)}")
    what = _ADDED.format(dotted_name(cls), _ANY_WAY)
    call = f"{_short(cls)}, ..." if item is None or item.args or item.kwargs else _short(cls)
    return what + (_AROUND_LAYERS.format(call) if _is_blind(cls) else _way_in(cls, call))


def advice_on_double(cls: Any, job: str) -> str:
    """Return what to do about a class that does the job of a layer."""
    name = dotted_name(cls)
    return f"{name} does the job of the layer {job}. Remove it, and use the settings of {job}."


def belongs_elsewhere(cls: Any) -> bool:
    """Return whether a class around the whole app is in the wrong place; most can be there."""
    return bool(observer_of(cls) or double_of(cls) or layer_of(cls) or _is_blind(cls))


def _advice_on_spans(observer: Observer, cls: Any, service: Starlette) -> str:
    telemetry = getattr(service, "_telemetry", {})
    # An agent that makes FastAPI leave all spans out has a span that the layer tracing completes.
    makes_spans = (telemetry.get("tracing") or double_of(cls)) and not telemetry.get("exclude")
    if not (observer.switch and makes_spans):
        return ""
    return (
        f"{observer.name} makes a span of each request, which the layer tracing makes too."
        f" {observer.switch}"
    )


def _is_blind(cls: Any) -> bool:
    """Return whether a class waits for exceptions, none of which leaves the error handler."""
    return is_tracker(cls) and "error_handler" in LAYERS


def _item_of(layer: Any, service: Starlette) -> Any:
    """Return the item of the app's list that made a layer: its class, or a function."""
    name = dotted_name(layer)
    for item in service.user_middleware:
        cls: Any = item.cls
        if cls is type(layer) or name.startswith(f"{dotted_name(cls)}.<locals>."):
            return item
    return None


def _way_in(added: Any, call: str) -> str:
    way = _NEXT_TO_THE_ROUTES.format(call)
    return way if dotted_name(added).startswith(_OWN) else way + _BY_A_PACKAGE


def _short(thing: Any) -> str:
    """Return the name in its module, which a class made by a function doesn't have itself."""
    names = getattr(sys.modules.get(thing.__module__), "__dict__", {}).items()
    own = dotted_name(thing).rpartition(".")[2]
    return next((name for name, value in names if value is thing), own)
