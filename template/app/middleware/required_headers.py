"""Required headers: returns 400 to requests without a required header."""

import json
import re
from collections.abc import Collection, Mapping
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator
from starlette.types import ASGIApp

from .core.exchange import Exchange
from .core.layer import HTTP, NOTHING, Layer
from .core.reading import is_quoted
from .core.setting_types import header_name, header_value
from .problem import Refusal

# Signs of a pattern, and of another header.
_NO_VALUE: Final = re.compile(r"^\*$|^\^|\$$|\.[*+]|;\s*[\w-]+:\s")


class RequiredHeadersMiddleware(Layer):
    """
    Return 400 to a request that lacks one of `required`, each a `Name: value`.

    The header must be sent once, with exactly that value. The response names the header, but not
    the value. `probe_paths` and websockets pass, because browsers can't set headers there. It
    stops requests that were meant for another environment; it isn't security.
    """

    scopes = HTTP

    def __init__(
        self, app: ASGIApp, *, required: Collection[str], probe_paths: Collection[str]
    ) -> None:
        super().__init__(app, exempt_paths=probe_paths)
        pairs = [item.split(": ", 1) for item in required]
        self.required = [(name.lower().encode("ascii"), name, value) for name, value in pairs]
        self.openapi_headers = {name: {"required": True} for name, _ in pairs}
        if not pairs:
            self.scopes = NOTHING

    def enter(self, exchange: Exchange) -> Refusal | None:
        for key, name, value in self.required:
            if exchange.header(key) != value:
                detail = f"The header {name} must be sent once, with the required value."
                return Refusal(status=400, detail=detail)
        return None


def _pairs(value: object) -> object:
    """Read `{"X-Environment": "production"}` too, where quotes in a value are part of it."""
    if isinstance(value, list):
        for item in value:
            _refuse_quotes(str(item))
    if not isinstance(value, Mapping):
        return value
    wrong = {name: content for name, content in value.items() if not isinstance(content, str)}
    if wrong:
        example = '{"X-Environment": "production"}'
        msg = f"must have one text for each header, such as {example}, not {json.dumps(wrong)}"
        raise ValueError(msg)
    return [f"{name}: {content}" for name, content in value.items()]


def _refuse_quotes(item: str) -> None:
    name, _, content = (part.strip() for part in item.partition(":"))
    if is_quoted(content):
        msg = f"must hold values without quotes, not {item!r}; write {name}: {content[1:-1]}"
        raise ValueError(msg)


def _header(item: str) -> str:
    name, _, value = (part.strip() for part in item.partition(":"))
    if not value or _NO_VALUE.search(value):
        msg = (
            "must be headers such as X-Environment: production, with commas between them, each with"
            f' its exact value, or JSON such as {{"X-Environment": "production"}}, not {item!r}'
        )
        raise ValueError(msg)
    return f"{header_name(name)}: {header_value(value)}"


def _each_once(items: tuple[str, ...]) -> tuple[str, ...]:
    names = [item.partition(":")[0].lower() for item in items]
    for name in names:
        if names.count(name) > 1:
            msg = f"must name each header once, not {name!r} again"
            raise ValueError(msg)
    return items


RequiredHeaders = Annotated[
    tuple[Annotated[str, AfterValidator(_header)], ...],
    BeforeValidator(_pairs),
    AfterValidator(_each_once),
]
