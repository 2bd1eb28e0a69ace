"""OpenAPI: each operation declares the statuses that layers can respond with there, no others."""

from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from app.middleware.order import LAYERS, STATUSES
from app.middleware.problem import problem_responses

if TYPE_CHECKING:
    from .policies import Policies

# What the layers put onto each route, before any route is known.
_DECLARED: Final = problem_responses(STATUSES)
_INVALID: Final = 422  # FastAPI's own, whatever the layers are


def narrow_openapi(app: FastAPI, policies: "Policies") -> None:
    """Let `app.openapi()` leave out what can't happen; what a route declares itself is kept."""
    generate = app.openapi
    known: dict[str, Any] | None = None

    def openapi() -> dict[str, Any]:
        nonlocal known
        document = generate()
        # FastAPI keeps the document until a route is added.
        if document is not known:
            _narrow(document, app, policies)
            known = document
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _narrow(document: dict[str, Any], app: FastAPI, policies: "Policies") -> None:
    for context in iter_route_contexts(app.routes):
        if not isinstance(context.original_route, APIRoute):
            continue
        for method in context.methods or ():
            operation = document.get("paths", {}).get(context.path_format, {}).get(method.lower())
            if operation is None:
                continue
            layers = policies.layers_at(context, method)
            if operation.get("security"):
                layers.add("authentication")  # the dependency of the route rejects in any case
            possible = {
                status
                for name in layers & LAYERS.keys()
                if method in (LAYERS[name].methods or {method})
                for status in LAYERS[name].statuses
            }
            for status in _DECLARED.keys() - possible - {_INVALID}:
                if context.responses.get(status) == _DECLARED[status]:
                    operation["responses"].pop(str(status), None)
