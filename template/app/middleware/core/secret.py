"""Secrets: a value that can be guessed ends the start."""

from itertools import pairwise
from typing import Final

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


def check_secret(value: str) -> None:
    """
    Reject a secret that is short, repetitive or known from an example.

    Raises:
        ValueError: a sentence that says how to make one, and never shows the value.

    """
    if len(value) < MINIMUM_LENGTH:
        _refuse(f"must have {MINIMUM_LENGTH} characters or more")
    if any(known in _letters(value) for known in _KNOWN):
        _refuse("must not be the value of an example")
    if _is_monotonous(value):
        _refuse("must be random, not a pattern")


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
