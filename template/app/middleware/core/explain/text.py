"""The text that a person reads, as wide as the terminal."""

from collections.abc import Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import Final, Literal

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .analysis import EXCEPTIONS, OUTER, ROUTES
from .facts import Change, Explanation, Fault, Outcome, Received, Step

_FIRST_LINES: Final = 10
_FIRST_CHARACTERS: Final = 800
_MOST_RULES: Final = 3
_SWITCHING_PROTOCOLS: Final = 101
_HANGING: Final = 6
_QUIET: Final = "dim"
_FRAMEWORK: Final = {
    OUTER: "Starlette's outermost layer",
    EXCEPTIONS: "Starlette's exception handlers",
    ROUTES: "the routes",
}


def print_explanation(
    explanation: Explanation, console: Console, *, whole_body: bool = False
) -> None:
    """Print the request, what came of it, the way in, the way out and the response."""
    _print_request(explanation, console)
    heading(console, "Result")
    who = _who(explanation.responded_by)
    console.print(Text.assemble(_status(explanation.response), f" from {who}" if who else ""))
    table = _table()
    for label, text in _findings(explanation):
        table.add_row(Text(label, style="bold"), printable(text))
    console.print(table)
    heading(console, "Way in, outermost layer first (+ added, ~ changed, - removed)")
    console.print(_way_in(explanation))
    heading(console, "Way out, innermost layer first, with the time that each layer takes itself")
    console.print(_way_out(explanation))
    heading(console, "Response, as the client gets it")
    _print_response(explanation.response, console, whole_body=whole_body)


