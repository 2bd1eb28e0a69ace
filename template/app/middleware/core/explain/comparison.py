"""The same request in two orders, side by side."""

import re
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .analysis import EXCEPTIONS, OUTER
from .facts import Change, Explanation, Outcome, Step
from .text import change_text, heading, print_hanging, printable, span, status_text

# Identifiers, tags and durations are new in each run.
_RANDOM: Final = re.compile(r"[0-9a-f]{16,}|(?<![\d.])\d+\.\d{3,}(?![\d.])")
_FOLLOWS_FROM_THE_BODY: Final = frozenset({"content-length", "etag"})
_MOST_REASONS: Final = 3
_NONE: Final = "-"


class Difference(NamedTuple):
    """What is not the same in both runs."""

    label: str
    declared: str
    changed: str


def differences(
    declared: Explanation, changed: Explanation, moved: Collection[str]
) -> list[Difference]:
    """Return what differs, but for identifiers and durations; `moved` are the layers to look at."""
    rows = [*_results(declared, changed), *_layers(declared, changed, moved)]
    return [row for row in rows if not _same(row.declared, row.changed)]


def header_changes(declared: Explanation, changed: Explanation) -> list[Change]:
    """Return how the headers of the response change."""
    left, right = dict(declared.response.headers), dict(changed.response.headers)
    names = dict.fromkeys((*left, *right))
    return [
        Change(name=name, before=left.get(name), after=right.get(name))
        for name in names
        if name not in _FOLLOWS_FROM_THE_BODY and not _same(left.get(name, ""), right.get(name, ""))
    ]


def print_comparison(
    declared: Explanation,
    changed: Explanation,
    console: Console,
    *,
    moved: Collection[str],
    reasons: list[str],
) -> None:
    """Print both results and what differs, then the reasons for the declared order."""
    request = f"{declared.request.method} {declared.request.url}"
    console.print(Text(printable(request), style="bold"))
    console.print()
    title = f"{' and '.join(moved)} swapped" if len(moved) > 1 else f"without {', '.join(moved)}"
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=True, expand=True)
    table.add_column("", style="bold", max_width=18)
    table.add_column("as declared", ratio=1, overflow="fold")
    table.add_column(title, ratio=1, overflow="fold")
    responses = (declared.response, changed.response)
    table.add_row("Result", *(status_text(item.status) for item in responses))
    rows = differences(declared, changed, moved)
    for label, left, right in rows:
        table.add_row(label, printable(left) or _NONE, printable(right) or _NONE)
    console.print(table)
    headers = header_changes(declared, changed)
    if headers:
        heading(console, "Headers of the response (+ added, ~ changed, - missing)")
        for change in headers:
            print_hanging(console, change_text(change))
    if not (rows or headers or declared.response.status != changed.response.status):
        console.print("Both runs are the same for this request.")
    if reasons:
        heading(console, "Why the declared order")
        for reason in reasons[:_MOST_REASONS]:
            console.print(Padding(Text(reason), (0, 0, 0, 2)))
        if more := len(reasons[_MOST_REASONS:]):
            console.print(Padding(f"And {more} more.", (0, 0, 0, 2)))


def _results(declared: Explanation, changed: Explanation) -> Iterator[Difference]:
    both = (declared, changed)
    yield Difference("Response by", *(item.responded_by or "" for item in both))
    yield Difference("Detail", *(item.says or "" for item in both))
    faults = (item.fault for item in both)
    yield Difference(
        "Exception", *(f"{item.error}: {item.message}" if item else "" for item in faults)
    )
    yield Difference("Browser", *(item.browser or "" for item in both))
    missed = [item.never_reached for item in both]
    yield Difference(
        "Not reached",
        span([name for name in missed[0] if name not in missed[1]]),
        span([name for name in missed[1] if name not in missed[0]]),
    )


def _layers(
    declared: Explanation, changed: Explanation, moved: Collection[str]
) -> Iterator[Difference]:
    """Yield what the layers get from both sides; those with the same difference share a row."""
    others = {step.name: step for step in changed.steps if step.reached}
    results = (_outcome(declared), _outcome(changed))
    rows: dict[tuple[str, str, bool], list[str]] = {}
    for step in declared.steps:
        other = others.get(step.name)
        if step.reached and other is not None and step.name not in {OUTER, EXCEPTIONS}:
            left, right = _gets(step), _gets(other)
            for name in dict.fromkeys((*left, *right)):
                pair = (left.get(name, f"no {name}"), right.get(name, f"no {name}"))
                if not _same(*pair) and pair != results:
                    rows.setdefault((*pair, step.name in moved), []).append(step.name)
    for (left_text, right_text, _), names in sorted(rows.items(), key=lambda row: not row[0][2]):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield Difference(names[0] + more, left_text, right_text)


def _gets(step: Step) -> dict[str, str]:
    gets = {name: f"{name}: {value}" for name, value in step.arrived}
    if not step.responded:
        gets["response"] = _described(step.from_inside)
    return gets


def _outcome(explanation: Explanation) -> str:
    return _described(explanation.steps[0].to_outside)


def _described(outcome: Outcome) -> str:
    return f"{outcome.error} raised" if outcome.error else f"response: {outcome.status or 'none'}"


def _same(left: str, right: str) -> bool:
    return _RANDOM.sub("…", left) == _RANDOM.sub("…", right)
