"""The command line of `python -m app.middleware`."""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from typing import Any, Final, NoReturn

from starlette.types import ASGIApp

from app.middleware.order import LAYERS, dotted_name, layer_of, observer_of

from .check import faults, live_stack, policies_of, service_of
from .explain.command import explain_request
from .explain.request import WrongUseError, add_arguments
from .policies_command import add_route_arguments, show_openapi, show_route, summary

# As argparse ends for what it finds wrong itself.
_WRONG_USE: Final = 2


def run(commands: Mapping[str, Callable[[str], str]]) -> NoReturn:
    """Be the command, and end the process with its status."""
    if hasattr(signal, "SIGPIPE"):
        # `| head` ends the command, as it does any other.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    raise SystemExit(main(commands))


def main(commands: Mapping[str, Callable[[str], str]]) -> int:
    """
    Print the live stack, outermost first, or what one of `commands` returns for its argument.

    Returns:
        The exit status: 2 where what was typed is wrong, else 1 where the service doesn't start,
        whatever was asked.

    """
    parser = argparse.ArgumentParser(
        prog="python -m app.middleware",
        description="Print the stack of this service as it runs, outermost first.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=None)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    help_text = "Show what each layer does with a request."
    add_arguments(subparsers.add_parser("explain", help=help_text))
    help_text = "Show what holds for a route, and where each value comes from."
    add_route_arguments(subparsers.add_parser("route", help=help_text))
    subparsers.add_parser("openapi", help="Print the OpenAPI document, as the service sends it.")
    for name, command in commands.items():
        subparser = subparsers.add_parser(name, help=command.__doc__)
        subparser.add_argument("argument", metavar="NAME")
    arguments = parser.parse_args()
    if arguments.command in commands:
        print(commands[arguments.command](arguments.argument))
        return 0

    # What your code prints or logs meanwhile is no part of what was asked for.
    with redirect_stdout(sys.stderr):
        # Only here, since it needs the settings of the service.
        from app.main import app  # noqa: PLC0415

        # The process that a comparison starts shows another stack, the first says what is wrong.
        found = [] if getattr(arguments, "changed_only", False) else faults(app)
    try:
        status = _show(app, arguments)
    except WrongUseError as error:
        print(error, file=sys.stderr)
        return _WRONG_USE
    for fault in found:
        print(fault, file=sys.stderr)
    return status or int(bool(found))


def _show(app: ASGIApp, arguments: argparse.Namespace) -> int:
    if arguments.command is None:
        print(_as_json(app) if arguments.json else _as_text(app))
        return 0
    service, policies = service_of(app), policies_of(app)
    if service is None or policies is None:
        return 1  # a fault, which is printed with the others
    live_stack(service)  # built, since the layers say what they do nothing for
    if arguments.command == "route":
        return show_route(service, policies, arguments)
    if arguments.command == "openapi":
        return show_openapi(service, policies)
    return explain_request(service, policies, arguments)


def _as_json(app: ASGIApp) -> str:
    rows: list[dict[str, Any]] = [{**_row(cls)} for cls in live_stack(app)]
    policies = policies_of(app)
    rules = policies.rules if policies else []
    for row in rows:
        row["routes"] = [rule.name for rule in rules if row["layer"] in rule.changes]
    return json.dumps(rows, indent=2)


def _as_text(app: ASGIApp) -> str:
    rows = [_row(cls) for cls in live_stack(app)]
    width = max(len(row["layer"] or "") for row in rows)
    lines = [f"{row['layer'] or '-':{width}}  {row['reason'] or row['class']}" for row in rows]
    return "\n".join(lines + summary(policies_of(app)))


def _row(cls: type) -> dict[str, str | None]:
    layer = layer_of(cls)
    reason = LAYERS[layer].because if layer else None
    if observer := observer_of(cls):
        reason = f"{dotted_name(cls)} (observes for {observer.name})"
    return {"layer": layer, "class": dotted_name(cls), "reason": reason}
