"""Maintenance: turns requests away while a file exists."""

from collections.abc import Collection
from os.path import isfile
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator
from starlette.types import ASGIApp

from .core.exchange import Exchange
from .core.layer import Layer
from .core.reading import Text
from .problem import Refusal

_TRY_AGAIN_LATER: Final = 1013


class MaintenanceMiddleware(Layer):
    """
    Answer 503 with Retry-After, in seconds, while `file` exists.

    No restart is needed, and each worker sees the file at its next request: it is looked up
    for each one, which costs a microsecond on a local disk (a network file system may hold
    every request up). A folder of that name counts for nothing. `probe_paths` are served, or an
    orchestrator would restart what is only being maintained. A websocket handshake is refused
    alike, with 1013 where the server can't send a response; open ones live on.
    """

    def __init__(
        self, app: ASGIApp, *, file: str, retry_after: int, probe_paths: Collection[str]
    ) -> None:
        super().__init__(app, exempt_paths=probe_paths)
        self.file = str(Path(file).absolute())
        self.refusal = Refusal(
            status=503,
            detail="The service is down for maintenance. Please try again later.",
            headers={"Retry-After": str(retry_after)},
            close_code=_TRY_AGAIN_LATER,
        )

    def enter(self, exchange: Exchange) -> Refusal | None:  # noqa: ARG002
        return self.refusal if self._in_force() else None

    def _in_force(self) -> bool:
        return isfile(self.file)  # noqa: PTH113 - a Path's may raise where it may not look


def _file(value: str) -> str:
    if value.lower() in _SWITCHES or value.startswith(("~", "file:")) or set("*?$") & set(value):
        hint = "it is the path of a file, and requests are refused while that file exists"
    elif Path(value).is_dir():
        hint = f"that is a folder; name a file in it, such as {Path(value) / 'on'}"
    else:
        return value
    msg = f"must be the path of a file such as maintenance, not {value!r}: {hint}"
    raise ValueError(msg)


_SWITCHES: Final = frozenset({"0", "1", "false", "no", "off", "on", "true", "yes"})
FilePath = Annotated[Text, AfterValidator(_file)]
