"""The text that a person reads, as wide as the terminal."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final, Literal

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from app.middleware.problem import phrase

from .analysis import EXCEPTIONS, OUTER, ROUTES
from .facts import Change, Explanation, Fault, Outcome, Received, Refusal, Step

_FIRST_LINES: Final = 10
_FIRST_CHARACTERS: Final = 800
_MOST_RULES: Final = 3
_HANGING: Final = 6
_FEW: Final = 3
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
    if inner := explanation.refused_inside:
        who = f"the layer {inner} inside {who}"
    console.print(
        Text.assemble(status_text(explanation.response.status), f" from {who}" if who else "")
    )
    table = _table()
    for label, text in _findings(explanation):
        table.add_row(Text(label, style="bold"), printable(text))
    console.print(table)
    heading(console, "Way in, outermost layer first (+ added, ~ changed, - removed)")
    reached = [step for step in explanation.steps if step.reached]
    console.print(_way(reached, lambda step: _arrival(step, explanation, ends=step is reached[-1])))
    heading(console, "Way out, innermost layer first, with the time spent in each layer itself")
    console.print(_way(reversed(reached), _departure, timed=True))
    heading(console, "Response, as the client gets it")
    _print_response(explanation.response, console, whole_body=whole_body)


def status_text(status: int | None) -> Text:
    """Return a status with its phrase, coloured by its class."""
    if status is None:
        return Text("no response", style="bold red")
    style = {4: "bold yellow", 5: "bold red"}.get(status // 100, "bold green")
    return Text(f"{status} {phrase(status)}", style=style)


def change_text(change: Change) -> Text:
    """Return a change with its mark; of a list that grew, what was added."""
    name, before, after = printable(change.name), change.before, change.after
    if after is None:
        return Text.assemble(("- ", "red"), f"{name}: {printable(before or '')}")
    added = after if before is None else _added(before, after)
    if added is None:
        return Text.assemble(
            ("~ ", "yellow"), f"{name}: {printable(before or '')} → {printable(after)}"
        )
    return Text.assemble(("+ ", "green"), f"{name}: {printable(added)}")


def _added(before: str, after: str) -> str | None:
    """Return the items that a list got at one of its ends (RFC 9110, 5.3), None without any."""
    if after.startswith(f"{before}, "):
        return after.removeprefix(f"{before}, ")
    return after.removesuffix(f", {before}") if after.endswith(f", {before}") else None


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
    """Print a text that may have several lines, with the further ones indented."""
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
    yield from _labelled("Wrong order", _order(explanation.broken_rules))
    if explanation.says:
        yield "Detail", f'"{explanation.says}"'
    if refusal := explanation.refusal:
        yield from _labelled("Decided by", _deciding(refusal))
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
    yield from _labelled("Route", _route(explanation))
    if never := span(explanation.never_reached):
        yield "Not reached", f"{never}: nothing was checked, counted or changed there."
    if explanation.browser:
        yield "Browser", explanation.browser


def _turned(explanation: Explanation) -> Iterator[str]:
    """Yield which layers replaced a response by another."""
    for step in reversed(explanation.steps):
        before, after = step.from_inside.status, step.to_outside.status
        if before and after and before != after and not step.responded:
            yield f"{before} into {after} by {step.name}"


def _order(rules: Sequence[str]) -> Iterator[str]:
    if rules:
        yield "The service refuses to start like this:"
    yield from (f"{rule}." for rule in rules[:_MOST_RULES])
    if len(rules) > _MOST_RULES:
        yield f"And {len(rules) - _MOST_RULES} more; `python -m app.middleware` lists them."


def _labelled(label: str, lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines):
        yield "" if number else label, line


def _deciding(refusal: Refusal) -> Iterator[str]:
    """Yield the first setting of the layer, and the others that somebody has set."""
    for number, setting in enumerate(refusal.settings):
        if setting.source != "default" or not number:
            source = "" if setting.source == setting.name else f" ({setting.source})"
            yield f"{setting.name}={setting.value or '(empty)'}{source}"


def _route(explanation: Explanation) -> Iterator[str]:
    if route := explanation.route:
        yield f"{route.path} → {route.endpoint}{route.where and f' ({route.where})'}"
        yield from (f"{name}={value} has this path" for name, value in route.settings)
        for setting in route.policy:
            if setting.own:
                yield f"{setting.name}={setting.value} ({setting.source})"
        for place in route.mounted:
            yield f"the app mounted at {place} has layers of its own, which aren't shown"
    elif ROUTES not in explanation.never_reached:
        yield "none has this method and path"


def span(names: Sequence[str]) -> str:
    """Return what neighbouring layers are called together, the routes last."""
    layers = [name for name in names if name not in _FRAMEWORK]
    count = f"{len(layers)} layers, " if len(layers) > _FEW else ""
    parts = [f"{count}{_between(layers)}"] if layers else []
    return ", and ".join(parts + ["the routes"] * (ROUTES in names))


def _handled(fault: Fault, response: Received) -> str:
    if fault.handled_by is None:
        return "no layer handled it: the server logs it and closes the connection"
    by = _FRAMEWORK.get(fault.handled_by, fault.handled_by)
    result = f"into {response.status} {response.phrase}" if response.status else "into no response"
    return f"{by} turned it {result}"


def _arrival(step: Step, explanation: Explanation, *, ends: bool) -> Iterator[Text]:
    if step.responded and ends:
        word = "rejects" if explanation.refusal else "responds"
        yield Text(word, style="yellow" if explanation.refusal else "green")
    elif step.name == ROUTES:
        yield Text("reached")
    yield from map(change_text, step.request)
    typed = explanation.request.typed
    read = [f"{name}: {value}" for name, value in step.read if step.responded or name in typed]
    yield from (Text(f"read {pair}", style=_QUIET) for pair in read)


def _departure(step: Step) -> Iterator[Text]:
    yield from _outcome(step)
    yield from map(change_text, step.headers)
    if step.to_outside == Outcome():
        yield Text("no response", style=_QUIET)


def _outcome(step: Step) -> Iterator[Text]:
    before, after = step.from_inside, step.to_outside
    if step.responded and after.status:
        size = f", {_size(step.bytes_out)}" if step.bytes_out else ""
        yield Text.assemble(status_text(after.status), size)
    elif before.status != after.status and before.status and after.status:
        yield Text(f"status {before.status} → {after.status}", style="yellow")
    if before.error and not after.error:
        what = "cancelled what is inside" if _is_cancelled(before) else f"caught {before.error}"
        yield Text(what, style="yellow")
    elif after.error:
        passes = after.error == before.error
        what = f"{after.error} passes" if passes else f"raised {after.error}"
        style = _QUIET if passes else "red"
        yield Text("was cancelled" if _is_cancelled(after) else what, style=style)
    if step.resized:
        yield Text(f"body {step.bytes_from_inside:,} → {_size(step.bytes_out)}")


def _is_cancelled(outcome: Outcome) -> bool:
    return outcome.error == "CancelledError"


def _print_response(response: Received, console: Console, *, whole_body: bool) -> None:
    version = Text("" if response.status is None else "HTTP/1.1 ")
    console.print(Text.assemble(version, status_text(response.status)))
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


def _way(
    steps: Iterable[Step], lines_of: Callable[[Step], Iterator[Text]], *, timed: bool = False
) -> Table:
    """Return the lines of each layer; neighbours with the same to say share one."""
    table = _table(no_wrap=True)
    if timed:
        table.add_column(no_wrap=True, justify="right", style=_QUIET)
    listed = [step for step in steps if step.name not in {OUTER, EXCEPTIONS} or not step.quiet]
    for shared, group in groupby(((step, [*lines_of(step)]) for step in listed), _shared):
        found = [*group]
        label, lines = found[0][0].name, found[0][1] or [Text("unchanged", style=_QUIET)]
        if len(found) > 1:
            label = f"{len(found)} layers"
            names = _between([step.name for step, _ in found])
            lines = [Text(f"{shared}: {names}", style=_QUIET)]
        style = _QUIET if lines[0].style == _QUIET else "bold"
        seconds = sum(step.seconds for step, _ in found)
        table.add_row(Text(label, style=style), lines[0], f"{seconds * 1000:.2f} ms" * timed)
        for line in lines[1:]:
            table.add_row("", line)
    return table


def _shared(row: tuple[Step, list[Text]]) -> str:
    """Return what a layer may have in common with its neighbours, else its own name."""
    step, lines = row
    if not lines:
        return "unchanged"
    quiet = len(lines) == 1 and lines[0].style == _QUIET and not lines[0].plain.startswith("read ")
    return lines[0].plain if quiet else step.name


def _between(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= _FEW else f"{names[0]} to {names[-1]}"


def _size(number: int) -> str:
    return "1 byte" if number == 1 else f"{number:,} bytes"
