"""Session: the settings of Starlette's `SessionMiddleware`, checked before it is built."""

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, SecretStr

from .core.reading import Plain, in_any_case
from .core.secret import HOW_TO_MAKE_ONE, check_secret


def _secret(value: SecretStr) -> SecretStr:
    """Refuse what others could guess: who knows the secret can be any user."""
    check_secret(value.get_secret_value())
    return value


def check_cookie(*, name: str, same_site: str, https_only: bool) -> None:
    """
    Refuse a cookie that browsers drop: one for all sites has to be Secure, as its name may say.

    Raises:
        ValueError: a sentence with the way out.

    """
    if https_only:
        return
    prefixed = name.lower().startswith(("__host-", "__secure-"))
    if same_site == "none" or prefixed:
        cause = f"SESSION_COOKIE={name}" if prefixed else "SESSION_SAME_SITE=none"
        msg = f"SESSION_HTTPS_ONLY must be true with {cause}, or browsers drop the cookie"
        raise ValueError(msg)


def _cookie_name(value: str) -> str:
    """Refuse what no cookie can be named (RFC 6265, 4.1.1)."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", value):
        msg = (
            "must be the name of a cookie: letters, digits, hyphens, dots and underscores,"
            f" not {value!r}"
        )
        raise ValueError(msg)
    return value


_SameSite = Literal["lax", "strict", "none"]
SameSite = Annotated[_SameSite, in_any_case(*get_args(_SameSite))]
CookieName = Annotated[str, AfterValidator(_cookie_name), Plain]
SessionSecret = Annotated[SecretStr, Field(description=HOW_TO_MAKE_ONE), AfterValidator(_secret)]
