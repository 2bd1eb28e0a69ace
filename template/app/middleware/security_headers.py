"""Security headers: adds CSP, HSTS, nosniff and others to responses."""

import base64
import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from inspect import isfunction, signature
from typing import Annotated, Final, Literal, get_args

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from pydantic import AfterValidator
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Scope, Send

from .core.exchange import Addition, Exchange, Filter
from .core.headers import Clash, HeaderRule, Headers, first
from .core.layer import HTTP, Layer
from .core.reading import PLACEHOLDER, in_any_case, is_quoted
from .core.setting_types import HeaderValue

_RULE: Final = HeaderRule(
    dict.fromkeys(
        (
            b"content-security-policy",
            b"cross-origin-resource-policy",
            b"permissions-policy",
            b"referrer-policy",
            b"strict-transport-security",
            b"x-content-type-options",
            b"x-frame-options",
        ),
        Clash.KEEP,
    )
)
_JSON: Final = (b"content-type", b"application/json")
_HTML: Final = (b"text/html", b"application/xhtml+xml")
_INLINE_SCRIPT: Final = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_NOT_MODIFIED: Final = 304
_DOCS_POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " connect-src 'self'; worker-src blob:; font-src https://fonts.gstatic.com;"
    " img-src 'self' data: https://fastapi.tiangolo.com https://cdn.redoc.ly;"
    " style-src{} {css} https://fonts.googleapis.com; script-src {swagger} {redoc}{}"
)
# FastAPI writes it into the page as it is, and a mount with a parameter takes it from the request.
_PLAIN_PATH: Final = re.compile(r"[\w.~/-]*")
_NONCE_OR_HASH: Final = re.compile(
    r"(nonce|((eval|url)-)?sha(256|384|512))-[\w+/-]+=*", re.IGNORECASE
)
_SIMILAR: Final = 0.75
_SOURCES: Final = frozenset(
    f"'{keyword}'"
    for keyword in (
        *("inline-speculation-rules", "none", "report-sample", "report-sha256", "report-sha384"),
        *("report-sha512", "self", "strict-dynamic", "trusted-types-eval"),
        *("unsafe-allow-redirects", "unsafe-eval", "unsafe-hashes", "unsafe-inline"),
        *("unsafe-webtransport-hashes", "wasm-unsafe-eval"),
    )
)
_NONE: Final = "'none'"
_BESIDE_NONE: Final = frozenset({_NONE, "'report-sample'"})
_ANCESTORS: Final = frozenset({_NONE, "'self'"})
_WITH_SOURCES: Final = (_SOURCES, _ANCESTORS)
# Without the colon they are names of hosts, which nobody has.
_SCHEMES: Final = ("blob", "data", "filesystem", "http", "https", "mediastream", "ws", "wss")
_HOST: Final = r"(\*|(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)*\.?)(:([0-9]+|\*))?(/[^?#\"]*)?"
# A scheme or a host (CSP3, 2.3.1).
_SOURCE: Final = re.compile(
    rf"[a-z][a-z0-9+.-]*:|(?!({'|'.join(_SCHEMES)})(/|:(?!//)))([a-z][a-z0-9+.-]*://)?{_HOST}",
    re.IGNORECASE,
)
_SANDBOX: Final = frozenset(
    f"allow-{permission}"
    for permission in (
        *("downloads", "forms", "modals", "orientation-lock", "pointer-lock", "popups"),
        *("popups-to-escape-sandbox", "presentation", "same-origin", "scripts"),
        *("storage-access-by-user-activation", "top-navigation"),
        *("top-navigation-by-user-activation", "top-navigation-to-custom-protocols"),
    )
)
# Those of CSP3, of the specifications that extend it, and those that they replaced.
_DIRECTIVES: Final[Mapping[str, Collection[str]]] = {
    **dict.fromkeys(
        (
            *("base-uri", "child-src", "connect-src", "default-src", "fenced-frame-src"),
            *("font-src", "form-action", "frame-src", "img-src"),
            *("manifest-src", "media-src", "navigate-to", "object-src", "prefetch-src"),
            *("script-src", "script-src-attr", "script-src-elem", "style-src", "style-src-attr"),
            *("style-src-elem", "worker-src"),
        ),
        _SOURCES,
    ),
    **dict.fromkeys(
        (
            *("block-all-mixed-content", "plugin-types", "referrer", "reflected-xss", "report-to"),
            *("report-uri", "require-sri-for", "treat-as-public-address"),
            "upgrade-insecure-requests",
        ),
        (),
    ),
    "frame-ancestors": _ANCESTORS,
    "require-trusted-types-for": ("'script'",),
    "sandbox": _SANDBOX,
    "trusted-types": ("'allow-duplicates'", "'none'"),
    "webrtc": ("'allow'", "'block'"),
}
_REFERRER_POLICIES: Final = (
    "no-referrer",
    "no-referrer-when-downgrade",
    "origin",
    "origin-when-cross-origin",
    "same-origin",
    "strict-origin",
    "strict-origin-when-cross-origin",
    "unsafe-url",
)
_PERMISSION: Final = re.compile(
    rf"""[a-z][a-z0-9-]*=(\*|self|\(\s*((\*|self|"(?i:https?://{_HOST})")\s*)*\))"""
    r"""(\s*;\s*report-to=[A-Za-z"][\w."-]*)?"""
)
# Those that browsers know. Another may be an experiment, but not if it nearly is one of these.
_FEATURES: Final = (
    *("accelerometer", "ambient-light-sensor", "aria-notify", "attribution-reporting", "autoplay"),
    *("battery", "bluetooth", "browsing-topics", "camera", "captured-surface-control"),
    *("clipboard-read", "clipboard-write", "compute-pressure", "cross-origin-isolated"),
    *("deferred-fetch", "deferred-fetch-minimal", "digital-credentials-create"),
    *("digital-credentials-get", "display-capture", "document-domain", "encrypted-media"),
    *("fullscreen", "gamepad", "geolocation", "gyroscope", "hid", "identity-credentials-get"),
    *("idle-detection", "keyboard-map", "language-detector", "local-fonts", "local-network"),
    *("local-network-access", "loopback-network", "magnetometer", "microphone", "midi"),
    *("on-device-speech-recognition", "otp-credentials", "payment", "picture-in-picture"),
    *("publickey-credentials-create", "publickey-credentials-get", "screen-wake-lock", "serial"),
    *("speaker-selection", "storage-access", "summarizer", "sync-xhr", "translator", "unload"),
    *("usb", "web-share", "window-management", "xr-spatial-tracking"),
)
_NEARLY: Final = 0.9


