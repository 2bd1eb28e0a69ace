"""Types of settings that several layers share. Each rejects a wrong value with a sentence."""

import re
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv6Address
from typing import Annotated, Final, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PositiveInt

from .reading import Plain

# An origin in lower case, or the start of one.
ORIGIN: Final = re.compile(r"(?P<name>https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+))(:[0-9]+)?")

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_ABOUT_HOST: Final = re.compile(r"([a-z]+://)?\.?(?P<host>[^:/]*?)\.?(:[0-9]+)?(/.*)?")
_LABELS: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def header_name(value: str) -> str:
    """Reject an invalid header name (RFC 9110, 5.1), and a pattern."""
    if not _TOKEN.fullmatch(value) or set("*'") & set(value):
        msg = f"must be a header name: letters, digits and hyphens, not {value!r}"
        raise ValueError(msg)
    return value


def header_name_or_all(value: str) -> str:
    """Accept the wildcard of CORS too."""
    return value if value == "*" else header_name(value)


# They frame a message, or have another meaning in a request or a response.
_TAKEN: Final = re.compile(
    r"accept(-.*)?|access-control-.*|age|allow|alt-svc|authentication-info|authorization"
    r"|cache-control|clear-site-data|connection|content-.*|cookie|cross-origin-.*|date|etag"
    r"|expect|expires|forwarded|from|host|idempotency-key|if-.*|keep-alive|last-modified|link"
    r"|location|max-forwards|origin|permissions-policy|pragma|proxy-.*|range|ratelimit(-.*)?"
    r"|referer|referrer-policy|refresh|retry-after|sec-.*|server|server-timing|set-cookie"
    r"|strict-transport-security|te|trailer|transfer-encoding|upgrade|user-agent|vary|via"
    r"|warning|www-authenticate|x-content-type-options|x-frame-options"
    r"|x-forwarded-(for|host|port|prefix|proto)",
    re.IGNORECASE,
)


def own_header(example: str) -> Callable[[str], str]:
    """Reject the name of a header that has another meaning."""

    def checked(value: str) -> str:
        if _TAKEN.fullmatch(value):
            msg = f"must be a header that has no other meaning, such as {example}, not {value!r}"
            raise ValueError(msg)
        return value

    return checked


def header_value(value: str) -> str:
    """Reject what a header can't contain: line breaks, and characters outside ASCII."""
    if not (value.isascii() and value.isprintable()):
        msg = f"must be printable ASCII on one line, not {value!r}"
        raise ValueError(msg)
    return value


def exact_path(value: str, called: str = "an exact path", hint: str = "") -> str:
    """Reject what isn't the path of a route, or can't be in the path of a request."""
    exact = value.startswith("/") and value.isprintable() and "//" not in value
    if not exact or any(mark in value for mark in "?#{}<>*%,; \\") or "/:" in value:
        msg = (
            f"must be {called} such as /healthz, without a pattern, a query or a host,"
            f" not {value!r}{hint}"
        )
        raise ValueError(msg)
    return value


def _listed_path(value: str) -> str:
    return exact_path(value, "exact paths", "; list each path")


def host_name(value: str) -> str:
    """
    Return a host as clients send it: in lower case, an IPv6 address in its short form.

    Raises:
        ValueError: it is none; the message says what to write.

    """
    name = value.lower()
    if name.startswith("[") and name.endswith("]"):
        with suppress(ValueError):
            return f"[{IPv6Address(name[1:-1])}]"
    elif _LABELS.fullmatch(name):
        return name
    raise ValueError(_host_hint(name))


def _host_hint(name: str) -> str:
    """Return what to write instead of `name`, which isn't a host."""
    with suppress(ValueError):
        return f"an IPv6 address needs brackets; write [{IPv6Address(name)}]"
    parts = _ABOUT_HOST.fullmatch(name)
    if parts and _LABELS.fullmatch(parts["host"]):
        hint = "no scheme, port, path or dots around it"
        below = " or *." + parts["host"] if name.startswith(".") else ""
        return f"a host name has {hint}; write {parts['host']}{below}"
    if not name.isascii():
        with suppress(UnicodeError):
            return f"clients send it in ASCII; write {name.encode('idna').decode()}"
    return "write a host name such as api.example, or an IPv6 address such as [::1]"


def browser_origin(value: str) -> str | None:
    """Return an origin as browsers send it: in lower case, without the default port."""
    match = ORIGIN.fullmatch(value.lower())
    if match is None:
        return None
    try:
        port = urlsplit(match[0]).port
        scheme, _, host = match["name"].partition("://")
        name = f"{scheme}://{host_name(host)}"
    except ValueError:
        return None
    origin = name if port is None else f"{name}:{port}"
    return origin.removesuffix(":443" if scheme == "https" else ":80")


def check_origin(value: str, *, instead: str) -> str:
    """
    Return an origin as browsers send it; reject what they never send, and so never matches.

    Raises:
        ValueError: a sentence that says what to write; `instead` is the way out for a pattern.

    """
    if origin := browser_origin(value):
        return origin
    lower = value.lower()
    match = ORIGIN.match(lower)
    if value == "null":
        hint = "every sandboxed page and local file sends it; serve the page from an origin"
    elif "*" in value:
        hint = f"a wildcard never matches; {instead}"
    elif "://" in value and not value.isascii():
        hint = "browsers send the host in ASCII, such as https://xn--bcher-kva.example"
    elif match and match[0] != lower:
        hint = f"an origin ends after host and port; write {match[0]!r}"
    elif match and match[0].endswith("."):
        hint = f"leave out the last dot; write {match[0].rstrip('.')!r}"
    elif lower.startswith(("http://", "https://")):
        hint = "its port is above 65535, or its address is invalid"
    elif "://" in value:
        hint = f"the scheme is http or https; {instead}"
    else:
        hint = "write it like 'https://app.example'"
    msg = f"must not hold {value!r}: {hint}"
    raise ValueError(msg)


def _item(value: str) -> str:
    """Reject an empty item, which is a prefix of every value, and a pattern."""
    if not value.strip():
        msg = "must not hold an empty item"
        raise ValueError(msg)
    if "*" in value or value.startswith("^") or "\\" in value:
        msg = f"must hold prefixes of what clients send, not a pattern such as {value!r}"
        raise ValueError(msg)
    return header_value(value)


T = TypeVar("T")

# For lists in a service's own settings.
CommaList = tuple[T, ...]

# No storage counts more milliseconds.
Duration = Annotated[PositiveInt, Field(le=10**15)]
HeaderName = Annotated[str, AfterValidator(header_name), Plain]
HeaderNames = tuple[HeaderName, ...]
HeaderValue = Annotated[str, AfterValidator(header_value), Plain]
Prefixes = tuple[Annotated[str, AfterValidator(_item)], ...]
ExactPath = Annotated[str, AfterValidator(exact_path), Plain]
Paths = tuple[Annotated[str, AfterValidator(_listed_path), Plain], ...]
