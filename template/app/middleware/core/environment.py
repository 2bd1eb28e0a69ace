"""Environment: reads settings, and prints a sentence for each wrong one."""

import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from difflib import get_close_matches
from itertools import chain
from os import PathLike
from os.path import lexists
from pathlib import Path
from string import Template
from types import SimpleNamespace
from typing import Annotated, Any, Final, Never, Self

from pydantic import (
    AliasChoices,
    AliasPath,
    BeforeValidator,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)
from pydantic_settings.sources import DotenvType

from . import annotations
from .reading import (
    QuotedError,
    broken_lines,
    read_json,
    split_commas,
    unset_names,
    without_user,
)

_STARTUP_FAILURE: Final = 3
_USER_IN_URL: Final = re.compile(r"://\S*@")
_NAME: Final = re.compile(r"\b[A-Z][A-Z0-9_]*\b")
_LISTS: Final = (tuple, list, set, frozenset)
_LIST: Final = "must be a list: items separated by commas, or a JSON list"
_NUMBER: Final = "must be a number"
_WHOLE: Final = "must be a whole number"
# What pydantic finds wrong, in sentences that say what to write.
_RULES: Final[Mapping[str, str]] = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "enum": "must be $expected",
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
    Print the sentences, without a traceback and the users of URLs, and end the process.

    Raises:
        SystemExit: with the one status for which uvicorn's supervisor starts no new worker.

    """
    for sentence in sentences:
        print(_USER_IN_URL.sub("://***@", sentence), file=sys.stderr)
    raise SystemExit(_STARTUP_FAILURE)


class EnvFileError(SettingsError):
    """A file of variables, or a line of it, would be left out, or be filled with nothing."""


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

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """
        Return the usual sources.

        Raises:
            EnvFileError: an env file or a line of it can't be read, and defaults would hold, or a
                part of a value would be empty.
            TypeError: there is no field for a keyword, which would be left out.

        """
        if isinstance(init_settings, InitSettingsSource):
            cls._refuse_unknown(init_settings.init_kwargs)
        if isinstance(dotenv_settings, DotEnvSettingsSource):
            cls._check_env_files(dotenv_settings.env_file, dotenv_settings.env_file_encoding)
        for source in (env_settings, dotenv_settings, file_secret_settings):
            _let_read_objects(source)
        return super().settings_customise_sources(
            settings_cls, init_settings, env_settings, dotenv_settings, file_secret_settings
        )

    @field_validator("*", mode="before")
    @classmethod
    def _read(cls, value: object, info: ValidationInfo) -> object:
        """Read text as the type of its field needs it."""
        field = cls.model_fields[str(info.field_name)]
        annotation = annotations.of_field(field)
        kinds = annotations.kinds(annotation)
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            msg = f"must be a number, not {value}"
            raise ValueError(msg)
        return _read_as(annotation, value, shown=not _is_secret(field, annotation))

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
            # Before the library reads them, which logs a line of its own.
            config = cls.model_config
            cls._check_env_files(config.get("env_file"), config.get("env_file_encoding"))
            return cls()
        except ValidationError as error:
            wrong = error.errors(include_url=False)
            for details in wrong:
                right.pop(cls._field(details["loc"]), None)
            sentences = [*map(cls._sentence, wrong), *cls._misfits(right)]
        except EnvFileError as error:
            sentences = [f"{error}."]
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
            say = base._sentence  # noqa: SLF001 - a class of this family
            refuse_to_start(*(prefix + say(it) for it in error.errors(include_url=False)))
        return {name: getattr(found, name) for name in names}

    @classmethod
    def renamed(cls, sentence: str) -> str:
        """Put in the variables of this class: a rule names those of the class that has it."""
        variables = {name.upper(): " or ".join(cls._variables(name)) for name in cls.model_fields}
        return _NAME.sub(lambda match: variables.get(match[0], match[0]), sentence)

    @classmethod
    def _check_env_files(cls, files: DotenvType | None, encoding: str | None) -> None:
        for file in [files] if isinstance(files, (str, PathLike)) else files or ():
            path = Path(file).expanduser()
            if not lexists(path):
                continue
            try:
                if path.is_fifo():  # which can be read once only
                    continue
                lines = [*broken_lines(path, encoding)]
            except OSError as error:
                msg = (
                    f"{file} must be a file that this process can read, or not be there:"
                    f" {error.strerror}"
                )
                raise EnvFileError(msg) from None
            if lines:
                msg = (
                    f"{file} must have NAME=value or a comment on each line, with quotes around all"
                    f" of a value or none of it; see line {', '.join(map(str, lines))}"
                )
                raise EnvFileError(msg)
            # The environment goes first, and other variables are those of other programs.
            read = {it.lower() for name in cls.model_fields for it in cls._variables(name)}
            read -= {it.lower() for it in os.environ}
            for variable, name, line in unset_names(path, encoding):
                if variable.lower().startswith(tuple(read)):
                    # Another text may be a part of a secret.
                    shown = name if _NAME.fullmatch(name) else "..."
                    msg = (
                        f"{file} must fill ${{{shown}}} of {variable} in line {line}, which would"
                        " be empty, in quotes too; set it above that line or in the environment,"
                        f" or write ${{{shown}:-default}}"
                    )
                    raise EnvFileError(msg)

    @classmethod
    def _refuse_unknown(cls, keywords: Collection[str]) -> None:
        aliases = (annotations.aliases(field) for field in cls.model_fields.values())
        known = {*cls.model_fields, *chain.from_iterable(aliases)}
        # A file can have variables of others, a call can't.
        if cls.model_config.get("extra") == "ignore" and (unknown := {*keywords} - known):
            name = min(unknown)
            near = get_close_matches(name.lower(), known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            msg = f"{cls.__name__} has no field {name}{hint}"
            raise TypeError(msg)

    @classmethod
    def _misfits(cls, right: Mapping[str, object]) -> Iterator[str]:
        """Yield what Pydantic checks last, and not at all once a setting is wrong."""
        for validator in cls.__pydantic_decorators__.model_validators.values():
            if validator.info.mode == "after":
                try:
                    validator.func(SimpleNamespace(**right))
                except (AssertionError, ValueError) as error:
                    yield cls.renamed(f"{error}.")
                except Exception:  # noqa: BLE001, S112 - it needs a setting that is wrong itself
                    continue

    @classmethod
    def _sentence(cls, error: Any) -> str:
        loc, context = error["loc"], error.get("ctx", {})
        if not loc:
            return cls.renamed(f"{context.get('error', error['msg'])}.")
        field = cls.model_fields.get(cls._field(loc))
        # An item that a tuple lacks has a place, too.
        lacks_item = error["type"] == "missing" and isinstance(loc[-1], int)
        name, annotation = cls._place(loc[:-1] if lacks_item else loc)
        plain = without_user(error["input"])
        if error["type"] == "value_error":
            rule = cls.renamed(str(context["error"])).replace(str(error["input"]), str(plain))
            wrong = _wrong_without_quotes(annotation, context["error"])
            return cls._sentence({**wrong, "loc": loc}) if wrong else f"{name} {rule}."
        secret = field is None or _is_secret(field, annotation)
        shown = "" if secret else f", not {plain!r}"
        if lacks_item:
            return f"{name} must have {annotations.length(annotation)} items{shown}."
        own = field if len(loc) == 1 else None
        if error["type"] == "missing":
            hint = own.description if own else None
            return f"{name} must be set: {hint}." if hint else f"{name} must be set."
        if error["type"] not in _RULES:
            return f"{name}: {error['msg']}{shown}."
        limits = {key: f"{it:g}" if type(it) is float else it for key, it in context.items()}
        rule = Template(_RULES[error["type"]]).substitute(limits)
        default = own.default if own else None
        example = f", such as {default}" if type(default) in {int, float} else ""
        return f"{name} {rule}{example}{shown}."

    @classmethod
    def _field(cls, loc: tuple[Any, ...]) -> str:
        """Return the name of the field of an error, which may name an alias."""
        names = {
            alias: name
            for name, field in cls.model_fields.items()
            for alias in (*annotations.aliases(field), name)
        }
        return names.get(loc[0], str(loc[0])) if loc else ""

    @classmethod
    def _place(cls, loc: tuple[Any, ...]) -> tuple[str, Any]:
        """Return the variable of an error, with its place in there, and the annotation of that."""
        name = cls._field(loc)
        field = cls.model_fields.get(name)
        annotation = annotations.of_field(field) if field else None
        variables = cls._variables(name)
        path: list[str] = []
        for key in loc[1:]:
            # What has none is a part of a union.
            if (inner := annotations.member(annotation, key)) is not None:
                annotation = inner
                path += [key] if isinstance(key, str) else []
        if path and (delimiter := cls.model_config.get("env_nested_delimiter")):
            variables = [delimiter.join([it, *map(cls._cased, path)]) for it in variables]
            path = []
        place = " or ".join(variables)
        return (f"{place}: {'.'.join(path)}" if path else place), annotation

    @classmethod
    def _variables(cls, name: str) -> list[str]:
        """Return the variables that are read for the field of this name."""
        field = cls.model_fields.get(name)
        aliases = annotations.aliases(field) if field else []
        prefixed = {"all", "alias" if aliases else "variable"}
        has_prefix = cls.model_config.get("env_prefix_target", "variable") in prefixed
        prefix = cls.model_config.get("env_prefix", "") if has_prefix else ""
        return [cls._cased(prefix + it) for it in aliases or [name]]

    @classmethod
    def _cased(cls, name: str) -> str:
        return name if cls.model_config.get("case_sensitive") else name.upper()


def keep_rules(settings: type[EnvironmentSettings], base: type[EnvironmentSettings]) -> None:
    """Let the fields of `base` keep their rules where `settings` gives another default."""
    changed = False
    for name, field in base.model_fields.items():
        own = settings.model_fields[name]
        if own.annotation != field.annotation or own.metadata != field.metadata:
            own.annotation, own.metadata, own.repr = field.annotation, field.metadata, field.repr
            changed = True
    if changed:
        settings.model_rebuild(force=True)


def _let_read_objects(source: PydanticBaseSettingsSource) -> None:
    """
    Let a source read the JSON that it merges with other variables or picks from.

    Other text is left to the type of its field, since a list may have commas.
    """
    decode = source.decode_complex_value

    def decode_objects(field_name: str, field: Any, value: Any) -> Any:
        value = decode(field_name, field, value)
        if field is None or NoDecode in field.metadata or not isinstance(value, str):
            return value
        picks = isinstance(field.validation_alias, AliasPath | AliasChoices)
        if picks or annotations.is_object(annotations.of_field(field)):
            with suppress(ValueError):
                found = read_json(value)
                return found if isinstance(found, (dict, list) if picks else dict) else value
        return value

    source.decode_complex_value = decode_objects  # type: ignore[method-assign]


def _wrong_without_quotes(annotation: Any, error: object) -> Any:
    """Return what else is wrong with a value in quotes: without them it would be refused too."""
    if isinstance(error, QuotedError) and error.bare:
        read = BeforeValidator(lambda bare: _read_as(annotation, bare, shown=True))
        annotated: Any = Annotated
        try:
            TypeAdapter(annotated[annotation, read]).validate_python(error.bare)
        except ValidationError as wrong:
            return wrong.errors(include_url=False)[0]
    return None


def _read_as(annotation: Any, value: object, *, shown: bool) -> object:
    """Read text as its type needs it, in a model and in a list too."""
    if isinstance(value, dict) and annotations.is_object(annotation):
        return {
            key: _read_member(annotation, key, item, shown=shown) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_read_item(annotation, *item, shown=shown) for item in enumerate(value)]
    return _read_text(annotation, value, shown=shown) if isinstance(value, str) else value


def _read_text(annotation: Any, text: str, *, shown: bool) -> object:
    # Python smuggles such bytes into text: they break where they are written.
    try:
        text.encode()
    except UnicodeEncodeError:
        msg = "must be UTF-8"
        raise ValueError(msg) from None
    kinds = annotations.kinds(annotation)
    if str in kinds:
        return text
    if any(issubclass(kind, _LISTS) for kind in kinds):
        return _read_as(annotation, split_commas(text, shown=shown), shown=shown)
    if annotations.is_object(annotation):
        return _read_as(annotation, read_json(text), shown=shown)
    return _as_choice(annotation, text)


def _read_member(annotation: Any, key: Any, value: object, *, shown: bool) -> object:
    with suppress(ValueError):  # Pydantic refuses it, and names its place
        value = _read_as(annotations.member(annotation, key), value, shown=shown)
    return value


def _read_item(annotation: Any, at: int, value: object, *, shown: bool) -> object:
    # The text of an item has no commas of its own.
    if isinstance(value, str):
        return _as_choice(annotations.member(annotation, at), value)
    return _read_member(annotation, at, value, shown=shown)


def _as_choice(annotation: Any, text: str) -> object:
    """Return the number of `Literal[1, 2]` that a text spells, else the text."""
    choices = annotations.choices(annotation)
    spelled = {str(it).lower(): it for it in choices if isinstance(it, int)}
    return text if text in choices else spelled.get(text.strip().lower(), text)


def _is_secret(field: FieldInfo, annotation: object) -> bool:
    """Return whether no message may show it: it holds a secret, or its own `repr` leaves it out."""
    return not field.repr or annotations.holds_secret(annotation)
