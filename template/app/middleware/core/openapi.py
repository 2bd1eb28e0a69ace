"""OpenAPI: each operation lists the statuses, credentials and headers of its own layers only."""

from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI
from fastapi.dependencies.utils import get_flat_params
from fastapi.encoders import jsonable_encoder
from fastapi.openapi.utils import (
    validation_error_definition,
    validation_error_response_definition,
)
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts

from app.middleware.order import LAYERS, STATUSES
from app.middleware.problem import problem_responses

if TYPE_CHECKING:
    from .layer import Layer
    from .policies import Policies

# What the layers put onto each route, before any route is known.
_DECLARED: Final = problem_responses(STATUSES)
_HANDLER: Final = "error_handler"
_NOT_FOUND: Final = 404
_INVALID: Final = 422  # FastAPI's own, whatever the layers are
_OF_INVALID: Final = {
    "HTTPValidationError": validation_error_response_definition,
    "ValidationError": validation_error_definition,
}


def narrow_openapi(app: FastAPI, policies: "Policies") -> None:
    """
    Leave out of `app.openapi()` what can't happen, and add what layers read of a request.

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


def _narrow(document: Any, app: FastAPI, policies: "Policies") -> None:
    for context in iter_route_contexts(app.routes):
        if not isinstance(context.original_route, APIRoute):
            continue
        for method in context.methods or ():
            # A document of yours may lack what OpenAPI lets it leave out.
            operation = _part(document, "paths", context.path_format, method.lower())
            if not isinstance(operation, dict):
                continue
            if "HTTPValidationError" in str(operation.get("callbacks")):
                # FastAPI forgets it there, and defines it for no route that declares 422 itself.
                schemas = _component(document, "schemas")
                schemas.update({**_OF_INVALID, **schemas})
            layers = policies.layers_at(context, method)
            for layer in filter(None, layers.values()):
                _add_security(document, operation, layer)
                _add_headers(operation, layer)
            names = {*layers}
            if operation.get("security"):
                names.add("authentication")  # the dependency of the route rejects in any case
            possible = _raised(context).union(*(_statuses(name, method) for name in names))
            for status in _DECLARED.keys() - possible:
                if context.responses.get(status) == _DECLARED[status]:
                    (operation.get("responses") or {}).pop(str(status), None)


def _part(value: Any, *keys: str | None) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _component(document: dict[str, Any], kind: str) -> dict[str, Any]:
    components = document["components"] = document.get("components") or {}
    found: dict[str, Any] = components.get(kind) or {}
    components[kind] = found
    return found


def _statuses(layer: str, method: str) -> set[int]:
    """Return those with which a layer may respond in place of an endpoint."""
    place = LAYERS.get(layer)
    if place is None or (place.methods and method not in place.methods):
        return set()
    return {*place.statuses} - ({_NOT_FOUND, _INVALID} if layer == _HANDLER else set())


def _raised(context: RouteContext) -> set[int]:
    """Return the statuses of exceptions that are for this route, whichever layer has its format."""
    # What the path names may not exist.
    missing = {_NOT_FOUND} if context.param_convertors else set()
    takes_input = get_flat_params(context.dependant) or context.body_field
    return missing | ({_INVALID} if takes_input else set())


def _add_security(document: dict[str, Any], operation: dict[str, Any], layer: "Layer") -> None:
    """Let each alternative of the route have a credential of the layer too."""
    # As FastAPI does for the dependencies of routes.
    schemes = {
        scheme.scheme_name: jsonable_encoder(scheme.model, by_alias=True, exclude_none=True)
        for scheme in layer.security
    }
    listed = operation.get("security") or []
    if not (layer.needs_security or any(schemes.keys() & it.keys() for it in listed)):
        return
    known = _component(document, "securitySchemes")
    known.update({**schemes, **known})
    places = {_place(known[name]) for name in schemes}
    # One token is the credential of all schemes that read Authorization.
    of_layer = [it for it in listed if any(_place(known.get(name)) in places for name in it)]
    others = [it for it in listed if it not in of_layer]
    operation["security"] = [
        {**one, **other}
        for one in of_layer or [{name: []} for name in schemes]
        for other in others or [{}]
    ]


def _place(scheme: Any) -> tuple[str, str]:
    """Return where a request has the credential of a scheme: only an API key has a name."""
    where, name = _part(scheme, "in"), _part(scheme, "name")
    return where or "header", (name or "authorization").lower()


def _add_headers(operation: dict[str, Any], layer: "Layer") -> None:
    for name, described in layer.openapi_headers.items():
        listed = operation["parameters"] = operation.get("parameters") or []
        headers = {str(it.get("name")).lower(): it for it in listed if it.get("in") == "header"}
        header = headers.get(name.lower())
        if header is None:
            text = {"schema": {"type": "string"}, "required": False}
            listed.append({"name": name, "in": "header", **text, **described})
        elif described.get("required"):
            header["required"] = True
