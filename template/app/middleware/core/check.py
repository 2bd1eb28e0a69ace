"""The check of the order: when the service starts, and for `python -m app.middleware`."""

import sys
from asyncio import get_running_loop
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any, Final, NoReturn

from fastapi.routing import iter_route_contexts
from starlette.applications import Starlette
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.routing import BaseRoute, Host, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.middleware.order import LAYERS, RULES, Rule, double_of, layer_of

from .annotations import of_field
from .cancellation import until_cancelled_have_ended
from .environment import EnvironmentSettings
from .exchange import HANDSHAKE, METHODS, PROBE_METHODS
from .layer import Layer, layers_from
from .outsiders import advice, advice_on_double, belongs_elsewhere
from .policies import Policies, asking, methods_of, paths_in
from .routes import is_literal, route_of, routes_of, template_of
from .setting_types import Routes

_LOST: Final = (
    "The app that is served has no checked layers. Something wraps or replaces your app,"
    " such as VersionedFastAPI(app). Pass **stack_options(settings) to the FastAPI that is served."
)
_NO_ASYNCIO: Final = (
    "The layers need asyncio, and the server runs the app without it. Start the server"
    " with an asyncio worker: hypercorn, for instance, without --worker-class trio."
)

_BODY_SIZE: Final = (
    "FastAPI(max_body_size=...) responds outside every layer, so no page can read its 413. Remove"
    " it, and set {}. The max_body_size of a route or a router can stay."
)
_UNOPENED: Final = (
    "{0} has {1}, which {2} takes, and it is for routes that have the path itself. Add such a"
    " route before {2}, or leave it out and give {2} an entry in ROUTES."
)
_LOST_PATH: Final = "{} must hold paths as the routes have them{}, not {!r}; write {}."


class OrderCheck(Layer):
    """
    Keep a service whose layers have a wrong order from starting.

    It is the first of the list: what is outside of it was added by `add_middleware`, a decorator
    or an instrumentor. At start-up (the lifespan protocol of ASGI) it reads the stack as built,
    and a fault ends the server with a sentence that says what to do. An agent that only
    observes is no fault. Under `--lifespan off` there is no start-up, and nothing is checked.

    Since all layers are inside of it, it also hands them the `policies` of single routes.
    """

    def __init__(self, app: ASGIApp, *, policies: Policies | None = None) -> None:
        super().__init__(app)
        if policies is not None:
            policies.install(self)

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _runs_asyncio():
            await fail_start(_NO_ASYNCIO, receive, send)
        if found := faults(_served(scope["app"])):
            await fail_start(" ".join(found), receive, send)

        async def received() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                # What they use is closed by the shutdown, and the process may end with it.
                await until_cancelled_have_ended()
            return message

        await self.app(scope, received, send)


def _served(service: Starlette) -> ASGIApp:
    """Return the app that servers run: `service`, or what `app.main` has put around it."""
    app: Any = getattr(sys.modules.get("app.main"), "app", None)
    return app if service_of(app) is service else service


def _runs_asyncio() -> bool:
    try:
        get_running_loop()
    except RuntimeError:
        return False
    return True


async def fail_start(message: str, receive: Receive, send: Send) -> NoReturn:
    """Report with a sentence that the service doesn't start (the lifespan protocol of ASGI)."""
    await receive()
    await send({"type": "lifespan.startup.failed", "message": message})
    raise RuntimeError(message)


def broken_rules(order: Sequence[str | None]) -> list[Rule]:
    """Return the rules that an order of layers breaks."""
    return [
        rule
        for rule in RULES
        if rule.outside in order
        and rule.inside in order
        and order.index(rule.outside) > order.index(rule.inside)
    ]


