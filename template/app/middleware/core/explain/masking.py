"""Masking: an explanation goes into bug reports, so it shows no secrets."""

import json
import re
from collections.abc import Iterable
from typing import Any, Final

from pydantic import BaseModel, SecretBytes, SecretStr

from app.middleware.core.headers import Headers

MASK: Final = "***"
# A shorter value may occur anywhere by chance; only its own header is masked.
_MINIMUM_LENGTH: Final = 8
# Those of CORS are public, such as Access-Control-Allow-Credentials.
_NAME: Final = re.compile(
    r"(?!access-control-)((proxy-)?authorization|(set-)?cookie|session"
    r"|.*(token|secret|passw|credential|signature|(api|access|private)[-_]?key))",
    re.IGNORECASE,
)
_MEMBER: Final = re.compile(r'("(?:\\.|[^"\\])*")(\s*:\s*)("(?:\\.|[^"\\])*")')
_PASSWORD_IN_URL: Final = re.compile(r"(://[^/\s:@]*:)[^@/\s]+@")
_PARAMETER: Final = re.compile(r"([?&])([^=&\s\"]+)=([^&\s\"#]*)")
# What Python shows of an object that has no text of its own.
_OBJECT: Final = re.compile(r"<(?:[\w.<>]+\.)?(\w+) object at 0x[0-9a-f]+>")
_COOKIE: Final = re.compile(r"[^=;\s]+=([^;]+)")


class Masker:
    """
    Masks values with a secret name, and the same value everywhere else.

    With `show` it masks nothing.
    """

    def __init__(
        self, headers: Headers, settings: BaseModel, *, names: Iterable[str], show: bool
    ) -> None:
        self._show = show
        self._names = frozenset(name.lower() for name in names)
        secrets = (*_sent(headers, self), *_set(settings))
        self._values = {secret for secret in secrets if len(secret) >= _MINIMUM_LENGTH}

    def hides(self, name: str) -> bool:
        """Return whether the value of this name is secret."""
        return not self._show and (name.lower() in self._names or bool(_NAME.match(name)))

    def header(self, name: str, value: str) -> str:
        if self._show:
            return value
        if name == "sec-websocket-protocol" and value.lower().startswith("bearer"):
            return f"bearer, {MASK}" if "," in value else value
        if not self.hides(name):
            return value
        if name == "set-cookie":
            # The attributes matter and are no secret.
            return re.sub(r"=[^;]*", f"={MASK}", value, count=1)
        scheme, space, _ = value.partition(" ")
        return f"{scheme} {MASK}" if space and name.endswith("authorization") else MASK

    def text(self, text: str) -> str:
        """Mask secret members of JSON, parameters of addresses, and every known secret."""
        if self._show:
            return text
        text = _MEMBER.sub(self._member, text)
        text = _PARAMETER.sub(self._parameter, text)
        text = _PASSWORD_IN_URL.sub(rf"\1{MASK}@", text)
        for value in sorted(self._values, key=len, reverse=True):
            text = text.replace(value, MASK).replace(json.dumps(value)[1:-1], MASK)
        return text

    def setting(self, value: Any) -> str:
        """Return the value of a setting as text; of `Name: value` for a secret header, the name."""
        items = value if isinstance(value, tuple) else (value,)
        return ",".join(self.text(self._header(shown(item))) for item in items)

    def value(self, name: str, value: Any) -> str:
        """Return a value of the request's state as text."""
        if isinstance(value, dict) and not self._show:
            return "{" + ", ".join(f"{key!r}: {MASK}" for key in value) + "}" if value else "{}"
        if value is None:
            return "None"
        return MASK if self.hides(name) else self.text(shown(value))

    def _header(self, item: str) -> str:
        name, colon, _ = item.partition(": ")
        return f"{name}: {MASK}" if colon and self.hides(name) else item

    def _member(self, match: re.Match[str]) -> str:
        name, colon, value = match.groups()
        return f'{name}{colon}"{MASK}"' if self.hides(name[1:-1]) else f"{name}{colon}{value}"

    def _parameter(self, match: re.Match[str]) -> str:
        mark, name, value = match.groups()
        return f"{mark}{name}={MASK if self.hides(name) and value else value}"


def shown(value: Any) -> str:
    """Return a value as people write it: lists with commas, an address without its port."""
    if isinstance(value, SecretStr | SecretBytes):
        value = value.get_secret_value()
    if isinstance(value, (tuple, list, frozenset, set)):
        return ",".join(map(shown, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else _OBJECT.sub(r"<\1>", str(value))


def _sent(headers: Headers, masker: Masker) -> Iterable[str]:
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name == "cookie":
            yield from _COOKIE.findall(value)
        elif name == "sec-websocket-protocol":
            yield from (item.strip() for item in value.split(",")[1:])
        elif masker.hides(name):
            yield value
            yield value.rpartition(" ")[2]


def _set(settings: BaseModel) -> Iterable[str]:
    for _, value in settings:
        if isinstance(value, SecretStr | SecretBytes):
            yield shown(value)
