"""
What `python -m app.middleware` says of single routes.

`route` prints what holds for one, and where each value comes from; `openapi` prints the document
that is served.
"""

import argparse
import json
import re
import sys
from typing import Any, Final
from urllib.parse import unquote

from fastapi import FastAPI
from fastapi.routing import RouteContext
from starlette.applications import Starlette
from starlette.types import Scope

from .check import policies_of
from .explain.request import WrongUseError
from .openapi import narrow_openapi
from .policies import Policies, asking, methods_of, setting_of
from .routes import mounted_for, route_of, template_of

_LEGEND: Final = """
default: nobody set the setting. stack: no entry of ROUTES changes it.
Anything else is the setting, the entry, the max_body_size or the method that decides."""
# With a host, which decides where the service has `app.host(...)`.
_TARGET: Final = re.compile(
    r"(?:(?P<method>[^\s/]+) )?(?:\w+://(?P<host>[^/]+))?(?P<path>/[^?]*)(?:[?].*)?"
)


def add_route_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-command."""
    parser.usage = "%(prog)s [--json] [METHOD] PATH"
    add = parser.add_argument
    add("target", nargs="+", metavar="[METHOD] PATH", help="such as POST /uploads, or a whole URL")
    # Left out, it is as it was given before the name of the sub-command.
    add("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def show_route(service: Starlette, policies: Policies, arguments: argparse.Namespace) -> int:
    """
    Print what holds for the route that takes a request; the exit status is 1 without one.

    Raises:
        WrongUseError: where what was typed is no method and path.

    """
    target = _TARGET.fullmatch(" ".join(arguments.target))
    if target is None:
        msg = "Give a method and a path, such as POST /uploads."
        raise WrongUseError(msg)
    name, path = (target["method"] or "GET").upper(), unquote(target["path"])
    scope = asking(service, name, path, target["host"] or "")
    context = route_of(scope)
    if context is None:
        text = f"No route takes {name} {path}: the settings of the service hold."
        if setting := setting_of(policies.settings, path):
            where = f"{path} is {setting}, where a layer responds."
            text = f"{where} Only the layers outside it hold there."
        print(text, file=sys.stderr)
        return 1
    found = _held(policies, scope, context)
    mounted: list[dict[str, Any]] = [
        {"at": place, **_held(inner, there, taken)}
        for place, app, there, taken in mounted_for(scope, context)
        if (inner := policies_of(app))
    ]
    if arguments.json:
        print(json.dumps({**found, "mounted": mounted}, indent=2))
    else:
        lines = [found["route"], *_lines(found["holds"])]
        for each in mounted:
            lines += ["", f"Inside of these are the layers of the app mounted at {each['at']}:"]
            lines += [each["route"] or "No route takes it: the settings of that app hold."]
            lines += _lines(each["holds"])
        print("\n".join([*lines, _LEGEND]))
    return 0


def _held(policies: Policies, scope: Scope, context: RouteContext | None) -> dict[str, Any]:
    """Return a route, and what the layers of its app hold there."""
    if context is None:
        return {"route": None, "methods": [], "holds": []}
    methods = sorted(methods_of(context) or ())
    rows = policies.explain(scope, context)
    return {"route": template_of(context), "methods": methods, "holds": rows}


def show_openapi(service: Starlette, policies: Policies) -> int:
    """Print the document as it is served: `app.openapi()` knows of no layers."""
    if not isinstance(service, FastAPI):
        return 1
    narrow_openapi(service, policies)
    print(json.dumps(service.openapi(), indent=2))
    return 0


def summary(policies: Policies | None) -> list[str]:
    """Return a line for each entry of the table."""
    rules = policies.rules if policies else []
    return [
        f"{rule.name}  " + ", ".join(f"{key}={value!r}" for key, value in rule.policy.items())
        for rule in rules
    ]


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    shown = [(row["name"], row["from"], json.dumps(row["value"])) for row in rows]
    widths = [max((len(row[column]) for row in shown), default=0) for column in (0, 1)]
    return [f"  {name:{widths[0]}}  {source:{widths[1]}}  {value}" for name, source, value in shown]