def status_text(status: int | None, phrase: str) -> Text:
    """Return a status with its phrase, coloured by its class."""
    if status is None:
        return Text("no response", style="bold red")
    style = {4: "bold yellow", 5: "bold red"}.get(status // 100, "bold green")
    return Text(f"{status} {phrase}", style=style)


def change_text(change: Change) -> Text:
    """Return a change with its mark."""
    name = printable(change.name)
    if change.before is None:
        return Text.assemble(("+ ", "green"), f"{name}: {printable(change.after or '')}")
    if change.after is None:
        return Text.assemble(("- ", "red"), f"{name}: {printable(change.before)}")
    return Text.assemble(
        ("~ ", "yellow"), f"{name}: {printable(change.before)} → {printable(change.after)}"
    )


def printable(text: str) -> str:
    """Show control characters as escapes: no value may drive the terminal."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def heading(console: Console, text: str) -> None:
    """Print the heading of a part."""
    console.print()
    console.print(Text(text, style="bold underline"))


def print_hanging(console: Console, text: Text) -> None:
    """Print a text that may take several lines, so that its first is told from the others."""
    for number, line in enumerate(text.wrap(console, console.width - _HANGING, overflow="fold")):
        console.print(Padding(line, (0, 0, 0, _HANGING if number else 2)))


def _print_request(explanation: Explanation, console: Console) -> None:
    request = explanation.request
    head = Text(printable(f"{request.method} {request.url}"), style="bold")
    console.print(Text.assemble(head, f" from {request.client}"))
    _print_pairs(console, request.headers)


def _who(name: str | None) -> str:
    return "" if name is None else _FRAMEWORK.get(name, f"the layer {name}")


def _findings(explanation: Explanation) -> Iterator[tuple[str, str]]:
    yield from _order(explanation.broken_rules)
    if explanation.says:
        yield "Says", f'"{explanation.says}"'
    if refusal := explanation.refusal:
        for number, (name, value) in enumerate(refusal.settings):
            yield "" if number else "Decided by", f"{name}={value}" if value else f"{name} (empty)"
    fault = explanation.fault
    # Starlette raises one where no route matches, which the next line says better.
    if fault and (fault.error, fault.handled_by) != ("HTTPException", EXCEPTIONS):
        yield "Exception", f"{fault.error}: {fault.message}"
        if fault.where:
            yield "", f"raised at {fault.where}"
        yield "", _handled(fault, explanation.response)
    if explanation.cut_off:
        yield "Cut off", "The client went away before the response ended, after --max-time."
    yield from (("Turned", text) for text in _turned(explanation))
    yield from _route(explanation)
    if never := [name for name in explanation.never_reached if name != EXCEPTIONS]:
        yield "Not reached", f"{', '.join(never)}: they checked, counted and changed nothing."
    if explanation.browser:
        yield "Browser", explanation.browser


def _turned(explanation: Explanation) -> Iterator[str]:
    """Yield which layers replaced a response by another."""
    for step in reversed(explanation.steps):
        before, after = step.from_inside.status, step.to_outside.status
        if before and after and before != after and not step.responded:
            yield f"{before} into {after} by {step.name}"


def _order(rules: Sequence[str]) -> Iterator[tuple[str, str]]:
    if rules:
        yield "Wrong order", "The service refuses to start like this:"
    for rule in rules[:_MOST_RULES]:
        yield "", f"{rule}."
    if len(rules) > _MOST_RULES:
        yield "", f"And {len(rules) - _MOST_RULES} more; `python -m app.middleware` lists them."


def _route(explanation: Explanation) -> Iterator[tuple[str, str]]:
    if route := explanation.route:
        yield "Route", f"{route.path} → {route.endpoint} ({route.where})"
        for name, value in route.settings:
            yield "", f"{name}={value} has this path"
    elif ROUTES not in explanation.never_reached:
        yield "Route", "none has this method and path"


def _handled(fault: Fault, response: Received) -> str:
    if fault.handled_by is None:
        return "no layer handled it: the server logs it and closes the connection"
    by = _FRAMEWORK.get(fault.handled_by, fault.handled_by)
    result = f"into {response.status} {response.phrase}" if response.status else "into no response"
    return f"{by} turned it {result}"


def _way_in(explanation: Explanation) -> Table:
    table = _table(no_wrap=True)
    reached = [step for step in explanation.steps if step.reached]
    for step in _listed(reached):
        _add_rows(table, step.name, _arrival(step, explanation, ends=step is reached[-1]))
    return table


def _arrival(step: Step, explanation: Explanation, *, ends: bool) -> Iterator[Text]:
    if step.responded and ends:
        word = "refuses" if explanation.refusal else "responds"
        yield Text(word, style="yellow" if explanation.refusal else "green")
    elif step.name == ROUTES:
        yield Text("reached")
    yield from map(change_text, step.request)
    typed = explanation.request.typed
    read = [f"{name}: {value}" for name, value in step.read if step.responded or name in typed]
    if step.responded or step.request or step.name == ROUTES:
        yield from (Text(f"read {pair}", style=_QUIET) for pair in read)
    else:
        yield Text(", read ".join(["unchanged", *read]), style=_QUIET)


def _way_out(explanation: Explanation) -> Table:
    table = _table(no_wrap=True)
    table.add_column(no_wrap=True, justify="right", style=_QUIET)
    for step in reversed(list(_listed(explanation.steps))):
        if step.reached:
            lines = _departure(step, explanation.response)
            _add_rows(table, step.name, lines, f"{step.seconds * 1000:.2f} ms")
    return table


def _departure(step: Step, response: Received) -> Iterator[Text]:
    lines = [*_outcome(step, response), *map(change_text, step.headers)]
    yield from lines
    if not lines:
        nothing = step.to_outside == Outcome()
        yield Text("no response" if nothing else "unchanged", style=_QUIET)


def _outcome(step: Step, response: Received) -> Iterator[Text]:
    before, after = step.from_inside, step.to_outside
    if step.responded and after.status:
        is_final = after.status == response.status
        phrase = response.phrase if is_final else HTTPStatus(after.status).phrase
        size = f", {_size(step.bytes_out)}" if step.bytes_out else ""
        yield Text.assemble(status_text(after.status, phrase), size)
    elif before.status != after.status and before.status and after.status:
        yield Text(f"status {before.status} → {after.status}", style="yellow")
    if before.error and not after.error:
        what = "cancelled what is inside" if _is_cancelled(before) else f"caught {before.error}"
        yield Text(what, style="yellow")
    elif after.error:
        passes = after.error == before.error
        what = f"{'passes' if passes else 'raised'} {after.error}{' on' if passes else ''}"
        style = _QUIET if passes else "red"
        yield Text("was cancelled" if _is_cancelled(after) else what, style=style)
    if step.resized:
        yield Text(f"body {step.bytes_from_inside:,} → {_size(step.bytes_out)}")


def _status(response: Received) -> Text:
    return status_text(response.status, response.phrase)


def _is_cancelled(outcome: Outcome) -> bool:
    return outcome.error == "CancelledError"


def _print_response(response: Received, console: Console, *, whole_body: bool) -> None:
    version = Text("" if response.status is None else "HTTP/1.1 ")
    console.print(Text.assemble(version, _status(response)))
    _print_pairs(console, response.headers)
    if response.close_code is not None:
        console.print(f"closed with {response.close_code}")
    if response.body:
        console.print()
        _print_body(response.body, console, whole=whole_body)
    parts = f" in {response.chunks} parts" if response.chunks > 1 else ""
    if response.size and not response.body:
        console.print(f"\n({_size(response.size)}{parts}, compressed)", style=_QUIET)
    elif parts:
        console.print(f"({_size(response.size)}{parts})", style=_QUIET)


def _print_body(body: str, console: Console, *, whole: bool) -> None:
    lines = body.splitlines()
    shown = body if whole else "\n".join(lines[:_FIRST_LINES])[:_FIRST_CHARACTERS]
    for line in shown.splitlines():
        console.print(Text(printable(line)), overflow="fold")
    if len(shown.splitlines()) < len(lines) or len(shown) < len(body.rstrip("\n")):
        console.print("… (-i prints all of it)", style=_QUIET)


def _print_pairs(console: Console, pairs: Iterable[tuple[str, str]]) -> None:
    for name, value in pairs:
        pair = Text.assemble((f"{printable(name)}: ", _QUIET), printable(value))
        print_hanging(console, pair)


def _table(*, no_wrap: bool = False) -> Table:
    table = Table.grid(padding=(0, 2), pad_edge=True, expand=True)
    table.add_column(no_wrap=True)
    overflow: Literal["ellipsis", "fold"] = "ellipsis" if no_wrap else "fold"
    table.add_column(ratio=1, no_wrap=no_wrap, overflow=overflow)
    return table


def _add_rows(table: Table, name: str, lines: Iterable[Text], *last: str) -> None:
    """Add the lines of a layer; the first has its name."""
    for number, line in enumerate(lines):
        label = Text(name, style=_QUIET if line.style == _QUIET else "bold")
        if number:
            table.add_row("", line)
        else:
            table.add_row(label, line, *last)


def _listed(steps: Iterable[Step]) -> Iterator[Step]:
    """Leave out what the framework did not do."""
    for step in steps:
        if step.name not in {OUTER, EXCEPTIONS} or not step.quiet:
            yield step


def _size(number: int) -> str:
    return "1 byte" if number == 1 else f"{number:,} bytes"
