"""The check of the order: when the service starts, and for `python -m app.middleware`."""

from collections import Counter
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

from starlette.applications import Starlette
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from app.middleware.order import DOUBLES, RULES, dotted_name, layer_of

from .layer import Layer


class OrderCheck(Layer):
    """
    Refuse to start a service whose layers stand in a wrong order.

    It stands first in the list, so whatever is further out was put there behind its back:
    by `add_middleware`, by a decorator or by an instrumentor. At start-up (the lifespan
    protocol of ASGI) it looks at the stack as built, and a fault ends the server with a
    sentence. Under `--lifespan off` there is no start-up, and nothing is checked.
    """

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        if found := faults(scope["app"]):
            await _fail(" ".join(found), receive, send)
        await self.app(scope, receive, send)


async def _fail(message: str, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": message})
    raise RuntimeError(message)


def faults(app: Starlette) -> list[str]:
    """Return a sentence for each fault in the stack of `app`; none when all is well."""
    declared: list[Any] = [middleware.cls for middleware in app.user_middleware]
    layers = [layer_of(cls) for cls in declared]
    found = [
        f"{dotted_name(cls)} stands outside of the checked stack. Hand it to stack_options"
        " with its place, such as `own=[outermost(Middleware(...))]`; add_middleware, a"
        " decorator and an instrumentor put a layer outside of all others."
        for cls in _outsiders(app, declared)
    ]
    found += [
        f"{rule.outside} must stand outside of {rule.inside}: {rule.because}"
        for rule in RULES
        if rule.outside in layers
        and rule.inside in layers
        and layers.index(rule.outside) > layers.index(rule.inside)
    ]
    found += [
        f"{layer} is there {count} times; one layer a job."
        for layer, count in Counter(layers).items()
        if layer and count > 1
    ]
    found += [
        f"{dotted_name(cls)} does the job of {DOUBLES[dotted_name(cls)]}; one layer a job."
        for cls in declared
        if DOUBLES.get(dotted_name(cls), layer_of(cls)) != layer_of(cls)
    ]
    return found


def live_stack(app: Starlette) -> list[Any]:
    """Return the classes of the stack as built, the framework's included, outermost first."""
    built = [type(layer) for layer in _walk(_stack(app))]
    declared: list[Any] = [middleware.cls for middleware in app.user_middleware]
    outer = list(takewhile(lambda cls: cls not in declared, built))
    inner = list(takewhile(lambda cls: cls not in declared, reversed(built)))
    return [*outer, *declared, *reversed(inner if len(outer) < len(built) else [])]


def _outsiders(app: Starlette, declared: list[Any]) -> list[Any]:
    """Return what stands outside of the check, the framework's own layers left out."""
    if OrderCheck not in declared:
        return declared
    late = declared[: declared.index(OrderCheck)]
    outer: list[Any] = []
    for layer in _walk(_stack(app)):
        if isinstance(layer, OrderCheck):
            return [*late, *(cls for cls in outer if cls not in late and not _of_framework(cls))]
        outer.append(type(layer))
    # Something hides the list, for instance a wrapper that is no class with `.app`.
    return [*late, outer[-1]] if outer else late


def _of_framework(cls: type) -> bool:
    # Starlette puts one layer around the list; its others are offered to everybody.
    return cls is ServerErrorMiddleware or cls.__module__.partition(".")[0] == "fastapi"


def _stack(app: Starlette) -> ASGIApp:
    if app.middleware_stack is None:
        app.middleware_stack = app.build_middleware_stack()
    return app.middleware_stack


def _walk(layer: Any) -> Iterator[Any]:
    while layer is not None:
        yield layer
        # A router is the end: its `app` is a method of its own.
        layer = None if isinstance(layer, Router) else getattr(layer, "app", None)
