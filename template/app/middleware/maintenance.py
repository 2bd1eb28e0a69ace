"""Maintenance: returns 503 while a file exists."""

from collections.abc import Collection
from os.path import isdir, isfile
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator
from starlette.status import WS_1013_TRY_AGAIN_LATER
from starlette.types import ASGIApp

from .core.exchange import Exchange
from .core.layer import Layer
from .core.reading import Text
from .problem import Refusal

_SWITCHES: Final = frozenset({"0", "1", "false", "no", "off", "on", "true", "yes"})


class MaintenanceMiddleware(Layer):
    """
    Return 503 with Retry-After, in seconds, while `file` exists.

    No restart is needed: each worker looks for the file at every request, which takes a
    microsecond on a local disk, and may block every request on a network file system. A folder
    of that name is ignored. `probe_paths` are served, or an orchestrator would restart the
    service. Websocket handshakes are rejected too, with 1013 if the server can't send a response;
    open connections stay open.
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
            close_code=WS_1013_TRY_AGAIN_LATER,
        )

    def enter(self, exchange: Exchange) -> Refusal | None:  # noqa: ARG002
        return self.refusal if self._in_force() else None

    def _in_force(self) -> bool:
        return isfile(self.file)  # noqa: PTH113 - a Path's may raise where it may not look


def _file(value: str) -> str:
    if value.lower() in _SWITCHES or value.startswith(("~", "file:")) or set("*?$") & set(value):
        hint = "it is the path of a file, and requests get 503 while that file exists"
    elif isdir(value):  # noqa: PTH112 - as above
        hint = f"that is a folder; name a file in it, such as {Path(value) / 'on'}"
    elif (reason := _why_never(value)) is not None:
        hint = f"nothing can be seen there ({reason}); name a file in a folder that can be searched"
    else:
        return value
    msg = f"must be the path of a file such as maintenance, not {value!r}: {hint}"
    raise ValueError(msg)


def _why_never(value: str) -> str | None:
    """Return why no file of that path could be seen; None where it only isn't there."""
    try:
        Path(value).stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        return error.strerror
    return None


FilePath = Annotated[Text, AfterValidator(_file)]