class SecurityHeadersMiddleware(Layer):
    """
    Add the headers that OWASP recommends for APIs to responses.

    Headers that an endpoint sets are kept. `referrer_policy` and `permissions_policy` are sent
    with HTML only, where browsers read them. HSTS is sent over https only (RFC 6797, 7.2), with
    `hsts_max_age` in seconds, and covers subdomains. The pages of Swagger UI and ReDoc, those of
    mounted apps too, get their own policy with the hash of their inline script, unless one of them
    has a `policy` of its own, or a mount a path that could bring a script into it.
    """

    scopes = HTTP

    def __init__(
        self,
        app: ASGIApp,
        *,
        content_security_policy: str,
        hsts_max_age: int,
        referrer_policy: str,
        permissions_policy: str,
        cross_origin_resource_policy: str,
        policy: str = "",
    ) -> None:
        super().__init__(app)
        # One for a page alone is meant for it, one for all below a path isn't.
        self.opens_docs = not policy or policy.endswith("/*")
        self.over_http = [
            (b"content-security-policy", content_security_policy.encode()),
            (b"cross-origin-resource-policy", cross_origin_resource_policy.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"x-frame-options", b"DENY"),
        ]
        hsts = f"max-age={hsts_max_age}; includeSubDomains"
        self.over_https = [*self.over_http, (b"strict-transport-security", hsts.encode())]
        self.for_html = [
            (b"referrer-policy", referrer_policy.encode()),
            (b"permissions-policy", permissions_policy.encode()),
        ]

    def head(self, exchange: Exchange, message: Message) -> Addition | Filter:
        over_https = exchange.scope["scheme"] == "https"
        headers = self.over_https if over_https else self.over_http
        is_html = _is_html(message["headers"])
        if is_html:
            headers = headers + self.for_html
        # The headers of a 304 replace those of the page that the browser has.
        if is_html or message["status"] == _NOT_MODIFIED:
            scope = exchange.scope
            is_page = self.opens_docs and _is_of_fastapi(scope.get("endpoint"))
            if is_page and _PLAIN_PATH.fullmatch(scope["root_path"]):
                return lambda send: _with_docs_policy(send, scope, headers)
        return _RULE, headers