def faults(app: ASGIApp) -> list[str]:
    """Return a sentence for each fault around `app`, in its stack and in what is mounted in it."""
    *wrappers, service = _opened(app)
    if not isinstance(service, Starlette) or OrderCheck not in _listed(service):
        return [_LOST]
    # Others can be there: that of socket.io has paths of its own.
    around = [advice(wrapper, service) for wrapper in wrappers if belongs_elsewhere(type(wrapper))]
    found = [*filter(None, around), *_faults_of(service)]
    for place, mounted in layered_in(service):
        found += [f"In the app mounted at {place}: {fault}" for fault in _faults_of(mounted)]
    return found


def _faults_of(service: Starlette) -> list[str]:
    """Return a sentence for each fault in the stack of one app; none when all is well."""
    listed = _listed(service)
    policies = policies_of(service)
    declared = listed[listed.index(OrderCheck) :]
    layers = [layer_of(cls) for cls in declared]
    found: list[str] = []
    if "body_limit" in LAYERS and _limits_bodies(service):
        found.append(_BODY_SIZE.format(*LAYERS["body_limit"].settings))
    found += [advice(outsider, service) for outsider in _outsiders(service)]
    found += [
        f"{rule.outside} must run outside {rule.inside}: {rule.because}"
        for rule in broken_rules(layers)
    ]
    found += [
        f"{layer} is in the stack {count} times. Remove all but one."
        for layer, count in Counter(layers).items()
        if layer and count > 1
    ]
    found += [
        advice_on_double(cls, job)
        for cls in declared
        if (job := double_of(cls)) and job != layer_of(cls)
    ]
    for layer in layers_from(_stack(service)):
        found += layer.faults(service) if isinstance(layer, Layer) else ()
    if policies:
        found += _lost_paths(service, policies.settings)
        found += _unopened(service, policies.settings)
        found += policies.faults(service)
        found = [*map(policies.settings.renamed, found)]
    return [sentence for sentence in dict.fromkeys(found) if sentence]


def layered_in(service: Starlette) -> Iterator[tuple[str, Starlette]]:
    """
    Yield the mounted apps that have layers of their own.

    Servers run no lifespan of these, so nothing else checks them.
    """
    return ((place, app) for place, app in mounted_in(service) if OrderCheck in _listed(app))


def mounted_in(service: Starlette) -> Iterator[tuple[str, Starlette]]:
    """Yield the apps that are mounted at any depth, each with its place."""
    seen = [service]
    places = [("", service.routes)]
    for prefix, routes in places:
        for context in iter_route_contexts(routes):
            route: Any = context.original_route
            if not isinstance(route, Mount | Host):
                continue
            place = prefix + (route.host if isinstance(route, Host) else context.path or "/")
            app = service_of(route.app)
            # Some packages mount what holds the app around it.
            if app in seen:
                continue
            places.append((place, app.routes if app else route.routes))
            if app is not None:
                seen.append(app)
                yield place, app


def _listed(app: Starlette) -> list[Any]:
    return [item.cls for item in app.user_middleware]


def readers_of(service: Starlette, path: str) -> list[BaseRoute]:
    """Return the routes, mounts too, of exactly this path that take GET or HEAD."""
    return [
        route.original_route
        for route in routes_of(service)
        if (route.path or "") == path and PROBE_METHODS & (methods_of(route) or PROBE_METHODS)
    ]


def policies_of(app: Any) -> Policies | None:
    """Return the table of the routes that have other settings."""
    service = service_of(app)
    declared: list[Any] = service.user_middleware if service else []
    return next((item.kwargs.get("policies") for item in declared if item.cls is OrderCheck), None)


def service_of(app: Any) -> Starlette | None:
    """Return the application inside of what wraps it; None where nothing is found."""
    *_, service = _opened(app)
    return service if isinstance(service, Starlette) else None


def _opened(app: Any) -> Iterator[Any]:
    """Yield `app` and what is inside it, the application last; None where nothing is found."""
    yield app
    while not (app is None or isinstance(app, Starlette)):
        inner = (it for it in getattr(app, "__dict__", {}).values() if isinstance(it, Starlette))
        app = next(inner, getattr(app, "app", None))
        yield app


