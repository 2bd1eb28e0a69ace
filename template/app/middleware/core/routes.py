"""Routes: what a request can reach below the layers, whatever kind it is of."""

import re
from collections.abc import Awaitable, Coroutine, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from types import NoneType
from typing import Any, Final

from fastapi.routing import (
    APIRoute,
    RouteContext,
    _FrontendRoute,
    _IncludedRouter,
    iter_route_contexts,
)
from starlette._utils import get_route_path
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Host, Match, Mount, Router, compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

# What a mount adds to its path, and the template of what has no path.
EVERYTHING: Final = "/{path:path}"
# The same as FastAPI writes it in templates.
_ANY: Final = "/{path}"
# Routes that lead to the one that was taken; a tuple, since each request asks.
_LEADING: Final = (Host, Mount)
_NO_NOTES: Final[Mapping[str, Any]] = {}
# The key of a scope for a note of the one that the router got, which may be a copy.
_ROUTED: Final = "app.middleware.routed"


class _Default(BaseRoute):
    """What a service has as `router.default` of its own: it takes what nothing else takes."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:  # noqa: ARG002
        return Match.FULL, {}


class _Routed:
    """The scope that the router got, where it isn't the one with this `id`."""

    def __init__(self, original: int) -> None:
        self.original = original
        self.scope: Scope | None = None


@dataclass(frozen=True)
class _Limited(RouteContext):
    """A route of a router that is included, with the limit of bodies that it has from there."""

    max_body_size: int | None = None


def routes_of(app: Starlette) -> Iterator[RouteContext]:
    """Yield all that can respond to requests: the routes, then what takes the rest."""
    yield from _early_routes(app.routes)
    yield from _late_routes(app.router)


def _early_routes(routes: Sequence[BaseRoute]) -> Iterator[RouteContext]:
    """Yield the routes as FastAPI does, which leaves the limit of a router out."""
    for route in routes:
        if not isinstance(route, _IncludedRouter):
            yield RouteContext(route)
            continue
        limit = route.include_context.max_body_size
        for found in route.effective_candidates():
            if isinstance(found, _IncludedRouter):
                yield from _early_routes([found])
            elif isinstance(found.original_route, APIRoute):
                yield RouteContext(found.original_route, found)
            else:
                yield _Limited(found.original_route, found, limit)


def _late_routes(router: Router) -> Iterator[RouteContext]:
    """Yield what the router asks after all routes, in its order: frontends, and a default."""
    found: list[Any] = []
    # FastAPI's, which have no public name; a router of Starlette has none.
    for group in getattr(router, "_iter_low_priority_routes", tuple)():
        prefix = getattr(group, "frontend_prefix", "")
        for route in getattr(group, "original_route", group).routes:
            frontend = copy(route)
            frontend.path = f"{prefix}{route.path}".rstrip("/") or "/"
            found.append(frontend)
    yield from map(RouteContext, sorted(found, key=lambda route: len(route.path), reverse=True))
    if router.default != router.not_found:
        yield RouteContext(_Default())


def hosts_in(routes: Sequence[BaseRoute]) -> Iterator[Host]:
    """Yield the routes that take requests for their host, at any depth."""
    apps: list[Any] = []
    groups = [routes]
    for group in groups:
        for context in iter_route_contexts(group):
            route = context.original_route
            if isinstance(route, Host):
                yield route
            # Some packages mount what holds the app around it.
            if isinstance(route, _LEADING) and route.app not in apps:
                apps.append(route.app)
                groups.append(route.routes)


def route_of(scope: Scope, router: Router | None = None) -> RouteContext | None:
    """Return what the router takes for a request, None where nothing takes it whole."""
    try:
        return _taking(_asked(scope), router or scope["app"].router)
    except Exception:  # noqa: BLE001 - it fails again in the router, which responds
        return None


def is_literal(scope: Scope) -> bool | None:
    """
    Return whether the path fills no parameter of the route that takes it; None without a route.

    The routes of a mounted app decide; one that isn't Starlette's has each path, as a frontend has.
    """
    try:
        return _is_literal(_asked(scope), scope["app"].router)
    except Exception:  # noqa: BLE001 - nobody knows what takes it
        return False


def mounted_for(
    scope: Scope, context: RouteContext | None
) -> Iterator[tuple[str, Any, Scope, RouteContext | None]]:
    """
    Yield what `context` leads to in mounts, the outer one first.

    That is its place, what is mounted, the scope there, and the route that takes the request.
    """
    place = ""
    while context is not None and isinstance(context.original_route, _LEADING):
        route = context.original_route
        place += route.host if isinstance(route, Host) else context.path or "/"
        scope = {**scope, **context.matches(_asked(scope))[1]}
        router = _router_in(route.app)
        context = None if router is None else route_of(scope, router)
        yield place, route.app, scope, context


def _asked(scope: Scope) -> Scope:
    # A copy: some matchers leave notes in the scope.
    return {**scope, "fastapi": {**scope.get("fastapi", {})}}


def _is_literal(scope: Scope, router: Router) -> bool | None:
    context = _taking(scope, router)
    if context is None:
        return None
    route: Any = context.original_route
    is_leading = isinstance(route, _LEADING)
    if "{" in (context.path or "") or (context.path is None and not is_leading):
        return False  # of a kind that hides its path, it may take any
    inner = _router_in(route.app) if is_leading else None
    return inner is None or _is_literal({**scope, **context.matches(scope)[1]}, inner)