def _is_html(headers: Headers) -> bool:
    # JSON, which most responses are, needs no loop.
    return _JSON not in headers and (first(headers, b"content-type") or b"").startswith(_HTML)


def _is_of_fastapi(endpoint: object) -> bool:
    """Return whether FastAPI wrote the endpoint, such as that of `/docs` in an app or a mount."""
    # An app that is mounted is an endpoint too, where it has no route for a path.
    return isfunction(endpoint) and endpoint.__module__ == FastAPI.__module__


def _with_docs_policy(send: Send, scope: Scope, headers: Headers) -> Send:
    """Add `headers` to a documentation page, with a policy for its inline script."""

    async def send_opened(message: Message) -> None:
        if message["type"] == "http.response.start":
            # Made once more, since what is sent may be compressed, in pieces or empty.
            page = await scope["endpoint"](Request(scope))
            ours = headers
            if _is_html(page.raw_headers):  # the other endpoint is the document
                ours = [(b"content-security-policy", _docs_policy(page.body)), *headers[1:]]
            _RULE.merge(message["headers"], ours)
        await send(message)

    return send_opened


def _docs_policy(page: bytes) -> bytes:
    digests = (hashlib.sha256(script).digest() for script in _INLINE_SCRIPT.findall(page))
    hashes = [f" 'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    # Only ReDoc writes styles into its page.
    styles = " 'unsafe-inline'" if b"<redoc " in page else ""
    return _DOCS_POLICY.format(styles, "".join(hashes), **_FILES).encode()


def _default(function: Callable[..., object], name: str) -> str:
    return str(signature(function).parameters[name].default)


_FILES: Final = {
    "css": _default(get_swagger_ui_html, "swagger_css_url"),
    "swagger": _default(get_swagger_ui_html, "swagger_js_url"),
    "redoc": _default(get_redoc_html, "redoc_js_url"),
}


def _content_security(value: str) -> str:
    """Reject what browsers ignore silently; after a comma begins another policy (CSP3, 3.1)."""
    if found := PLACEHOLDER.search(value):
        msg = (
            f"must not hold the placeholder {found[0]}, which nothing fills in; a page with a nonce"
            " sends the header itself, which is kept"
        )
        raise ValueError(msg)
    for policy in value.split(","):
        names = []
        for directive in filter(None, map(str.strip, policy.split(";"))):
            meant = _meant_directive(directive)
            if meant is None or meant != directive.split():
                hint = f"; write {' '.join(meant)}" if meant and not _unread(meant) else ""
                msg = (
                    "must be directives such as default-src 'none', with ; between them, keywords"
                    f" in quotes, and without the name of the header, not {directive!r}{hint}"
                )
                raise ValueError(msg)
            if wrong := _unread(meant):
                msg = (
                    "must have sources that browsers read there, such as img-src *.app.example"
                    f" https://app.example:8000 data:, not {wrong!r} in {directive!r}"
                )
                raise ValueError(msg)
            names.append(meant[0].lower())
            if names.count(names[-1]) > 1:
                msg = f"must have each directive once, or only the first counts, not {directive!r}"
                raise ValueError(msg)
    return value


def _meant_directive(directive: str) -> list[str] | None:
    """Return a directive as browsers understand it, None if it isn't like any."""
    first, *words = directive.split()
    name, *more = re.split("[=:]", first, maxsplit=1)
    if name.lower() not in _DIRECTIVES:
        (name,) = get_close_matches(name.lower(), _DIRECTIVES, n=1) or [""]
    known = _DIRECTIVES.get(name.lower())
    if known is None:
        return None
    meant = [name]
    for word in (*filter(None, more), *words):
        if known in _WITH_SOURCES and "-" in word and word.lower() in _DIRECTIVES:
            meant[-1] += ";"
        meant.append(_meant_word(word, known))
    # Browsers ignore it beside others.
    others = [word for word in meant[1:] if word.lower() not in _BESIDE_NONE]
    if others and _NONE in known and not any(";" in word for word in meant):
        return [word for word in meant if word.lower() != _NONE]
    return meant


def _unread(directive: list[str]) -> str | None:
    """Return a source that browsers leave out, None if there is none."""
    name, *words = (word.rstrip(";") for word in directive)
    known = _DIRECTIVES[name.lower()]
    if known not in _WITH_SOURCES:
        return None
    words = [word for word in words if word.lower() not in known and not _SOURCE.fullmatch(word)]
    # An unknown word in quotes may be one of tomorrow.
    return next((word for word in words if known is _ANCESTORS or not is_quoted(word)), None)


def _meant_word(word: str, known: Collection[str]) -> str:
    """Return a word of a directive, of which `known` are those that browsers know."""
    bare = word.strip("'\"")
    spelled = {item.strip("'"): item for item in known}
    quoted = known is _SOURCES and _NONCE_OR_HASH.fullmatch(bare)
    if word.lower() in known or (quoted and word == f"'{bare}'"):
        return word
    if quoted:
        return f"'{bare}'"
    if known in _WITH_SOURCES and word.lower() in _SCHEMES:
        return f"{word}:"
    similar = [bare.lower()] if bare.lower() in spelled else []
    quotes = word != bare or known is _SANDBOX
    # Without quotes a source with one of these is a host.
    if quotes or (known in _WITH_SOURCES and not set(".:*/") & set(word)):
        similar = similar or get_close_matches(bare.lower(), spelled, n=1, cutoff=_SIMILAR)
    if similar:
        return spelled[similar[0]]
    # An address is no word of tomorrow.
    return word if word == f"'{bare}'" and not set(".:*") & set(bare) else bare


def _referrer(value: str) -> str:
    names = [name.strip().lower() for name in value.split(",") if name.strip()]
    if wrong := next((name for name in names if name not in _REFERRER_POLICIES), None):
        msg = f"must be one of {', '.join(_REFERRER_POLICIES)}, not {wrong!r}"
        raise ValueError(msg)
    return ", ".join(names)


def _permissions(value: str) -> str:
    """Reject an invalid dictionary (RFC 9651), which browsers ignore as a whole."""
    items = [item.strip() for item in value.split(",") if item.strip()]
    if wrong := next((item for item in items if not _PERMISSION.fullmatch(item)), None):
        msg = (
            "must be features and who can use them, such as camera=(), fullscreen=(self),"
            f" with commas between them, not {wrong!r}"
        )
        raise ValueError(msg)
    names = [item.partition("=")[0] for item in items]
    for name in names:
        near = get_close_matches(name, _FEATURES, n=1, cutoff=_NEARLY)
        if near and near[0] != name:
            msg = f"must hold features that browsers know, such as {near[0]}=(), not {name!r}"
            raise ValueError(msg)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        msg = f"must have each feature once, or only the last counts, not {twice[0]} twice"
        raise ValueError(msg)
    return ", ".join(items)


_Resource = Literal["same-origin", "same-site", "cross-origin"]
ResourcePolicy = Annotated[_Resource, in_any_case(*get_args(_Resource))]
ContentSecurityPolicy = Annotated[HeaderValue, AfterValidator(_content_security)]
ReferrerPolicy = Annotated[HeaderValue, AfterValidator(_referrer)]
PermissionsPolicy = Annotated[HeaderValue, AfterValidator(_permissions)]
