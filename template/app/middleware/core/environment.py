"""Settings that are read from the environment and refused in sentences."""

import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any, Final, Never, Self, get_args, get_origin

from pydantic import (
    Secret,
    SecretBytes,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

_STARTUP_FAILURE: Final = 3
_SECRETS: Final = (Secret, SecretBytes, SecretStr)
# The settings that are right by themselves, for the start that is under way.
_RIGHT: Final[ContextVar[dict[str, object] | None]] = ContextVar("right", default=None)


def refuse_to_start(*sentences: str) -> Never:
    """
    Say why, without a traceback, and end the process.

    Raises:
        SystemExit: with the one status for which uvicorn's supervisor starts no new worker.

    """
    for sentence in sentences:
        print(sentence, file=sys.stderr)
    raise SystemExit(_STARTUP_FAILURE)


class EnvironmentSettings(BaseSettings):
    """
    Fields that are read from variables of the upper-case name, and from `.env`.

    Variables of other programs in `.env` are ignored. No message shows the value of a secret.
    All text is UTF-8.
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_utf8(cls, value: object) -> object:
        """Refuse bytes that Python smuggled into text: they break where they are written."""
        if isinstance(value, str) and not _is_encodable(value):
            msg = "must be UTF-8"
            raise ValueError(msg)
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _is_right(cls, value: object, info: ValidationInfo) -> object:
        if (right := _RIGHT.get()) is not None and info.field_name:
            right[info.field_name] = value
        return value

    @classmethod
    def from_environment(cls) -> Self:
        """
        Return the settings of this process.

        Raises:
            SystemExit: after a sentence for each wrong setting, and for each that fits no other.

        """
        right: dict[str, object] = {}
        token = _RIGHT.set(right)
        try:
            return cls()
        except ValidationError as error:
            wrong = error.errors(include_url=False)
            for details in wrong:
                right.pop(str(details["loc"][0]) if details["loc"] else "", None)
            sentences = [*map(cls._sentence, wrong), *cls._misfits(right)]
        except UnicodeDecodeError:
            sentences = [f"{cls.model_config.get('env_file')} must be UTF-8."]
        finally:
            _RIGHT.reset(token)
        refuse_to_start(*dict.fromkeys(sentences))

    @classmethod
    def _misfits(cls, right: Mapping[str, object]) -> Iterator[str]:
        """Yield what Pydantic checks last, and not at all once a setting is wrong."""
        for validator in cls.__pydantic_decorators__.model_validators.values():
            if validator.info.mode == "after":
                try:
                    validator.func(SimpleNamespace(**right))
                except (AssertionError, ValueError) as error:
                    yield f"{error}."
                except Exception:  # noqa: BLE001, S112 - it needs a setting that is wrong itself
                    continue

    @classmethod
    def _sentence(cls, error: Any) -> str:
        name = str(error["loc"][0]).upper() if error["loc"] else ""
        if error["type"] == "value_error":
            return f"{name} {error['ctx']['error']}.".lstrip()
        field = cls.model_fields.get(name.lower())
        if error["type"] == "missing":
            hint = field.description if field else None
            return f"{name} must be set: {hint}." if hint else f"{name} must be set."
        secret = field is not None and _holds_secret(field.annotation)
        shown = "" if secret else f", not {error['input']!r}"
        return f"{name}: {error['msg']}{shown}."


def _holds_secret(annotation: object) -> bool:
    """Say whether it is a secret, or has one in it as `SecretStr | None` has."""
    secret = (get_origin(annotation) or annotation) in _SECRETS
    return secret or any(_holds_secret(part) for part in get_args(annotation))


def _is_encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
