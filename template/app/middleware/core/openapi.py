"""OpenAPI: each operation lists only the statuses and credentials of its own layers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.security.base import SecurityBase

from app.middleware.order import LAYERS, STATUSES
from app.middleware.problem import problem_responses

if TYPE_CHECKING:
    from .policies import Policies

# What the layers put onto each route, before any route is known.
_DECLARED: Final = problem_responses(STATUSES)
_INVALID: Final = 422  # FastAPI's own, whatever the layers are


def narrow_openapi(app: FastAPI, policies: "Policies") -> None:
    """
    Let `app.openapi()` leave out what can't happen, and name the credentials that layers need.

    What a route declares itself is kept.
    """
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
            if schemes := policies.security_at(context, method):
                _secure(document, operation, schemes)
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


def _secure(
    document: dict[str, Any], operation: dict[str, Any], schemes: Sequence[SecurityBase]
) -> None:
    operation.setdefault("security", [{scheme.scheme_name: []} for scheme in schemes])
    known = document.setdefault("components", {}).setdefault("securitySchemes", {})
    for scheme in schemes:
        # As FastAPI does for the dependencies of routes.
        model = jsonable_encoder(scheme.model, by_alias=True, exclude_none=True)
        known.setdefault(scheme.scheme_name, model)
