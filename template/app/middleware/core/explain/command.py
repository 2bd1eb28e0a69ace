"""The sub-command: its options, and what it prints."""

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import BytesIO, TextIOWrapper

from rich.console import Console
from starlette.applications import Starlette
from starlette.middleware import Middleware

from app.middleware.core.check import broken_rules
from app.middleware.core.policies import Policies
from app.middleware.order import LAYERS, Rule

from .analysis import explain
from .comparison import differences, header_changes, print_comparison
from .diagram import diagram
from .facts import Explanation
from .masking import Masker, shown
from .request import Request, WrongUseError, read_request
from .run import CannotStartError, declared_stack, names_of, run
from .text import print_explanation


def explain_request(service: Starlette, policies: Policies, arguments: argparse.Namespace) -> int:
    """
    Send the request through `service` and print what each layer did.

    Returns:
        The exit status: 1 where the service doesn't start.

    Raises:
        WrongUseError: where what was typed is wrong.

    """
    swaps = arguments.swap is not None
    moved = arguments.swap or [name for name in [arguments.without] if name is not None]
    try:
        request = read_request(arguments)
        stack = declared_stack(service)
        changed = changed_stack(stack, moved, swaps=swaps) if moved else None
        if changed is None or arguments.changed_only:
            stack = stack if changed is None else changed
            _print(_explanation(service, policies, stack, request, arguments), arguments)
        else:
            declared = _explanation(service, policies, stack, request, arguments)
            _print_both(declared, _other(), moved, _reasons(changed, moved), arguments)
    except CannotStartError as error:
        print(f"The service doesn't start: {error}", file=sys.stderr)
        return 1
    return 0


def changed_stack(
    stack: Sequence[Middleware], moved: Sequence[str], *, swaps: bool
) -> list[Middleware]:
    """
    Return the stack with the two layers of `moved` swapped, else without the one.

    Raises:
        WrongUseError: where a layer isn't there; the sentence names those that are.

    """
    names = names_of(stack)
    for name in moved:
        if name not in names:
            msg = f"This service has no layer {name!r}. It has {', '.join(names)}."
            raise WrongUseError(msg)
    changed = list(stack)
    if not swaps:
        changed.pop(names.index(moved[0]))
        return changed
    first, second = map(names.index, moved)
    if first == second:
        msg = "--swap takes two different layers."
        raise WrongUseError(msg)
    changed[first], changed[second] = changed[second], changed[first]
    return changed


def _explanation(
    app: Starlette,
    policies: Policies,
    stack: Sequence[Middleware],
    request: Request,
    arguments: argparse.Namespace,
) -> Explanation:
    settings = policies.settings
    items = [str(item) for _, value in settings if isinstance(value, tuple) for item in value]
    # By a header that a setting demands, a gateway may prove itself.
    demanded = [item.partition(": ")[0] for item in items if ": " in item]
    names = [shown(getattr(settings, "api_key_header", "")), *demanded]
    masker = Masker(request.headers, settings, names=names, show=arguments.show_secrets)
    with _quiet(arguments.logs):
        record = asyncio.run(
            run(app, stack, request, repeat=arguments.repeat, max_time=arguments.max_time)
        )
    return explain(record, policies, masker)


@contextmanager
def _quiet(logs: bool) -> Generator[None]:  # noqa: FBT001
    """Keep what the service prints and logs out of the explanation."""
    kept = TextIOWrapper(BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)
    try:
        with redirect_stdout(kept), redirect_stderr(kept):
            yield
    finally:
        if logs:
            kept.seek(0)
            sys.stderr.write(kept.read())


def _other() -> Explanation:
    """Run the changed order in a process of its own."""
    done = subprocess.run(  # noqa: S603 - this program again, as it was called
        [sys.executable, *sys.orig_argv[1:], "--changed-only"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise CannotStartError(done.stderr.decode(errors="backslashreplace").strip())
    return Explanation.model_validate_json(done.stdout)


def _print(explanation: Explanation, arguments: argparse.Namespace) -> None:
    # The other process, of which the one that compares reads the facts, has its other options too.
    if arguments.json or arguments.changed_only:
        _write(explanation.model_dump_json(indent=2))
    elif arguments.mermaid:
        _write(diagram(explanation))
    else:
        with _page() as console:
            print_explanation(explanation, console, whole_body=arguments.include)


def _print_both(
    declared: Explanation,
    changed: Explanation,
    moved: list[str],
    reasons: list[str],
    arguments: argparse.Namespace,
) -> None:
    if arguments.json:
        both = {
            "declared": declared.model_dump(mode="json"),
            "changed": changed.model_dump(mode="json"),
            "differences": [row._asdict() for row in differences(declared, changed, moved)],
            "headers": [row.model_dump() for row in header_changes(declared, changed)],
            "reasons": reasons,
        }
        _write(json.dumps(both, indent=2))
    elif arguments.mermaid:
        _write(f"{diagram(declared)}\n\n{diagram(changed)}")
    else:
        with _page() as console:
            print_comparison(declared, changed, console, moved=moved, reasons=reasons)


@contextmanager
def _page() -> Generator[Console]:
    """Print what is printed on the console, without the blanks that fill its lines."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    console = Console(highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        yield console
    _write("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _write(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # As by `| head`. Python would complain when it flushes what is left at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _reasons(changed: Sequence[Middleware], moved: Sequence[str]) -> list[str]:
    """Return the reasons for the layers' places; a rule between the two comes first."""
    if len(moved) == 1:
        layer = LAYERS.get(moved[0])
        return [f"{moved[0]}: {layer.because}"] if layer else []
    broken = broken_rules(names_of(changed))
    rules = sorted(broken, key=lambda rule: {rule.outside, rule.inside} != set(moved))
    # Many rules can have one reason; only the first is shown.
    reasons: dict[str, Rule] = {}
    for rule in rules:
        reasons.setdefault(rule.because, rule)
    return [
        f"{rule.outside} runs outside {rule.inside}: {because}."
        for because, rule in reasons.items()
    ]
