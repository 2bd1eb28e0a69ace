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
from starlette.applications import Starlette

from .openapi import narrow_openapi
from .policies import Policies, asking, methods_of, setting_of
from .routes import route_of, template_of

_WRONG_USE: Final = 2
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
    """Print what holds for the route that takes a request; the exit status is 1 without one."""
    target = _TARGET.fullmatch(" ".join(arguments.target))
    if target is None:
        print("Give a method and a path, such as POST /uploads.", file=sys.stderr)
        return _WRONG_USE
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
    rows = policies.explain(scope, context)
    if arguments.json:
        methods = sorted(methods_of(context) or ())
        found = {"route": template_of(context), "methods": methods, "holds": rows}
        print(json.dumps(found, indent=2))
    else:
        print("\n".join([template_of(context), *_lines(rows), _LEGEND]))
    return 0


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
