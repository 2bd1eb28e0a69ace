"""
Policies: other settings for single routes, from one table.

The router's own matchers decide, in its own order, which route a request is for, so no spelling of
a path reaches a route under the policy of another one. A request that no route takes has the
settings of the service.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from fastapi import FastAPI
from fastapi.routing import APIRoute, RouteContext
from starlette._utils import get_route_path
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.routing import Router, WebSocketRoute, compile_path
from starlette.types import ASGIApp, Scope

from app.middleware.order import LAYERS, layer_of

from .annotations import of_field
from .effects import Effects
from .environment import EnvironmentSettings, refuse_to_start
from .exchange import HANDSHAKE, METHODS
from .layer import Layer, layers_from
from .openapi import narrow_openapi
from .routes import EVERYTHING, is_frontend, is_literal, route_of, routes_of, template_of
from .scope import headers_by_name
from .setting_types import ExactPath, Paths, Routes, path_in

# A method is a token (RFC 9110, 5.6.2).
_ENTRY: Final = re.compile(r"(?:(?P<method>[\w!#$%&'*+.^`|~-]+) +)?(?P<path>/.*)", re.ASCII)
_BELOW: Final = "/*"
_GROUP: Final = re.compile(r"\(\?P<\w+>")
_NEVER: Final = re.compile(r"(?!)")


class Field(NamedTuple):
    """
    What a field of a policy changes: an argument of a layer, or whether the layer is there at all.

    `named_by` is the argument that takes the name of the entry, for a layer that counts. `default`
    is the value of a field that is no setting. `replaces` is another field, which is empty in a
    policy that gives this one alone: together they are one list.
    """

    layer: str
    argument: str = ""
    named_by: str = ""
    default: bool = True
    replaces: str = ""


@dataclass(eq=False)
class Rule:
    """What holds for the requests of an entry: other layers in the places of some."""

    name: str
    policy: Mapping[str, Any]
    # By the name of a layer, the arguments that differ; None leaves the layer out.
    changes: Mapping[str, Mapping[str, Any] | None]
    method: str | None = None
    path: str = ""
    replaced: dict[Layer, Layer | None] = field(default_factory=dict)
    # Whether the limit of the body is the one that FastAPI was given.
    sized: bool = False

    @property
    def below(self) -> str:
        """The beginning of the templates for which it is, where it ends in `/*`."""
        return self.path[:-1] if self.path.endswith(_BELOW) else ""

    @property
    def breadth(self) -> int:
        """How many methods it is for: one, GET with HEAD, or all."""
        return 2 if self.method is None else int(self.method == "GET")

    def concerns(self, template: str) -> bool:
        """Return whether it is for the path of this route."""
        return template == self.path or bool(self.below and template.startswith(self.below))


class Policies:
    """The table of a stack: which rule holds for a request, by the route that takes it."""

    def __init__(
        self,
        table: Mapping[str, Mapping[str, Any]] | None,
        *,
        fields: Mapping[str, Field],
        settings: EnvironmentSettings,
        stack: Sequence[Middleware],
    ) -> None:
        self._made: dict[str, Middleware] = {}
        for middleware in stack:
            self._made.setdefault(layer_of(middleware.cls) or "", middleware)
        self._fields = fields
        self._size = next((name for name in fields if fields[name].layer == "body_limit"), "")
        self.settings = settings
        self._live: dict[str, Layer] = {}
        self._effects = Effects(settings, self._live)
        self._told: list[Layer] = []
        self._sized: dict[tuple[Rule | None, int], Rule] = {}
        self._concerned: re.Pattern[str] | None = None
        if table and not isinstance(table, Mapping):
            refuse_to_start(
                "stack_options(routes=...) takes a table of routes, such as"
                f" {{'POST /uploads': Policy(...)}}, not {table!r}."
            )
        self.rules = [
            _read(name, policy, fields, settings) for name, policy in (table or {}).items()
        ]
        self._refuse_doubles()
        # The most specific first: a route before those below a path, then the narrower method.
        self.rules.sort(key=lambda rule: (bool(rule.below), -len(rule.path), rule.breadth))

    def install(self, app: ASGIApp) -> None:
        """Make the layers from `app` inwards ask this table, and make those that replace them."""
        for layer in layers_from(app):
            if isinstance(layer, Layer):
                layer.policies = self
                self._told.append(layer)
                if name := layer_of(type(layer)):
                    self._live[name] = layer
        for rule in self.rules:
            self._prepare(rule)

    def rule_for(self, scope: Scope) -> Rule | None:
        """Return the rule of the route that the router will take, None where there is none."""
        if self._concerned is None:
            self._concerned = self._pattern(scope)
            if isinstance(scope["app"], FastAPI):
                # Before anybody can read the document.
                narrow_openapi(scope["app"], self)
            if self._concerned is _NEVER:
                # No request has to ask again.
                for layer in self._told:
                    layer.policies = None
        if self._concerned.match(get_route_path(scope)) is None:
            return None
        if "cors" in self._live and (asked := _preflight_method(scope)):
            scope = {**scope, "method": asked}
        context = route_of(scope)
        return None if context is None else self.rule_of(context, _method_of(scope))

    def rule_of(self, context: RouteContext, method: str) -> Rule | None:
        """Return what holds for requests of `method` that this route takes."""
        rule = next(self._fitting(context, method), None)
        size = _size_of(context)
        if size is None or "body_limit" not in self._live or (rule and self._size in rule.policy):
            return rule
        return self._with_size(rule, size)

    def _fitting(self, context: RouteContext, method: str) -> Iterator[Rule]:
        """Yield the rules for these requests, the most specific first."""
        template, methods = template_of(context), methods_of(context)
        names = {None, method}
        if method == "HEAD" and (methods is None or "GET" in methods):
            names.add("GET")
        return (rule for rule in self.rules if rule.method in names and rule.concerns(template))

    def layers_at(self, context: RouteContext, method: str) -> dict[str, Layer | None]:
        """Return the layers that do something for requests of this route, as they are there."""
        rule, template = self.rule_of(context, method), template_of(context)
        replaced: Mapping[Layer, Layer | None] = rule.replaced if rule else {}
        acting = (n for n in self._made if not self._effects.idle(n, rule, template, method))
        live = ((name, self._live.get(name)) for name in acting)
        return {name: layer and replaced.get(layer, layer) for name, layer in live}

    def explain(self, scope: Scope, context: RouteContext) -> list[dict[str, Any]]:
        """Return what holds for a request of a route: each value, and where it comes from."""
        path, method = get_route_path(scope), _method_of(scope)
        literal = is_literal(scope) is not False
        rule = self.rule_of(context, method)
        rows = []
        for name, (layer, argument, _, default, _) in self._fields.items():
            if rule and name in rule.policy:
                sized = rule.sized and name == self._size
                value = rule.policy[name]
                source = "max_body_size" if sized else f"ROUTES[{rule.name!r}]"
            elif argument and name in type(self.settings).model_fields:
                value = getattr(self.settings, name)
                given = name in self.settings.model_fields_set
                source = name.upper() if given else "default"
            else:
                value, source = default, "stack"
            idle = self._effects.idle(layer, rule, path, method, literal=literal)
            if value and idle:
                value, source = False if isinstance(value, bool) else None, idle.source
            source = self.settings.renamed(source)
            rows.append({"name": name, "value": value, "layer": layer, "from": source})
        return rows

    def faults(self, service: Starlette) -> Iterator[str]:
        """Yield a sentence for each entry that no route of the service fits."""
        contexts = list(routes_of(service)) if self.rules else []
        for context in contexts:
            route, cls = context.original_route, type(context.original_route)
            included = context.matches.__self__ is not route
            if included and isinstance(route, APIRoute) and cls.matches is not APIRoute.matches:
                yield (
                    f"{cls.__name__} decides which requests it takes, and does so unseen in a"
                    " router that is included. Add such routes to the app itself, or remove"
                    " routes= from stack_options."
                )
                return
        for rule in self.rules:
            if hidden := [name for name in rule.changes if name not in self._live]:
                yield (
                    f"ROUTES[{rule.name!r}] can't reach the layer {hidden[0]}: something outside of"
                    " it hides the app that it wraps. Keep that app in its attribute `app`."
                )
            found = [c for c in contexts if rule.concerns(template_of(c))]
            if not found:
                hint = self._hint(rule, contexts)
                yield f"ROUTES[{rule.name!r}] matches no route.{hint}"
            elif rule.method and not any(_takes(c, rule.method) for c in found):
                allowed = sorted(set().union(*(methods_of(c) or () for c in found)))
                yield (
                    f"ROUTES[{rule.name!r}] matches no route: {rule.path} has"
                    f" {', '.join(allowed)} only."
                )
            else:
                yield from self._vain(rule, found)
        for method in dict.fromkeys(rule.method for rule in self.rules if rule.method):
            for context in contexts:
                if _takes(context, method):
                    yield from self._ties(context, method)

    def _hint(self, rule: Rule, contexts: Iterable[RouteContext]) -> str:
        if setting := setting_of(self.settings, rule.path):
            return f" {rule.path} is {setting}, where a layer responds. Remove the entry."
        templates = [template_of(context) for context in contexts]
        # One that takes the path, such as that of a mount, not one that only looks similar.
        path = f"{rule.path.rstrip('/')}/"
        taking = [it for it in templates if it != EVERYTHING and compile_path(it)[0].match(path)]
        near = taking or get_close_matches(rule.path, templates, 1, 0)
        return f" Did you mean {near[0]}?" if near else ""

    def _ties(self, context: RouteContext, method: str) -> Iterator[str]:
        """Yield a sentence where one rule has the more specific path, another one the method."""
        fitting = [*self._fitting(context, method)]
        for other in fitting[1:]:
            first = fitting[0]
            if other.breadth < first.breadth:
                yield (
                    f"ROUTES[{first.name!r}] has the more specific path for {method}"
                    f" {template_of(context)}, ROUTES[{other.name!r}] the more specific method."
                    f" Add '{method} {first.path}'."
                )

    def _vain(self, rule: Rule, contexts: Iterable[RouteContext]) -> Iterator[str]:
        """Yield a sentence for each field that has no effect on any request of an entry."""
        fitting = [
            (template_of(context), method, rules)
            for context in contexts
            for method in methods_of(context) or (*METHODS, HANDSHAKE, rule.method or HANDSHAKE)
            if rule in (rules := [*self._fitting(context, method)])
        ]
        requests = [it for *it, rules in fitting if rules[0] is rule]
        takers = dict.fromkeys(rules[0] for *_, rules in fitting)
        lost = [name for name in rule.policy if any(name not in it.policy for it in takers)]
        if lost and not requests:
            names = " and ".join(f"ROUTES[{it.name!r}]" for it in takers)
            yield (
                f"ROUTES[{rule.name!r}] has no effect, because each request has the fields of one"
                f" entry, here of {names}. Write {', '.join(lost)} there too, or remove it."
            )
        for name, value in rule.policy.items():
            layer = self._fields[name].layer
            idle = [why for it in requests if (why := self._effects.idle(layer, rule, *it))]
            # A value that asks for nothing holds where the layer does nothing.
            if value and idle and len(idle) == len(requests):
                _, because, way_out = idle[0]
                yield (
                    f"ROUTES[{rule.name!r}]: {name}={value!r} has no effect, because {because};"
                    f" {way_out} {name}."
                )

    def _refuse_doubles(self) -> None:
        seen: dict[tuple[str | None, str], str] = {}
        for rule in self.rules:
            other = seen.setdefault((rule.method, rule.path), rule.name)
            if other != rule.name:
                refuse_to_start(f"ROUTES has {other!r} and {rule.name!r}, which are one. Keep one.")

    def _prepare(self, rule: Rule) -> None:
        for name, arguments in rule.changes.items():
            if name in self._live:
                other = None if arguments is None else self._variant(name, arguments)
                rule.replaced[self._live[name]] = other

    def _variant(self, name: str, arguments: Mapping[str, Any]) -> Layer:
        made: Any = self._made[name]
        variant: Layer = made.cls(self._live[name].app, *made.args, **{**made.kwargs, **arguments})
        return variant

    def _with_size(self, rule: Rule | None, size: int) -> Rule:
        """Return `rule` with the `max_body_size` of a route."""
        if (rule, size) not in self._sized:
            limited = self._variant("body_limit", {self._fields[self._size].argument: size})
            self._sized[rule, size] = Rule(
                name=rule.name if rule else "max_body_size",
                policy={**(rule.policy if rule else {}), self._size: size},
                changes=rule.changes if rule else {},
                replaced={
                    **(rule.replaced if rule else {}),
                    self._live["body_limit"]: limited,
                },
                sized=True,
            )
        return self._sized[rule, size]

    def _pattern(self, scope: Scope) -> re.Pattern[str]:
        """Return what the paths of all requests match for which a rule may hold."""
        paths = [rule.path for rule in self.rules]
        contexts = [*routes_of(scope["app"])]
        if self.rules:
            paths += [str(context.path) for context in contexts if is_frontend(context)]
        if "body_limit" in self._live:
            paths += [template_of(context) for context in contexts if _size_of(context) is not None]
        patterns = [_GROUP.sub("(?:", _regex(path)) for path in dict.fromkeys(paths)]
        return re.compile("|".join(patterns), re.DOTALL) if patterns else _NEVER


def methods_of(context: RouteContext) -> set[str] | None:
    """Return the methods that a route takes, None where it takes all."""
    if isinstance(context.original_route, WebSocketRoute):
        return {HANDSHAKE}
    return context.methods or None


def _size_of(context: RouteContext) -> int | None:
    """Return the `max_body_size` of a route, a mount or its app; the innermost replaces others."""
    size: int | None = getattr(context, "max_body_size", None)
    if isinstance(context.original_route, APIRoute):
        return size
    apps = [*layers_from(getattr(context, "app", None))]
    if apps and isinstance(apps[-1], Router):
        apps += layers_from(apps[-1].middleware_stack)
    for app in apps:
        if isinstance(app, RequestBodyLimitMiddleware | Starlette):
            size = size if app.max_body_size is None else app.max_body_size
    return size


def setting_of(settings: EnvironmentSettings, path: str) -> str | None:
    """Return the setting that gives a layer this path to respond to, where no route has it."""
    owners = (name for name, it, is_of_layer in paths_in(settings) if is_of_layer and it == path)
    return next(map(settings.renamed, owners), None)


def paths_in(settings: EnvironmentSettings) -> Iterator[tuple[str, str, bool]]:
    """Yield the paths of each setting: its name, a path, and whether a layer responds there."""
    for name, info in type(settings).model_fields.items():
        kind = of_field(info)
        if kind == ExactPath:
            yield name.upper(), getattr(settings, name), True
        elif kind == Paths:
            for path in getattr(settings, name):
                yield name.upper(), path, False
        elif kind == Routes:
            for entry in getattr(settings, name):
                yield name.upper(), path_in(entry), False


def _read(
    name: Any,
    policy: Any,
    fields: Mapping[str, Field],
    settings: EnvironmentSettings,
) -> Rule:
    """
    Read an entry of the table.

    Raises:
        SystemExit: after a sentence for each thing that is wrong.

    """
    parts = _ENTRY.fullmatch(name) if isinstance(name, str) else None
    if parts is None or not isinstance(policy, Mapping):
        refuse_to_start(
            "ROUTES names a route as FastAPI has it, with or without a method, such as"
            f" 'POST /uploads': Policy(...), not {name!r}: {policy!r}."
        )
    if unknown := [key for key in policy if key not in fields]:
        refuse_to_start(f"ROUTES[{name!r}] has {unknown[0]}, {_about(unknown[0], fields)}")
    try:
        _regex(parts["path"])
    except (AssertionError, ValueError, re.error) as error:
        refuse_to_start(f"ROUTES[{name!r}] is no path of a route: {error}.")
    values = _values(name, policy, fields, settings)
    method = (parts["method"] or "").upper() or None
    return Rule(name, values, _changes(name, values, fields), method, parts["path"])


def _about(key: str, fields: Mapping[str, Field]) -> str:
    """Return what to write instead of a key that is no field."""
    layer = next((it for it in LAYERS if key == it or key.upper() in LAYERS[it].settings), None)
    if layer:
        own = ", ".join(name for name in fields if fields[name].layer == layer)
        return f"which is no field: the layer {layer} has {own or 'none, so leave it out'}."
    near = get_close_matches(key, fields, 1)
    return "which is no field of Policy." + (f" Did you mean {near[0]}?" if near else "")


def _values(
    name: str,
    policy: Mapping[str, Any],
    fields: Mapping[str, Field],
    settings: EnvironmentSettings,
) -> Mapping[str, Any]:
    """Return the values of a policy, under the rules of the settings where they are some."""
    known = type(settings).model_fields
    partners = {fields[key].replaces for key in policy} - {"", *policy}
    policy = {**policy, **{key: type(known[key].default)() for key in partners}}
    own = {key: policy[key] for key in policy if key not in known or not fields[key].argument}
    for key, value in own.items():
        if not isinstance(value, bool):
            refuse_to_start(f"ROUTES[{name!r}]: {key} must be True or False, not {value!r}.")
        others = sorted(other for other in policy.keys() - {key} if fields[other].layer == key)
        if not value and others:
            rule = f"must not be with {key}=False, which leaves nothing to set; leave one out"
            refuse_to_start(f"ROUTES[{name!r}]: {', '.join(others)} {rule}.")
    found = settings.overridden(f"ROUTES[{name!r}]: ", policy.keys() - own, policy)
    return {key: own.get(key, found.get(key)) for key in policy}


def _changes(
    name: str, values: Mapping[str, Any], fields: Mapping[str, Field]
) -> dict[str, Mapping[str, Any] | None]:
    """Return the arguments that differ, by layer."""
    changes: dict[str, Mapping[str, Any] | None] = {}
    for key, value in values.items():
        layer, argument, named_by, *_ = fields[key]
        if argument:
            named = {named_by: quote(name, safe="/ {}*:-._~")} if named_by else {}
            changes[layer] = {**(changes.get(layer) or {}), argument: value, **named}
        elif not value:
            changes[layer] = None
    return changes


def _regex(path: str) -> str:
    """Return what the paths of a template match, as the router has it."""
    if path in {_BELOW, EVERYTHING}:
        return ""  # what has no path takes any, such as the one of `OPTIONS *`
    if path.endswith(_BELOW):
        return compile_path(path[:-1])[0].pattern.removesuffix("$")
    return compile_path(path)[0].pattern


def asking(service: Starlette, method: str, path: str, host: str = "") -> Scope:
    """Return what `route_of` needs of a request."""
    return {
        "type": "websocket" if method == HANDSHAKE else "http",
        "method": method,
        "path": path,
        "headers": [(b"host", host.encode())],
        "app": service,
    }


def _takes(context: RouteContext, method: str) -> bool:
    methods = methods_of(context)
    return methods is None or method in methods


def _method_of(scope: Scope) -> str:
    """
    Return the method as entries have it: some apps in a mount take `post` for POST.

    A client can call a method of HTTP like the handshake.
    """
    if scope["type"] == "websocket":
        return HANDSHAKE
    method = str(scope["method"]).upper()
    return "" if method == HANDSHAKE else method


def _preflight_method(scope: Scope) -> str | None:
    """Return the method that a preflight asks for, which the layer cors answers in any case."""
    if scope.get("method") != "OPTIONS":
        return None
    headers = headers_by_name(scope["headers"])
    method = headers.get(b"access-control-request-method")
    if headers.get(b"origin") is None or method is None:
        return None
    return method.decode("latin-1")
