"""An exception of a run: where it was raised, and who turned it into a response."""

import traceback
from asyncio import CancelledError
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from .facts import Fault
from .masking import Masker
from .recorder import Passage

_HERE: Final = Path(__file__).parent


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
