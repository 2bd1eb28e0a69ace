"""Session: the settings of Starlette's `SessionMiddleware`, checked before it is built."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from .core.secret import HOW_TO_MAKE_ONE, check_secret


def _secret(value: SecretStr) -> SecretStr:
    """Refuse what others could guess: who knows the secret can be any user."""
    check_secret(value.get_secret_value())
    return value


def check_same_site(*, same_site: str, https_only: bool) -> None:
    """
    Refuse a cookie that browsers drop: one for all sites has to be Secure.

    Raises:
        ValueError: a sentence with the way out.

    """
    if same_site == "none" and not https_only:
        msg = (
            "SESSION_HTTPS_ONLY must be true with SESSION_SAME_SITE=none,"
            " or browsers drop the cookie"
        )
        raise ValueError(msg)


SameSite = Literal["lax", "strict", "none"]
SessionSecret = Annotated[SecretStr, Field(description=HOW_TO_MAKE_ONE), AfterValidator(_secret)]