def _router_in(app: Any) -> Router | None:
    """Return the router inside of what wraps it; None where nothing is found."""
    while not isinstance(app, Router | NoneType):
        app = app.router if isinstance(app, Starlette) else getattr(app, "app", None)
    return app


def _taking(scope: Scope, router: Router) -> RouteContext | None:
    partial = False
    for context in _early_routes(router.routes):
        match, _ = context.matches(scope)
        if match is Match.FULL:
            return context
        partial = partial or match is Match.PARTIAL
    late: list[RouteContext] = [] if partial else [*_late_routes(router)]
    if not late or _is_redirected(scope, router):
        return None
    for context in late:
        match, _ = context.matches(scope)
        if match is not Match.NONE:
            return context if match is Match.FULL else None
    return None


def _is_redirected(scope: Scope, router: Router) -> bool:
    """Return whether a route has the path with a slash more or less, which goes first."""
    if scope["type"] != "http" or not router.redirect_slashes or get_route_path(scope) == "/":
        return False
    path: str = scope["path"]
    other = {**scope, "path": path.rstrip("/") if path.endswith("/") else f"{path}/"}
    contexts = iter_route_contexts(router.routes)
    return any(context.matches(other)[0] is not Match.NONE for context in contexts)


def template_of(context: RouteContext) -> str:
    """
    Return the path of a route as FastAPI writes it.

    That of a mount or a frontend has what is below it; what has no path, such as a host, takes all.
    """
    path = context.path
    if path is None or isinstance(context.original_route, Mount | _FrontendRoute):
        return (path or "").rstrip("/") + EVERYTHING
    return path


def is_frontend(context: RouteContext) -> bool:
    """Return whether it takes its own path too, without a slash at the end."""
    return isinstance(context.original_route, _FrontendRoute)


def with_copies(app: ASGIApp, router: Router) -> ASGIApp:
    """
    Return `app`, of whose requests `route_template` finds the route in a copy of the scope too.

    ASGI asks classes that change the scope to copy it, so what `router` writes can be in the copy
    alone. Copies share the object that is put in here.
    """
    inner = router.middleware_stack

    def enter(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope.setdefault(_ROUTED, _Routed(id(scope)))
        return app(scope, receive, send)

    def route(scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        routed = scope.get(_ROUTED)
        if routed is not None and routed.original != id(scope):
            # Taken out, else a scope would hold itself, and wait for the garbage collector.
            del scope[_ROUTED]
            routed.scope = scope
        return inner(scope, receive, send)

    router.middleware_stack = route
    return enter


def route_template(scope: Scope) -> str | None:
    """
    Return the full path template of the route that was taken, None where none was.

    FastAPI keeps the template of an included router's route, with its prefix, in
    `scope["fastapi"]`; the path of `scope["route"]` may lack the prefix. The scope has the
    prefix of a mount only as it was requested, so its template is looked up in the routes. Of a
    mount inside which no route was taken, such as one of static files, it is that of all its paths,
    as FastAPI's spans have it.
    """
    notes = scope.get("fastapi", _NO_NOTES)
    context = notes.get("effective_route_context")
    path = getattr(context, "path", "") or _path(scope, notes)
    if path is None and (routed := scope.get(_ROUTED)) and routed.scope is not None:
        return route_template(routed.scope)
    if "app_root_path" not in scope:
        return path
    mount: str = scope["root_path"][len(scope["app_root_path"]) :]
    routes = getattr(scope.get("router"), "routes", ())
    template = _mount_template(scope, routes, mount) if mount else ""
    return template + (_ANY if path is None else path)


def _path(scope: Scope, notes: Mapping[str, Any]) -> str | None:
    """Return the path of what was taken, in the app that took it."""
    route = scope.get("route")
    if route is not None and not isinstance(route, _LEADING):
        return getattr(route, "path", None)
    if "frontend_specificity" in notes:
        # The length of its path.
        return get_route_path(scope)[: notes["frontend_specificity"]] + _ANY
    if "router" not in scope:
        return None  # a layer responded
    endpoint, router = scope.get("endpoint"), scope["app"].router
    included = getattr(notes.get("effective_route_context"), "starlette_route", None)
    routes: list[Any] = [included, *router.routes]
    for route in routes:
        # Starlette's own, such as `/docs`; several may have one endpoint.
        is_its = endpoint is not None and getattr(route, "endpoint", None) is endpoint
        if is_its and route.matches(scope)[0] is not Match.NONE:
            return str(route.path)
        if isinstance(route, Host) and route.matches(scope)[0] is Match.FULL:
            return _ANY
    return None if router.default == router.not_found else _ANY


def _mount_template(scope: Scope, routes: Sequence[BaseRoute], mount: str) -> str:
    """Return the path of the mount, or of several one inside the other, that took `mount`."""
    for context in iter_route_contexts(routes):
        if isinstance(context.original_route, Host) and context.matches(scope)[0] is Match.FULL:
            return _mount_template(scope, context.routes, mount)
        if isinstance(context.original_route, Mount):
            pattern, template = _below(context.path or "")
            match = pattern.match(mount + "/")
            if match is not None:
                inner = "/" + match["path"].rstrip("/")
                if inner == "/":
                    return template
                return template + _mount_template(scope, context.original_route.routes, inner)
    return "/{mount}"  # of a kind that hides its path; what clients send must make no label


@lru_cache(maxsize=256)
def _below(path: str) -> tuple[re.Pattern[str], str]:
    """Return what matches the paths below that of a mount, and its template."""
    pattern, template, _ = compile_path(path + EVERYTHING)
    return pattern, template.removesuffix(_ANY)
