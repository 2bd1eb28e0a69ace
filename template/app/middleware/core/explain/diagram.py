"""The way of a request as a Mermaid sequence diagram, for a bug report."""

from collections.abc import Iterator

from .analysis import EXCEPTIONS, OUTER, ROUTES
from .facts import Change, Explanation, Step

_ESCAPES = str.maketrans({"#": "#35;", ";": "#59;", "\n": " ", "\r": " "})
_LONGEST = 60


def diagram(explanation: Explanation) -> str:
    """Return the diagram; layers that passed everything on are left out."""
    return "\n".join(["sequenceDiagram", *(f"    {line}" for line in _lines(explanation))])


def _lines(explanation: Explanation) -> Iterator[str]:
    taken = [step for step in explanation.steps if step.reached and _matters(step)]
    names = ["client", *(step.name for step in taken)]
    yield from (f"participant {name}" for name in names)
    request, response = explanation.request, explanation.response
    message = f"{request.method} {request.url}"
    for outside, step in zip(names, taken, strict=False):
        yield f"{outside}->>{step.name}: {_text(message)}"
        changes = [_change(change) for change in step.request]
        message = ", ".join(changes) or "request"
    for step, outside in zip(reversed(taken), reversed(names[:-1]), strict=True):
        if step.to_outside.error:
            yield f"{step.name}--x{outside}: {_text(step.to_outside.error)}"
            continue
        if step.to_outside.status is None:
            continue
        status = str(step.to_outside.status)
        if step.responded and explanation.says:
            yield f"Note over {step.name}: {_text(explanation.says)}"
        changes = [_change(change) for change in step.headers] if not step.responded else []
        yield f"{step.name}-->>{outside}: {_text(' '.join([status, *changes]))}"
    if response.status is None:
        yield "Note over client: no response"
    if never := [name for name in explanation.never_reached if name != EXCEPTIONS]:
        yield f"Note over {names[-1]}: not reached: {', '.join(never)}"


def _matters(step: Step) -> bool:
    return step.name == ROUTES or (not step.quiet and (step.name != OUTER or step.responded))


def _change(change: Change) -> str:
    mark = "+" if change.before is None else "-" if change.after is None else "~"
    return f"{mark}{change.name}"


def _text(text: str) -> str:
    shown = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return shown.translate(_ESCAPES)
