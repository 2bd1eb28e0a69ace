"""CORS: lets pages of the listed origins call the service and read its responses."""

import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import chain, islice, product
from typing import Annotated, Any, Final, TypeAlias

from pydantic import AfterValidator
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from .core.exchange import Exchange
from .core.headers import LONGEST, Clash, HeaderRule
from .core.headers import Headers as RawHeaders
from .core.layer import HTTP, Layer
from .core.memo import Memo
from .core.networks import parse_address
from .core.reading import Plain
from .core.setting_types import ORIGIN, browser_origin, check_origin, header_name_or_all
from .problem import record_refusal

# A text, and a mask of its characters.
_Sample: TypeAlias = tuple[str, str]

_REMEMBERED: Final = 128
_OK: Final = 200
_SIMPLE: Final = frozenset({"GET", "HEAD", "POST"})
_PREFLIGHT: Final = b"access-control-request-method"
_RULE: Final = HeaderRule(
    {
        b"access-control-allow-credentials": Clash.REPLACE,
        b"access-control-allow-origin": Clash.REPLACE,
        b"access-control-expose-headers": Clash.APPEND,
        b"vary": Clash.APPEND,
    }
)
# Of pages (Fetch, 2.2.1 and 2.2.2).
_FORBIDDEN_METHODS: Final = frozenset({"CONNECT", "TRACE", "TRACK"})
_FORBIDDEN_HEADERS: Final = re.compile(
    r"accept-charset|accept-encoding|access-control-request-(headers|method)|connection"
    r"|content-length|cookie2?|date|dnt|expect|host|keep-alive|origin|proxy-.*|referer|sec-.*"
    r"|set-cookie|te|trailer|transfer-encoding|upgrade|via",
    re.IGNORECASE,
)
# Below these, as below a public suffix, each label has an owner of its own.
_SHARED: Final = (
    *("a.run.app", "amplifyapp.com", "app.github.dev", "appspot.com", "azurewebsites.net"),
    *("cloudfront.net", "deno.dev", "firebaseapp.com", "fly.dev", "github.io", "gitlab.io"),
    *("herokuapp.com", "netlify.app", "ngrok-free.app", "ngrok-free.dev", "ngrok.app", "ngrok.io"),
    *("onrender.com", "pages.dev", "replit.app", "s3.amazonaws.com", "trycloudflare.com"),
    *("up.railway.app", "vercel.app", "web.app", "workers.dev"),
)
# What one owner has, unless nobody can register it (RFC 6762, appendix G, and RFC 6761).
_OWNED: Final = re.compile(
    rf"(?P<label>[^./]+)\.(?:(?P<shared>{'|'.join(map(re.escape, _SHARED))})"
    r"|(?:(?:ac|co|com|edu|go|gob|gov|ne|net|or|org)\.[a-z]{2}"
    r"|(?!(?:corp|home|internal|intranet|lan|local|localhost|private|test)$)[a-z][a-z0-9-]*))$"
)
# What is tried in place of free characters, and how many combinations are.
_FREE: Final = ("evil.xyz", "xyz", "io", "x", "1", "-", ".", "https", "https://evil.xyz")
_MOST: Final = 20_000
# What is in a class such as [^/] decides nothing.
_CLASS: Final = re.compile(r"(?<!\\)\[(\^?)\]?(?:\\.|[^]\\])*\]")
# What no origin holds, or what keeps an expression from matching a whole one.
_NEVER: Final = (
    (re.compile(r"[^\x00-\x7f]"), "browsers send ASCII, such as https://xn--bcher-kva.example"),
    (re.compile(r"""[\s"'@#]|,(?![^{]*})"""), "write one expression; (a|b) matches two"),
    (re.compile(r":(//)?\*"), "a wildcard is [a-z0-9-]+, and any port is [0-9]+"),
    (re.compile(r"^\^?https:.*:443\$?$|^\^?http:.*:80\$?$"), "browsers leave out the default port"),
    (re.compile(r"^(?!.*(:|(?<!\\)\.[*+{]|\[\^|\\[SDW]))."), "begin it with https://"),
)
# No scheme, or one that no page has; those of extensions and apps, such as capacitor://, may be.
_BEGINS_OTHERWISE: Final = re.compile(r"\^?(/|(ftp|file|wss?)://|[a-z0-9-]+(\(?:(?!/)|\\\.|\$?$))")
# The slashes of a scheme, and a group, of which one alternative may match.
_NO_PATH: Final = re.compile(r"://|\([^()]*\)")
_SLASH: Final = re.compile(r"/(?![?*{])")
_CAPITAL: Final = re.compile(r"[A-Z]")
# Where a capital is none of an origin: an escape, the name of a group.
_NO_CAPITAL: Final = re.compile(r"\\.|\(\?P?[<=]\w*")
_IGNORES_CASE: Final = re.compile(r"\(\?[a-z]*i")


