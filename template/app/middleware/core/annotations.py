"""Annotations: what the type of a setting holds."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

from pydantic import AliasChoices, AliasPath, BaseModel, Json, Secret, SecretBytes, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import NoDecode

_SECRETS: Final[tuple[type, ...]] = (Secret, SecretBytes, SecretStr)


def of_field(field: FieldInfo) -> Any:
    """Return the annotation of a field as it was written."""
    annotated: Any = Annotated
    return annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def aliases(field: FieldInfo) -> list[str]:
    """Return the names by which a field is read instead of its own."""
    match field.validation_alias:
        case str(alias):
            return [alias]
        case AliasPath() as path:
            return [str(path.path[0])]
        case AliasChoices() as choices:
            return [str(path[0]) for path in choices.convert_to_aliases()]
        case _:
            return []


def kinds(annotation: object) -> set[type]:
    """Return the class of an annotation, those of each part of a union, and `list` for any list."""
    found = set()
    for part in _parts(annotation):
        origin = get_origin(part)
        if origin is not None:
            found.add(origin if issubclass(origin, Mapping) else list)
        elif isinstance(part, type):
            found.add(part)
    return found


def choices(annotation: object) -> list[Any]:
    """Return the values that a `Literal` lists."""
    return [part for part in _parts(annotation) if not isinstance(part, type)]


def is_object(annotation: object) -> bool:
    """Return whether it can be a mapping, a model or a data class."""
    return any(
        is_dataclass(kind) or issubclass(kind, (Mapping, BaseModel)) for kind in kinds(annotation)
    )


def member(annotation: object, key: str | int) -> Any:
    """Return the annotation of what is under `key`; None without one, as for a part of a union."""
    for part in _parts(annotation):
        origin, of = get_origin(part), get_args(part)
        if isinstance(key, str):
            found = of[-1] if origin and issubclass(origin, Mapping) else _members(part).get(key)
        elif isinstance(origin, type) and not issubclass(origin, Mapping):
            found = of[key] if key < len(of) and of[-1] is not ... else of[0]
        else:
            continue
        if found is not None:
            return found
    return None


def length(annotation: object) -> int:
    """Return how many items a tuple must have."""
    return max(
        (len(get_args(part)) for part in _parts(annotation) if get_origin(part) is tuple), default=0
    )


def holds_secret(annotation: object) -> bool:
    """Return whether it is a secret, or has one in it as `SecretStr | None` and a model can."""
    seen: list[object] = []
    waiting = [annotation]
    while waiting:
        part = _resolved(waiting.pop())
        kind = get_origin(part) or part
        if isinstance(kind, type) and issubclass(kind, _SECRETS):
            return True
        if part not in seen:
            seen.append(part)
            waiting += [*get_args(part), *_members(part).values()]
    return False


def _parts(annotation: object) -> Iterator[Any]:
    """Yield the parts of a union, without what is annotated; `str` where the type reads text."""
    annotation = _resolved(annotation)
    origin, of = get_origin(annotation), get_args(annotation)
    if origin is None or (isinstance(origin, type) and issubclass(origin, Iterable)):
        yield annotation
    elif origin is Annotated and any(map(_reads_text, of[1:])):
        yield str
    else:
        for part in of[: 1 if origin is Annotated else None]:
            yield from _parts(part)


def _resolved(annotation: Any) -> Any:
    """Return the annotation that a type alias or a `NewType` names."""
    for name in ("__value__", "__supertype__"):
        if hasattr(annotation, name):
            return _resolved(getattr(annotation, name))
    return annotation


def _reads_text(mark: object) -> bool:
    json: Any = Json  # a class at run time
    return mark is NoDecode or isinstance(mark, json)


def _members(kind: Any) -> dict[str, Any]:
    """Return the annotations of a model, a data class or a typed dictionary."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {
            name: of_field(field)
            for key, field in kind.model_fields.items()
            for name in (key, *aliases(field))
        }
    if isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, dict)):
        return get_type_hints(kind, include_extras=True)
    return {}
