"""Settings that are read from the environment; a wrong one ends the start with a sentence."""

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import is_dataclass
from string import Template
from types import SimpleNamespace
from typing import Annotated, Any, Final, Never, Self, get_args, get_origin

from pydantic import (
    BaseModel,
    Secret,
    SecretBytes,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from .reading import read_json, split_commas

_STARTUP_FAILURE: Final = 3
_SECRETS: Final = (Secret, SecretBytes, SecretStr)
_LISTS: Final = (tuple, list, set, frozenset)
_LIST: Final = "must be a list: items separated by commas, or a JSON list"
_NUMBER: Final = "must be a number"
_WHOLE: Final = "must be a whole number"
# What pydantic finds wrong, in sentences that say what to write.
_RULES: Final[Mapping[str, str]] = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "finite_number": _NUMBER,
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "frozen_set_type": _LIST,
    "greater_than": "must be above $gt",
    "greater_than_equal": "must be $ge or more",
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_type": _WHOLE,
    "less_than": "must be below $lt",
    "less_than_equal": "must be $le or less",
    "list_type": _LIST,
    "literal_error": "must be $expected",
    "set_type": _LIST,
    "string_type": "must be text",
    "tuple_type": _LIST,
}
# The settings that are right by themselves, for the start that is under way.
_RIGHT: Final[ContextVar[dict[str, object] | None]] = ContextVar("right", default=None)


def refuse_to_start(*sentences: str) -> Never:
    """
    Print the sentences, without a traceback, and end the process.

    Raises:
        SystemExit: with the one status for which uvicorn's supervisor starts no new worker.

    """
    for sentence in sentences:
        print(sentence, file=sys.stderr)
    raise SystemExit(_STARTUP_FAILURE)


class EnvironmentSettings(BaseSettings):
    """
    Fields that are read from variables of the upper-case name, and from `.env`.

    Lists such as `tuple[str, ...]` are comma-separated or JSON. Variables of other programs in
    `.env` are ignored. No message shows the value of a secret. All text is UTF-8.
    """

    model_config = SettingsConfigDict(
        enable_decoding=False,
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _read(cls, value: object, info: ValidationInfo) -> object:
        """Read text as the type of its field needs it."""
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            msg = f"must be a number, not {value}"
            raise ValueError(msg)
        if not isinstance(value, str):
            return value
        # Python smuggles such bytes into text: they break where they are written.
        if not _is_encodable(value):
            msg = "must be UTF-8"
            raise ValueError(msg)
        if str in kinds:
            return value
        if any(issubclass(kind, _LISTS) for kind in kinds):
            return split_commas(value)
        return read_json(value) if any(map(_is_object, kinds)) else value

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
        except SettingsError as error:
            sentences = [f"{error}: {error.__cause__}."]
        except UnicodeDecodeError:
            sentences = [f"{cls.model_config.get('env_file')} must be UTF-8."]
        finally:
            _RIGHT.reset(token)
        refuse_to_start(*dict.fromkeys(sentences))

    def overridden(
        self, prefix: str, names: Collection[str], values: Mapping[str, object]
    ) -> dict[str, object]:
        """
        Return the settings of `names` with other `values`, each under the rules of its field.

        Raises:
            SystemExit: after a sentence for each wrong one, which begins with `prefix`.

        """
        # The class that has the fields, since a service's own may do more when it is made.
        lineage = [cls for cls in type(self).__mro__ if issubclass(cls, EnvironmentSettings)]
        base = next(cls for cls in reversed(lineage) if cls.model_fields.keys() >= {*names})
        given: dict[str, Any] = {"_env_file": None}
        given |= {name: getattr(self, name) for name in base.model_fields}
        given |= {name: values[name] for name in names}
        try:
            found = base(**given)
        except ValidationError as error:
            wrong = error.errors(include_url=False)
            refuse_to_start(*(prefix + self._sentence(details) for details in wrong))
        return {name: getattr(found, name) for name in names}

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
        context = error.get("ctx", {})
        if error["type"] == "value_error":
            return f"{name} {context['error']}.".lstrip()
        field = cls.model_fields.get(name.lower())
        if error["type"] == "missing":
            hint = field.description if field else None
            return f"{name} must be set: {hint}." if hint else f"{name} must be set."
        secret = field is not None and _holds_secret(field.annotation)
        shown = "" if secret else f", not {error['input']!r}"
        if error["type"] not in _RULES:
            return f"{name}: {error['msg']}{shown}."
        plain = {key: f"{it:g}" if type(it) is float else it for key, it in context.items()}
        rule = Template(_RULES[error["type"]]).substitute(plain)
        default = field.default if field else None
        example = f", such as {default}" if type(default) in {int, float} else ""
        return f"{name} {rule}{example}{shown}."


def keep_rules(settings: type[EnvironmentSettings], base: type[EnvironmentSettings]) -> None:
    """Let the fields of `base` keep their rules where `settings` gives another default."""
    changed = False
    for name, field in base.model_fields.items():
        own = settings.model_fields[name]
        if own.annotation != field.annotation or own.metadata != field.metadata:
            own.annotation, own.metadata = field.annotation, field.metadata
            changed = True
    if changed:
        settings.model_rebuild(force=True)


def _kinds(annotation: object) -> set[type]:
    """Return the class of a field, those of each part of a union, and `list` for any list."""
    origin = get_origin(annotation)
    if isinstance(annotation, type) and origin is None:
        return {annotation}
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return {origin if issubclass(origin, Mapping) else list}
    parts = get_args(annotation)[: 1 if origin is Annotated else None]
    return set().union(*map(_kinds, parts))


def _is_object(kind: type) -> bool:
    return issubclass(kind, (Mapping, BaseModel)) or is_dataclass(kind)


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
