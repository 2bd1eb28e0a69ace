"""Types of settings that several layers share. Each refuses nonsense in one sentence."""

import json
import re
from contextlib import suppress
from typing import Annotated, Final, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

# An origin in lower case, or what begins like one.
ORIGIN: Final = re.compile(r"(?P<name>https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+))(:[0-9]+)?")

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


def _item(value: str) -> str:
    """Refuse an empty item: every value begins with it."""
    if not value.strip():
        msg = "must not hold an empty item"
        raise ValueError(msg)
    return header_value(value)


def absolute_path(value: str) -> str:
    """Refuse what is no path of a route, or can't stand in the path of a request."""
    exact = value.startswith("/") and value.isprintable()
    if not exact or any(mark in value for mark in "?#{} "):
        msg = f"must be exact paths such as /healthz, not {value!r}"
        raise ValueError(msg)
    return value


def browser_origin(value: str) -> str | None:
    """Return an origin as browsers send it: in lower case, without the default port."""
    match = ORIGIN.fullmatch(value.lower())
    if match is None:
        return None
    try:
        port = urlsplit(match[0]).port
    except ValueError:
        return None
    origin = match["name"] if port is None else f"{match['name']}:{port}"
    return origin.removesuffix(":443" if origin.startswith("https:") else ":80")


T = TypeVar("T")

CommaList = Annotated[tuple[T, ...], NoDecode, BeforeValidator(split_commas)]

HeaderName = Annotated[str, AfterValidator(header_name)]
HeaderNames = CommaList[HeaderName]
HeaderValue = Annotated[str, AfterValidator(header_value)]
HeaderValues = CommaList[Annotated[str, AfterValidator(_item)]]
Paths = CommaList[Annotated[str, AfterValidator(absolute_path)]]
