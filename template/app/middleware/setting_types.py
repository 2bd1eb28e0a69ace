"""Types of settings that several layers share. Each refuses nonsense in one sentence."""

import json
import re
from contextlib import suppress
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def split_commas(value: object) -> object:
    """Read `a,b` and `["a", "b"]` alike; other values pass to the next check."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        # An IPv6 host such as [::1] starts alike, and is no JSON.
        with suppress(ValueError):
            return json.loads(value)
    return [item.strip() for item in value.split(",") if item.strip()]


def header_name(value: str) -> str:
    """Refuse what no header can be named (RFC 9110, 5.1)."""
    if not _TOKEN.fullmatch(value):
        msg = f"must be a header name: letters, digits and hyphens, not {value!r}"
        raise ValueError(msg)
    return value


def header_value(value: str) -> str:
    """Refuse what no header can carry: line breaks and characters outside of ASCII."""
    if not (value.isascii() and value.isprintable()):
        msg = f"must be printable ASCII on one line, not {value!r}"
        raise ValueError(msg)
    return value


def absolute_path(value: str) -> str:
    """Refuse what is no path of a route."""
    if not value.startswith("/") or any(mark in value for mark in "?#{} "):
        msg = f"must be exact paths such as /healthz, not {value!r}"
        raise ValueError(msg)
    return value


HeaderName = Annotated[str, AfterValidator(header_name)]
HeaderNames = Annotated[tuple[HeaderName, ...], NoDecode, BeforeValidator(split_commas)]
HeaderValue = Annotated[str, AfterValidator(header_value)]
HeaderValues = Annotated[tuple[HeaderValue, ...], NoDecode, BeforeValidator(split_commas)]
Paths = Annotated[
    tuple[Annotated[str, AfterValidator(absolute_path)], ...],
    NoDecode,
    BeforeValidator(split_commas),
]
