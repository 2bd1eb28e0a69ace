"""The options of the sub-command, and the request that they describe, as a server hands it on."""

import argparse
import ipaddress
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes, urlsplit

from starlette.types import Message, Scope

from app.middleware.core.headers import Headers

_DESCRIPTION: Final = (
    "Send a request through this service and print what each layer does with it. It runs for real:"
    " the endpoint does its work, and limits count it. Options have the names that curl gives them."
)
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_OF_WEBSOCKETS: Final = {"http": "ws", "https": "wss"}
# Whatever a request line may hold as it is.
_SAFE: Final = "/%:=@!$&'()*+,;~-._"


class WrongUseError(Exception):
    """What was typed can't be run; the message is a sentence for the person who typed it."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request, or with `websocket` the handshake of one; `target` is its path and query."""

    method: str
    target: str
    headers: Headers
    typed: frozenset[str]
    body: bytes
    client: str
    scheme: str
    websocket: bool

    @property
    def url(self) -> str:
        host = dict(self.headers).get(b"host", b"").decode("latin-1")
        return f"{self.scheme}://{host}{self.target}"

    def scope(self, state: dict[str, Any]) -> Scope:
        """Return the scope of ASGI, with the `state` of the lifespan."""
        path, _, query = self.target.partition("?")
        raw_path = quote(path, safe=_SAFE).encode("ascii")
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": self.scheme,
            "server": ("127.0.0.1", 8000),
            "client": (self.client, 50000),
            "path": unquote_to_bytes(raw_path).decode("utf-8", "replace"),
            "raw_path": raw_path,
            "root_path": "",
            "query_string": quote(query, safe=_SAFE + "?[]").encode("ascii"),
            "headers": list(self.headers),
            "state": dict(state),
        }
        if not self.websocket:
            return {**scope, "method": self.method}
        offered = dict(self.headers).get(b"sec-websocket-protocol", b"").decode("latin-1")
        return {
            **scope,
            "type": "websocket",
            "subprotocols": [item.strip() for item in offered.split(",") if item.strip()],
            "extensions": {"websocket.http.response": {}},
        }

    def first_message(self) -> Message:
        """Return what the app receives first."""
        if self.websocket:
            return {"type": "websocket.connect"}
        return {"type": "http.request", "body": self.body, "more_body": False}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options, which have the names of curl's where curl has them."""
    parser.usage = "%(prog)s [options] [METHOD] PATH"
    parser.description = _DESCRIPTION
    add = parser.add_argument
    add("target", nargs="+", metavar="[METHOD] PATH", help="such as POST /orders, or a whole URL")
    add("-X", "--request", metavar="METHOD", help="the method")
    add("-H", "--header", action="append", default=[], metavar="LINE", help="a 'Name: value'")
    add("-d", "--data", action="append", default=[], metavar="DATA", help="a body, or @FILE")
    add("--data-binary", action="append", default=[], metavar="DATA", help="the same as -d")
    add("-i", "--include", action="store_true", help="print the whole body")
    add(
        "-m",
        "--max-time",
        type=float,
        default=60,
        metavar="SECONDS",
        help="let the client disconnect after SECONDS",
    )
    add("--websocket", action="store_true", help="open a websocket instead")
    add("--client", default="127.0.0.1", metavar="IP", help="the address of the peer")
    add("--scheme", choices=("http", "https"), help="scheme of the request")
    add("--repeat", type=int, default=1, metavar="N", help="send it N times, explain the last")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--swap", nargs=2, metavar="LAYER", help="compare with these two swapped")
    other.add_argument("--without", metavar="LAYER", help="compare with this layer left out")
    add("--logs", action="store_true", help="print what the service logs, on stderr")
    add("--show-secrets", action="store_true", help="don't mask credentials and cookies")
    form = parser.add_mutually_exclusive_group()
    # Left out, it is as it was given before the name of the sub-command.
    form.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    form.add_argument("--mermaid", action="store_true", help="print a sequence diagram (Mermaid)")
    # The process that runs the other order; one process would share the counts of limits.
    add("--changed-only", action="store_true", help=argparse.SUPPRESS)


