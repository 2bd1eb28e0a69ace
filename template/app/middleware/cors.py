"""CORS: the settings of Starlette's `CORSMiddleware`, checked before it is built."""

import re
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

from .setting_types import split_commas

_ORIGIN: Final = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?", re.IGNORECASE)


def _origin(value: str) -> str:
    """Refuse what no browser ever sends as Origin, so that it could never match."""
    if value == "*" or _ORIGIN.fullmatch(value):
        return value
    if value == "null":
        hint = "sandboxed pages and local files of anybody send it; serve the page from an origin"
    elif "*" in value:
        hint = "a wildcard never matches; use CORS_ALLOW_ORIGIN_REGEX"
    elif match := _ORIGIN.match(value):
        hint = f"an origin ends after host and port; write {match[0]!r}"
    else:
        hint = "write it like 'https://app.example'"
    msg = f"must not hold {value!r}: {hint}"
    raise ValueError(msg)


def _regex(value: str) -> str:
    """Refuse what is no regular expression."""
    try:
        re.compile(value)
    except re.error as error:
        msg = f"must be a regular expression, not {value!r}: {error}"
        raise ValueError(msg) from None
    return value


def check_credentials(*, origins: tuple[str, ...], regex: str, credentials: bool) -> None:
    """
    Refuse to share credentials with every origin.

    Starlette builds such a layer silently and mirrors any Origin. It matches the whole origin,
    so what has to be anchored is each name: a bare `.*` admits `https://evil.example`, and
    `https://.*app.example` admits `https://evilapp.example`.

    Raises:
        ValueError: a sentence with the way out.

    """
    if not credentials:
        return
    if "*" in origins:
        msg = "CORS_ALLOW_ORIGINS must not be '*' with CORS_ALLOW_CREDENTIALS; list the origins"
        raise ValueError(msg)
    if regex and not (regex.startswith("^") and regex.endswith("$")):
        msg = (
            "CORS_ALLOW_ORIGIN_REGEX must start with ^ and end with $ with"
            f" CORS_ALLOW_CREDENTIALS; it is {regex!r}"
        )
        raise ValueError(msg)
    if regex and any(re.fullmatch(regex, origin) for origin in _STRANGERS):
        msg = (
            "CORS_ALLOW_ORIGIN_REGEX must not admit every origin with"
            f" CORS_ALLOW_CREDENTIALS; it is {regex!r}"
        )
        raise ValueError(msg)


_STRANGERS: Final = ("https://any.invalid", "http://any.invalid")
Origins = Annotated[
    tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(split_commas)
]
OriginRegex = Annotated[str, AfterValidator(_regex)]