class CorsMiddleware(Layer):
    """
    Respond to preflights, and let pages of allowed origins read all other responses (Fetch, 3.3).

    Starlette's class decides, and responds to preflights. This class writes the headers of other
    responses from prepared bytes, because Starlette encodes and looks up each one every time.
    Websockets pass: browsers don't apply CORS to them. An Origin that is sent twice is ignored.
    """

    scopes = HTTP

    def __init__(
        self,
        app: ASGIApp,
        *,
        allow_origins: Sequence[str],
        allow_origin_regex: str,
        allow_methods: Sequence[str],
        allow_headers: Sequence[str],
        expose_headers: Sequence[str],
        allow_credentials: bool,
        max_age: int,
    ) -> None:
        super().__init__(app)
        self.rules = CORSMiddleware(
            app,
            allow_origins=allow_origins,
            allow_origin_regex=allow_origin_regex or None,
            allow_methods=allow_methods,
            allow_headers=allow_headers,
            expose_headers=expose_headers,
            allow_credentials=allow_credentials,
            max_age=max_age,
        )
        self.headers_for = Memo(self._headers_for, most=_REMEMBERED)

    def spares(self, path: str, method: str) -> bool:
        # Without a preflight, browsers send the simple methods only.
        refused = method not in _SIMPLE and method not in self.rules.allow_methods
        return refused or super().spares(path, method)

    def enter(self, exchange: Exchange) -> Response | None:
        origin = exchange.headers.get(b"origin")
        if origin is not None and exchange.method == "OPTIONS" and _PREFLIGHT in exchange.headers:
            asked = [(name, value[:LONGEST]) for name, value in exchange.scope["headers"]]
            response = self.rules.preflight_response(Headers(raw=asked))
            if response.status_code != _OK:
                record_refusal(exchange.scope, self.name, bytes(response.body).decode())
            return response
        exchange.add(_RULE, self.headers_for[origin or b""])
        return None

    def _headers_for(self, origin: bytes) -> RawHeaders:
        ours = {b"vary": b"Origin"}
        if origin:
            for name, value in self.rules.simple_headers.items():
                ours[name.lower().encode("latin-1")] = value.encode("latin-1")
            mirrored = self.rules.allow_credentials or not self.rules.allow_all_origins
            if mirrored and self.rules.is_allowed_origin(origin.decode("latin-1")):
                ours[b"access-control-allow-origin"] = origin
        return [*ours.items()]


def _origin(value: str) -> str:
    if value == "*":
        return value
    return check_origin(value, instead="use CORS_ALLOW_ORIGIN_REGEX")


def _regex(value: str) -> str:
    """Reject an invalid regular expression, and one that matches no origin."""
    try:
        re.compile(value)
    except re.error as error:
        msg = f"must be a regular expression, not {value!r}: {error}"
        raise ValueError(msg) from None
    if hint := _why_never(value):
        msg = f"must match origins as browsers send them, not {value!r}: {hint}"
        raise ValueError(msg)
    return value


def _why_never(value: str) -> str | None:
    """Return what keeps an expression from matching an origin, None if nothing is known to."""
    bare = _CLASS.sub(r"[\1]", value).replace("\\/", "/")
    if hint := next((hint for sign, hint in _NEVER if sign.search(bare)), None):
        return hint
    if all(map(_BEGINS_OTHERWISE.match, bare.split("|"))):
        return "begin it with https://"
    if all(map(_SLASH.search, _NO_PATH.sub("", bare).split("|"))):
        return "an origin ends without a slash"
    if _CAPITAL.search(_NO_CAPITAL.sub("", bare)) and not _IGNORES_CASE.search(value):
        return "browsers send origins in lower case"
    return None


def _method(value: str) -> str:
    method = value.upper()
    if not re.fullmatch(r"[A-Z_-]+|\*", method) or method in {"ALL", "ANY"}:
        unlisted = {*_FORBIDDEN_METHODS, "ALL", "ANY"}
        listed = [it for it in re.findall(r"[A-Z_-]+", method) if it not in unlisted]
        hint = f"; write {','.join(listed)}" if listed else ""
        msg = f"must hold methods such as GET, or * for all, not {value!r}{hint}"
        raise ValueError(msg)
    if method in _FORBIDDEN_METHODS:
        msg = f"must not hold {value!r}, which browsers never send; leave it out"
        raise ValueError(msg)
    return method


def _allowed(value: str) -> str:
    if _FORBIDDEN_HEADERS.fullmatch(value):
        cookies = "for cookies, set CORS_ALLOW_CREDENTIALS=true instead"
        way_out = cookies if value.lower() == "cookie" else "leave it out"
        msg = f"must not hold {value!r}, which no page can set, only the browser; {way_out}"
        raise ValueError(msg)
    return value