def read_request(arguments: argparse.Namespace) -> Request:
    """
    Return the request that the options describe.

    Raises:
        WrongUseError: with a sentence.

    """
    *methods, address = arguments.target
    if len(methods) > 1:
        msg = (
            f"Give one method and one path, such as POST /orders, not {' '.join(arguments.target)}."
        )
        raise WrongUseError(msg)
    body = _body([*arguments.data, *arguments.data_binary])
    method = (arguments.request or "".join(methods) or ("POST" if body else "GET")).upper()
    if not _TOKEN.fullmatch(method):
        msg = f"{method!r} is no method; use one such as GET or POST."
        raise WrongUseError(msg)
    websocket = arguments.websocket or address.lower().startswith(("ws://", "wss://"))
    if websocket and (body or method != "GET"):
        msg = "--websocket shows a handshake, which is a GET without a body: leave out -X and -d."
        raise WrongUseError(msg)
    scheme, host, target = _address(address)
    scheme = arguments.scheme or scheme
    headers, names = _headers(arguments.header, host=host, body=body)
    if websocket:
        scheme = _OF_WEBSOCKETS[scheme]
        headers += [
            (b"connection", b"Upgrade"),
            (b"upgrade", b"websocket"),
            (b"sec-websocket-version", b"13"),
            (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        ]
    if arguments.repeat < 1 or arguments.max_time <= 0:
        msg = "--repeat and --max-time take a number above 0."
        raise WrongUseError(msg)
    return Request(
        method=method,
        target=target,
        headers=headers,
        typed=names,
        body=body,
        client=_client(arguments.client),
        scheme=scheme,
        websocket=websocket,
    )


def _address(text: str) -> tuple[str, str, str]:
    """Return scheme, host and target of a path or of a whole URL."""
    if text.startswith("/"):
        scheme, host, target = "http", "localhost", text.partition("#")[0]
    else:
        try:
            parts = urlsplit(text)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in _SCHEMES or not parts.netloc:
            msg = f"{text!r} is no path and no URL: a path begins with a slash, such as /orders."
            raise WrongUseError(msg)
        scheme, host = _SCHEMES[parts.scheme], _host(parts.netloc.rpartition("@")[2])
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not all(map(str.isprintable, target)):
        msg = f"{target!r} has control characters; write them with %, such as %0A."
        raise WrongUseError(msg)
    return scheme, host, target


def _host(text: str) -> str:
    try:
        return text if text.isascii() else text.encode("idna").decode()
    except UnicodeError:
        msg = f"{text!r} is no host; write a name such as api.example."
        raise WrongUseError(msg) from None


def _headers(lines: Sequence[str], *, host: str, body: bytes) -> tuple[Headers, frozenset[str]]:
    """Return the headers, and the names of those that were typed; `Name:` takes one out."""
    typed: Headers = []
    removed = set[bytes]()
    for line in lines:
        name, colon, value = line.partition(":")
        value = value.strip()
        if not (colon and _TOKEN.fullmatch(name) and _VALUE.fullmatch(value)):
            msg = f"{line!r} is no header; write it like 'Origin: https://app.example'."
            raise WrongUseError(msg)
        key = name.lower().encode("ascii")
        removed.add(key)
        if value:
            typed.append((key, value.encode("latin-1")))
    defaults = [(b"host", host.encode())]
    defaults += [(b"user-agent", b"explain"), (b"accept", b"*/*")]
    if body:
        defaults.append((b"content-type", _media_type(body)))
        defaults.append((b"content-length", b"%d" % len(body)))
    headers = [*(item for item in defaults if item[0] not in removed), *typed]
    return headers, frozenset(name.decode("ascii") for name, _ in typed)


def _media_type(body: bytes) -> bytes:
    try:
        json.loads(body)
    except ValueError:
        return b"application/x-www-form-urlencoded"
    return b"application/json"


def _body(items: Sequence[str]) -> bytes:
    return b"&".join(map(_data, items))


def _data(item: str) -> bytes:
    if not item.startswith("@"):
        return item.encode(errors="surrogateescape")
    try:
        return Path(item[1:]).read_bytes()
    except OSError as error:
        msg = f"{item[1:]!r} can't be read: {error.strerror}."
        raise WrongUseError(msg) from None


def _client(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        msg = f"--client takes an IP address such as 203.0.113.9, not {text!r}."
        raise WrongUseError(msg) from None