def _lost_paths(service: Starlette, settings: EnvironmentSettings) -> Iterator[str]:
    """Yield a sentence for each path of a setting that only another spelling of it matches."""
    templates = {*map(template_of, routes_of(service))}
    root = str(getattr(service, "root_path", "")).rstrip("/")

    def is_taken(path: str) -> bool:
        return path in templates or route_of(asking(service, "GET", path)) is not None

    for name, path, is_of_layer in paths_in(settings):
        inner = path.removeprefix(root) if path.startswith(f"{root}/") else path
        other = path[:-1] if path.endswith("/") else f"{path}/"
        others = {other, f"{other}{{path:path}}"}  # the latter is a mount
        # What a layer responds to is never below the root_path.
        if inner != path and (is_of_layer or (is_taken(inner) and not is_taken(path))):
            yield _LOST_PATH.format(name, f" below the root_path {root}", path, inner)
        elif not is_of_layer and others & templates and not is_taken(path):
            yield _LOST_PATH.format(name, "", path, other)


def _unopened(service: Starlette, settings: EnvironmentSettings) -> Iterator[str]:
    """Yield a sentence for each entry of a list of routes whose path fills a parameter of one."""
    contexts = [*routes_of(service)]
    hosts = [c.original_route.host for c in contexts if isinstance(c.original_route, Host)]
    # A default is for routes that a service may have.
    for name in settings.model_fields_set & type(settings).model_fields.keys():
        is_list = of_field(type(settings).model_fields[name]) == Routes
        for entry in getattr(settings, name) if is_list else ():
            method, _, path = entry.rpartition(" ")
            scopes = [
                asking(service, each, path, host)
                for host in ["", *hosts]
                for each in ([method] if method else [*METHODS, HANDSHAKE])
            ]
            found = [(it, is_literal(scope)) for scope in scopes if (it := route_of(scope))]
            closed = [context for context, literal in found if literal is False]
            if closed and not any(literal for _, literal in found):
                yield _UNOPENED.format(name.upper(), entry, template_of(closed[0]))


def live_stack(app: ASGIApp) -> list[Any]:
    """Return the classes of the stack as built, the framework's included, outermost first."""
    *wrappers, service = _opened(app)
    if not isinstance(service, Starlette):
        return [type(app)]
    built = [type(layer) for layer in layers_from(_stack(service))]
    declared: list[Any] = [middleware.cls for middleware in service.user_middleware]
    outer = list(takewhile(lambda cls: cls not in declared, built))
    inner = list(takewhile(lambda cls: cls not in declared, reversed(built)))
    inner = inner[::-1] if len(outer) < len(built) else []
    return [*map(type, wrappers), *outer, *declared, *inner]


def _outsiders(app: Starlette) -> list[Any]:
    """Return what is outside the check, without the framework's own layers."""
    outer: list[Any] = []
    for layer in layers_from(_stack(app)):
        if isinstance(layer, OrderCheck):
            return [layer for layer in outer if not _of_framework(type(layer), app)]
        outer.append(layer)
    # Something hides the list, for instance a wrapper that is no class with `.app`.
    return outer[-1:]


def _of_framework(cls: type, app: Starlette) -> bool:
    # These two surround the list; any service can use Starlette's others.
    if cls is RequestBodyLimitMiddleware:
        return _limits_bodies(app)
    return cls is ServerErrorMiddleware or cls.__module__.partition(".")[0] == "fastapi"


def _limits_bodies(app: Starlette) -> bool:
    """Return whether FastAPI adds its own limit outside the list."""
    return getattr(app, "max_body_size", None) is not None


def _stack(app: Starlette) -> ASGIApp:
    if app.middleware_stack is None:
        app.middleware_stack = app.build_middleware_stack()
    return app.middleware_stack