def _exposed(value: str) -> str:
    if value.lower() in {"set-cookie", "set-cookie2"}:
        msg = f"must not hold {value!r}: browsers never show it to a page"
        raise ValueError(msg)
    return value


def check_exposed(*, headers: tuple[str, ...], credentials: bool) -> None:
    """
    Reject the wildcard where browsers read it as the name of a header.

    Raises:
        ValueError: with a message that says what to set.

    """
    if credentials and "*" in headers:
        msg = "CORS_EXPOSE_HEADERS must not be * with CORS_ALLOW_CREDENTIALS; list the headers"
        raise ValueError(msg)


def check_credentials(*, origins: tuple[str, ...], regex: str, credentials: bool) -> None:
    """
    Refuse to share credentials with every origin.

    Starlette accepts that silently and mirrors any Origin that matches: that of everybody, if what
    a stranger can register isn't spelled out. Origins that aren't of a web page are not checked.

    Raises:
        ValueError: with a message that says what to set.

    """
    if not credentials:
        return
    if "*" in origins:
        msg = "CORS_ALLOW_ORIGINS must not be '*' with CORS_ALLOW_CREDENTIALS; list the origins"
        raise ValueError(msg)
    if regex and (stranger := _find_stranger(regex)):
        msg = (
            f"CORS_ALLOW_ORIGIN_REGEX must not allow {stranger}, which anybody can have, with"
            r" CORS_ALLOW_CREDENTIALS, but whole names with \. for a dot, such as"
            rf" ^https://([a-z0-9-]+\.)?app\.example$; it is {regex!r}"
        )
        raise ValueError(msg)


def _find_stranger(regex: str) -> str | None:
    """Return an origin that matches and that anybody can have, None if there seems to be none."""
    if re.fullmatch(regex, "null"):
        return "null"
    samples = _samples(import_module("re._parser").parse(regex))
    strange = (text for text, mask in samples if _is_strange(text, mask))
    return next((text for text in strange if re.fullmatch(regex, text)), None)


def _is_strange(text: str, mask: str) -> bool:
    """Return whether `text` is an origin whose owner depends on a free character."""
    origin = ORIGIN.fullmatch(text)
    if origin is None or browser_origin(text) != text:
        return False
    start, end = text.index("//") + 2, origin.end("name")
    if owned := _OWNED.search(text, start, end):
        # Of a label below a shared name, one literal character is taken for the owner's.
        of_owner = owned["shared"] and "=" in mask[owned.start() : owned.end("label")]
        start = owned.end("label") if of_owner else owned.start()
    elif (address := parse_address(text[start:end].strip("[]"))) is None or address.is_private:
        return False
    return "?" in mask[start:end]


def _samples(nodes: Any) -> list[_Sample]:
    """
    Return texts that a parsed expression matches, one of each kind, and a mask for each.

    The mask has `=` where the expression spells a character, and `?` where it is free.
    """
    each = [dict.fromkeys(_samples_of(nodes[at : at + 1])) for at in range(len(nodes))]
    # The last one varies first, as it decides whose the origin is.
    chosen = islice(product(*each), _MOST)
    return [("".join(it[0] for it in parts), "".join(it[1] for it in parts)) for parts in chosen]


def _samples_of(node: Any) -> Iterator[_Sample]:
    ((kind, content),) = node
    match kind.name, content:
        case "LITERAL", code:
            yield chr(code).lower(), "="
        case "IN", items if all(it.name == "LITERAL" for it, _ in items):
            yield from ((chr(code).lower(), "=") for _, code in items)
        case "ANY" | "IN" | "NOT_LITERAL", _:
            yield from _free(node)
        case "BRANCH", (_, branches):
            yield from chain.from_iterable(map(_samples, branches))
        case "SUBPATTERN", (*_, group):
            yield from _samples(group)
        case "ATOMIC_GROUP", group:
            yield from _samples(group)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT", (least, most, group):
            if most > 1:
                yield from _free(node)
            for times in range(least, min(most, least + 1) + 1):
                yield from ((text * times, mask * times) for text, mask in _samples(group))
        case _:  # It matches no characters.
            yield "", ""


def _free(node: Any) -> Iterator[_Sample]:
    """Yield what matches a part of an expression that leaves its characters open."""
    flags = node.state.flags | re.IGNORECASE
    matches = import_module("re._compiler").compile(node, flags).fullmatch
    yield from ((text, "?" * len(text)) for text in _FREE if matches(text))


_Name = Annotated[str, AfterValidator(header_name_or_all), Plain]
Origins = tuple[Annotated[str, AfterValidator(_origin)], ...]
OriginRegex = Annotated[str, AfterValidator(_regex), Plain]
Methods = tuple[Annotated[str, AfterValidator(_method)], ...]
AllowedHeaders = tuple[Annotated[_Name, AfterValidator(_allowed)], ...]
ExposedHeaders = tuple[Annotated[_Name, AfterValidator(_exposed)], ...]
