"""Secrets: rejects a value that can be guessed, or that others may know."""

import hashlib
import json
import os
import re
from base64 import b64decode
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Final

from .reading import PLACEHOLDER, plain

MINIMUM_LENGTH: Final = 32
HOW_TO_MAKE_ONE: Final = (
    "`python -c 'import secrets; print(secrets.token_hex(32))'` makes a good one"
)

_MINIMUM_VARIETY: Final = 8
# Parts of the values that documentation and examples show, in lower case without hyphens.
_KNOWN: Final = (
    "09d25e094",  # the key of a tutorial; more of it would look like one to scanners
    "changeit",
    "changeme",
    "changethis",
    "djangoinsecure",
    "example",
    "foobar",
    "insecure",
    "keyboardcat",
    "mysecret",
    "notasecret",
    "password",
    "placeholder",
    "replaceme",
    "secretkey",
    "supersecret",
    "topsecret",
    "yoursecret",
)
# What a command prints that gets an empty variable.
OF_NOTHING: Final = frozenset(
    hashlib.new(name, nothing, usedforsecurity=False).hexdigest()
    for name in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")
    for nothing in (b"", b"\n", b"\r\n")
)
# An address, also of a secret in a store: op://, vault:, arn:, @Microsoft.KeyVault(...), a path.
_ADDRESS: Final = re.compile(
    r"[a-z][a-z0-9+.-]*://|(arn|secretref|secretsmanager|ssm|vault):|@[\w.]+\("
    r"|projects/[\w-]+/secrets/|(/[a-z0-9._-]+){2,}$"
)
_PEM: Final = re.compile(r"-----BEGIN ([A-Z0-9]+ )*?(?P<kind>PRIVATE|PUBLIC|CERTIFICATE)\b")
_SSH: Final = re.compile(r"(ssh|ecdsa|sk)-[a-z0-9@.-]+ AAAA")
_PARTS_OF_JWK: Final = frozenset({"keys", "kty", "x5c"})
_SEQUENCE: Final = rb"\x30(?:[\x00-\x7f]|\x81.|\x82..)"
# How a key begins in DER: a certificate (RFC 5280, 4.1), a private key (RFC 5208, 5; 5915, 3;
# 8017, A.1.2), a public one (RFC 5280, 4.1.2.7; 8017, A.1.1).
_DER: Final = re.compile(
    rb"%(s)b(?:(?P<CERTIFICATE>%(s)b(?:\xa0\x03)?\x02)|(?P<PRIVATE>\x02\x01[\x00\x01])"
    rb"|(?P<PUBLIC>\x30.\x06|\x02\x82..\x00))" % {b"s": _SEQUENCE},
    re.DOTALL,
)
_ENCODED: Final = 24


def check_secret(value: str) -> None:
    """
    Reject a secret that is short, repetitive, known from an example, or none at all.

    Raises:
        ValueError: with a message that says how to make one, and never shows the value.

    """
    plain(value, shown=False)
    name = value.strip()
    if PLACEHOLDER.fullmatch(name) or _ADDRESS.match(name) or os.path.isfile(value):  # noqa: PTH113 - a Path's may raise
        _refuse("must be the secret itself, not the name of where it is")
    if kind_of_key(value) not in {"", "PRIVATE"}:
        _refuse("must be a secret, not a public key, which others have too")
    if len(value) < MINIMUM_LENGTH:
        _refuse(f"must have {MINIMUM_LENGTH} characters or more")
    if any(known in _letters(value) for known in _KNOWN):
        _refuse("must not be the value of an example")
    if any(known in value.lower() for known in OF_NOTHING):
        _refuse("must not be the hash of an empty text")
    if _is_monotonous(value):
        _refuse("must be random, not a pattern")


def kind_of_key(text: str) -> str:
    """
    Say what a program made: a PUBLIC or PRIVATE key, a CERTIFICATE, JWK, SSH or ENCODED.

    The first three in PEM, also within other text, or in DER as base64 or hexadecimal digits; the
    last is PEM or JWK as base64.
    """
    if pem := _PEM.search(text):
        return pem["kind"]
    if _SSH.match(text):
        return "SSH"
    with suppress(ValueError):
        parsed = json.loads(text)
        items = parsed if isinstance(parsed, list) else [parsed]
        return "JWK" if any(map(_is_of_jwk, items)) else ""
    begin = re.sub(r"\s|\\n", "", text).translate({ord("-"): "+", ord("_"): "/"})
    for decode in (partial(b64decode, validate=True), bytes.fromhex):
        with suppress(ValueError):
            begun = decode(begin[:_ENCODED])
            if found := _DER.match(begun):
                return str(found.lastgroup)
            if begun.startswith((b"-----BEGIN", b'{"k')):
                return "ENCODED"
    return ""


def _is_of_jwk(item: object) -> bool:
    if isinstance(item, dict):
        return bool(_PARTS_OF_JWK & item.keys())
    return isinstance(item, str) and bool(kind_of_key(item))


def _letters(value: str) -> str:
    return value.lower().translate({ord(mark): None for mark in "-_. "})


def _is_monotonous(value: str) -> bool:
    """Find few different characters, a repeated part (`abcabc`) and a row (`abcdef`)."""
    repeats = value in (value * 2)[1:-1]
    return len(set(value)) < _MINIMUM_VARIETY or repeats or _is_row(value)


def _is_row(value: str) -> bool:
    near = sum(abs(ord(left) - ord(right)) <= 1 for left, right in pairwise(value))
    return near > len(value) / 2


def _refuse(rule: str) -> None:
    msg = f"{rule}; {HOW_TO_MAKE_ONE}"
    raise ValueError(msg)
