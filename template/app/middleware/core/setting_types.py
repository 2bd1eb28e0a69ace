"""Types of settings that several layers share. Each rejects a wrong value with a sentence."""

import re
import socket
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Final, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PositiveInt

from .reading import Plain, filled

# An origin in lower case, or the start of one.
ORIGIN: Final = re.compile(r"(?P<name>https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+))(:[0-9]+)?")

# Of the characters that a name may have (RFC 9110, 5.1), those that names have.
_HEADER: Final = re.compile(r"[A-Za-z0-9._-]+")
# As long as lookups take it (RFC 1035, 2.3.4).
_LABELS: Final = re.compile(r"(?!.{254})[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
# A host with what is often written around it.
_ABOUT_HOST: Final = re.compile(
    r"([a-z]+://)?\.?(?P<host>[^:/\[\]]*?|\[[^\]]*\])\.?(:[0-9]+)?(/(?![0-9]+$).*)?"
)
_WILD: Final = re.compile(r"[*()\\]|^https?://\.", re.IGNORECASE)
# A host that browsers read as an IPv4 address, or refuse (URL, 3.5, "ends in a number").
_NUMBER_AT_END: Final = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")
# They frame a message, or have another meaning in a request or a response.
_RESERVED: Final = re.compile(
    r"accept(-.*)?|access-control-.*|activate-storage-access|age|allow|alt-svc"
    r"|attribution-reporting-.*|authentication-info|authorization|baggage|cache-control"
    r"|clear-site-data|connection|content-.*|cookie|critical-ch|cross-origin-.*|date|digest"
    r"|document-policy(-.*)?|early-data|etag|expect|expires|forwarded|from|host"
    r"|idempotency-(key|replayed)|if-.*|integrity-policy(-.*)?|keep-alive|last-modified|link"
    r"|location|max-forwards|nel|no-vary-search|observe-browsing-topics|origin"
    r"|origin-agent-cluster|permissions-policy(-.*)?|pragma|prefer|preference-applied|priority"
    r"|proxy-.*|range|ratelimit(-.*)?|referer|referrer-policy|refresh|report-to"
    r"|reporting-endpoints|repr-digest|retry-after|sec-.*|server|server-timing"
    r"|service-worker-allowed|set-cookie|set-login|signature(-input)?|sourcemap|speculation-rules"
    r"|strict-transport-security|supports-loading-mode|surrogate-.*|te|timing-allow-origin"
    r"|traceparent|tracestate|trailer|transfer-encoding|upgrade|user-agent|vary|via"
    r"|want-.*|warning|www-authenticate|x-accel-.*|x-content-type-options|x-dns-prefetch-control"
    r"|x-forwarded-(for|host|port|prefix|proto)|x-frame-options|x-http-method-override"
    r"|x-lighttpd-send-file|x-original-url|x-permitted-cross-domain-policies|x-process-time"
    r"|x-real-ip|x-rewrite-url|x-robots-tag|x-sendfile|x-sourcemap|x-xss-protection",
    re.IGNORECASE,
)
# What requests send otherwise, and what patterns have; `$` also is in paths such as /$metadata.
_NO_PATH: Final = re.compile(r"[][|^?#{}<>*%,; \\]|//|/:|\$$|\.\+|/\.\.?(/|$)")
_METHOD: Final = re.compile(r"[A-Z-]+")
# Signs of a pattern, of which none is in `Mozilla/5.0 (X11; U) [en]`.
_PATTERN: Final = re.compile(
    r"^\^|[*\\]|\$$|^/.*/\w*$|\.[+?]|\(\?|\([\w.]*\|[\w.|]*\)|\S\[[\w-]+\]|\d\.[xX]\b|[<>]=?\s*\d"
    # Several in one.
    r"|/[\w.]*\s*\|\s*[\w.-]+/|^(?P<product>[\w.-]+/)[^()]*;\s*(?P=product)"
)
# A bracket that closes before one opens.
_CUT: Final = re.compile(r"[^(]*\).*|[^\[]*\].*")
_WITH_NAME: Final = re.compile(r"user-agent\s*[:=]\s*(?P<value>.*)", re.IGNORECASE)


def header_name(value: str) -> str:
    """Reject an invalid header name, a pattern and a placeholder."""
    if not _HEADER.fullmatch(value):
        msg = (
            f"must be a header name: letters, digits, hyphens, dots and underscores, not {value!r}"
        )
        raise ValueError(msg)
    return value


def header_name_or_all(value: str) -> str:
    """Accept the wildcard of CORS too."""
    return value if value == "*" else header_name(value)


def own_header(example: str) -> Callable[[str], str]:
    """Reject the name of a header that has another meaning."""

    def checked(value: str) -> str:
        if _RESERVED.fullmatch(value):
            msg = f"must be a header that has no other meaning, such as {example}, not {value!r}"
            raise ValueError(msg)
        return value

    return checked


def header_value(value: str) -> str:
    """Reject what no header contains: line breaks, characters outside ASCII, placeholders."""
    if not (value.isascii() and value.isprintable()):
        msg = f"must be printable ASCII on one line, not {value!r}"
        raise ValueError(msg)
    return filled(value)


def exact_path(value: str, wanted: str = "an exact path such as /status", hint: str = "") -> str:
    """Reject what isn't the path of a route, or can't be in the path of a request."""
    if not value.startswith("/") or not value.isprintable() or _NO_PATH.search(value):
        msg = f"must be {wanted}, without a pattern, a query or a host, not {value!r}{hint}"
        raise ValueError(msg)
    return value


def _listed_path(value: str) -> str:
    return exact_path(value, "exact paths such as /healthz", "; list each path")


def _listed_route(value: str) -> str:
    """Return a path, or a method and a path with one space between them."""
    method, _, path = value.rpartition(" ")
    method = method.rstrip().upper()
    if not _METHOD.fullmatch(method):
        method, path = "", value
    wanted = "exact paths such as /login, or with a method as in GET /docs"
    return f"{method} {exact_path(path, wanted, '; list each path')}".lstrip()


def path_in(entry: str) -> str:
    """Return the path of an entry that may have a method."""
    return entry.rpartition(" ")[2]


def entries_for(path: str, method: str) -> tuple[str, str]:
    """Return the entries that are for a request; those for GET are for HEAD too."""
    return path, f"{'GET' if method == 'HEAD' else method} {path}"


def host_name(value: str) -> str:
    """
    Return a host as clients send it: in lower case, an IPv6 address in its short form.

    Raises:
        ValueError: it is none.

    """
    name = value.lower()
    if name.startswith("[") and name.endswith("]") and "%" not in name:
        with suppress(ValueError):
            return f"[{IPv6Address(name[1:-1])}]"
    elif _LABELS.fullmatch(name):
        return name
    msg = f"no host: {value!r}"
    raise ValueError(msg)


def meant_host(value: str) -> str | None:
    """Return the host in what was written instead of one, None where it isn't clear."""
    name = value.lower()
    with suppress(ValueError):
        return host_name(f"[{IPv6Address(name.partition('%')[0])}]")
    if (parts := _ABOUT_HOST.fullmatch(name)) is None:
        return None
    name = re.sub(r"%[^]]*", "", parts["host"])
    with suppress(ValueError):
        if name.isascii():
            return host_name(name)
        ascii_name = name.encode("idna")
        # Browsers don't fold every letter that this codec folds.
        return ascii_name.decode() if ascii_name.decode("idna") == name else None
    return None


def browser_origin(value: str) -> str | None:
    """Return an origin as browsers send it: in lower case, without the default port."""
    match = ORIGIN.fullmatch(value.lower())
    if match is None:
        return None
    scheme, _, host = match["name"].partition("://")
    try:
        port = urlsplit(match[0]).port
        name = f"{scheme}://{host_name(host)}"
        if _NUMBER_AT_END.fullmatch(host):
            IPv4Address(host)
    except ValueError:
        return None
    origin = name if port is None else f"{name}:{port}"
    return origin.removesuffix(":443" if scheme == "https" else ":80")


def _meant_origin(value: str) -> str | None:
    """Return the origin in an address that holds more, or spells its host otherwise."""
    with suppress(ValueError):
        address = urlsplit(value.lower())
        host = address.hostname or ""
        host = meant_host(f"[{host}]" if ":" in host else host) or ""
        if _NUMBER_AT_END.fullmatch(host):
            with suppress(OSError):
                host = socket.inet_ntoa(socket.inet_aton(host))
        port = "" if address.port is None else f":{address.port}"
        return browser_origin(f"{address.scheme}://{host}{port}")
    return None


def check_origin(value: str, *, instead: str) -> str:
    """
    Return an origin as browsers send it; reject what they never send, and so never matches.

    Raises:
        ValueError: with a message that says what to set; `instead` is its advice for a pattern.

    """
    if origin := browser_origin(value):
        return origin
    several = [_meant_origin(part) for part in re.split(r"[\s;|]+", value) if part]
    meant = ",".join(map(str, several)) if all(several) else _meant_origin(value)
    if value == "null":
        hint = "every sandboxed page and local file sends it; serve the page from an origin"
    elif _WILD.search(value):
        hint = f"a wildcard never matches; {instead}"
    elif meant:
        hint = f"an origin is scheme, ASCII host and port, with commas between two; write {meant!r}"
    elif value.lower().startswith(("http://", "https://")):
        hint = "its port is above 65535, or its address is invalid"
    elif "://" in value:
        hint = f"the scheme is http or https; {instead}"
    else:
        hint = "write it like 'https://app.example'"
    msg = f"must not hold {value!r}: {hint}"
    raise ValueError(msg)


def _item(value: str) -> str:
    """Reject an empty item, which is a prefix of every value, a part of an item, and a pattern."""
    if not value.strip():
        msg = "must not hold an empty item"
        raise ValueError(msg)
    if _CUT.fullmatch(value):
        msg = (
            f"must not hold {value!r}, a part of an item that was split at its comma; a list whose"
            ' items have commas is JSON: ["LegacyApp/1 (X11, U"]'
        )
        raise ValueError(msg)
    if _PATTERN.search(value):
        msg = (
            "must hold prefixes of what clients send, with commas between them, such as"
            f" LegacyApp/1, not a pattern such as {value!r}"
        )
        raise ValueError(msg)
    if named := _WITH_NAME.fullmatch(value):
        start = named["value"] or "LegacyApp/1"
        msg = f"must not hold the name of the header, not {value!r}; write {start}"
        raise ValueError(msg)
    # No client sends white space there.
    return header_value(value.lstrip())


T = TypeVar("T")

# For lists in a service's own settings.
CommaList = tuple[T, ...]

# No storage counts more milliseconds.
Duration = Annotated[PositiveInt, Field(le=10**15)]
HeaderName = Annotated[str, AfterValidator(header_name), Plain]
HeaderValue = Annotated[str, AfterValidator(header_value), Plain]
Prefixes = tuple[Annotated[str, AfterValidator(_item)], ...]
ExactPath = Annotated[str, AfterValidator(exact_path), Plain]
Paths = tuple[Annotated[str, AfterValidator(_listed_path), Plain], ...]
Routes = tuple[Annotated[str, AfterValidator(_listed_route), Plain], ...]
