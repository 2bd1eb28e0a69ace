"""What came of a run: who turned an exception into a response, and whether a page can read it."""

import traceback
from asyncio import CancelledError
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from .facts import Fault
from .masking import Masker
from .recorder import Passage

_HERE: Final = Path(__file__).parent
_REDIRECTION: Final = 300


def find_fault(
    passages: Mapping[int, Passage],
    components: Sequence[str],
    responder: int | None,
    masker: Masker,
) -> Fault | None:
    """Return the innermost exception; a cancellation is none."""
    raised = {
        place: passage.error
        for place, passage in passages.items()
        if passage.error is not None and not isinstance(passage.error, CancelledError)
    }
    if not raised:
        return None
    error = raised[innermost := max(raised)]
    outermost = min(place for place, other in raised.items() if _comes_from(other, error))
    # Starlette's outermost layer responds and raises all the same, for the server to log it.
    handler = outermost - 1 if outermost else responder
    return Fault(
        error=type(error).__name__,
        message=masker.text(str(error)),
        where=_where(error),
        raised_in=components[innermost],
        handled_by=None if handler is None or handler >= innermost else components[handler],
    )


def short(filename: str) -> str:
    """Return the path of a file of this project as it is written from the project's root."""
    path = Path(filename)
    inside = path.is_relative_to(Path.cwd()) and "site-packages" not in path.parts
    return path.relative_to(Path.cwd()).as_posix() if inside else filename


def _comes_from(error: BaseException | None, cause: BaseException) -> bool:
    while error is not None and error is not cause:
        error = error.__cause__ or error.__context__
    return error is not None


def _where(error: BaseException) -> str:
    """Return the innermost line of the service's own code, else the one that raised, if known."""
    frames = traceback.extract_tb(error.__traceback__)
    passed = [frame for frame in frames if Path(frame.filename).parent != _HERE]
    own = [frame for frame in passed if not Path(short(frame.filename)).is_absolute()]
    if not passed:
        return ""
    frame = (own or passed)[-1]
    return f"{short(frame.filename)}:{frame.lineno} in {frame.name}"


def browser_sees(
    client: Passage, *, scheme: str, responder: str, is_outside: bool, cors: Mapping[str, str]
) -> str | None:
    """
    Return a sentence, None for a request that no page of another origin sends.

    `is_outside` says whether `responder` runs outside the layer cors, and `cors` are the
    settings that list origins, none where the layer isn't there.
    """
    sent = dict(client.request["headers"])
    origin = sent.get(b"origin", b"").decode("latin-1")
    if not origin or origin == f"{scheme}://{sent.get(b'host', b'').decode('latin-1')}":
        return None
    head = client.head or {"status": 500, "headers": []}
    allowed = dict(head["headers"]).get(b"access-control-allow-origin", b"").decode("latin-1")
    reason = "" if allowed in {origin, "*"} else _reason(responder, is_outside, cors)
    wanted = sent.get(b"access-control-request-method", b"").decode("latin-1")
    if client.request["method"] != "OPTIONS" or not wanted:
        can = "can't" if reason else "can"
        return f"A page on {origin} {can} read this response{reason and ': '}{reason or '.'}"
    if not reason and head["status"] >= _REDIRECTION:
        reason = f"the preflight must get 2xx, not {head['status']}."
    sends = "doesn't send" if reason else "sends"
    return (
        f"The browser {sends} the {wanted} of the page on {origin}{reason and ': '}{reason or '.'}"
    )


def _reason(responder: str, is_outside: bool, cors: Mapping[str, str]) -> str:  # noqa: FBT001
    missing = "it has no Access-Control-Allow-Origin"
    if not cors:
        return f"{missing}. This service lacks the layer cors, which adds it."
    if is_outside:
        return f"{missing}. cors adds it, but runs inside {responder} and never saw the response."
    values = [f"{name}={value}" if value else f"{name} is empty" for name, value in cors.items()]
    return f"{missing}. cors doesn't allow this origin: {', '.join(values)}."
