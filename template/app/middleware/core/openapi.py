"""OpenAPI: each operation declares the statuses that layers can respond with there, no others."""

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from app.middleware.order import LAYERS, STATUSES
from app.middleware.problem import MEDIA_TYPE, phrase

if TYPE_CHECKING:
    from .policies import Policies


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
                str(status)
                for name in layers & LAYERS.keys()
                if method in (LAYERS[name].methods or {method})
                for status in LAYERS[name].statuses
            }
            responses = operation["responses"]
            for status in {*map(str, STATUSES)} - possible:
                if status in responses and _is_of_layers(responses[status], int(status)):
                    del responses[status]


def _is_of_layers(response: dict[str, Any], status: int) -> bool:
    """Return whether the layers declare it, which they do for each route, and not the route."""
    form = (response["description"], [*response.get("content", ())])
    return form == (phrase(status), [MEDIA_TYPE])
