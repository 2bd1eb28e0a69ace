"""Reading: how the text of a variable becomes a value."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

from dotenv.parser import Original, parse_stream
from dotenv.variables import Variable, parse_variables
from pydantic import AfterValidator, BeforeValidator

# What a tool was to replace by a value, and what is in no text: ${NAME}, {{ name }}, #{NAME}#.
_UNFILLED: Final = re.compile(r"\$\{[^{}]*\}|\$?\{\{[^{}]*\}\}|#\{[^{}]*\}#?")
# The same, and $(command), $NAME, %NAME%, __NAME__, {name} and <name>.
PLACEHOLDER: Final = re.compile(
    rf"{_UNFILLED.pattern}|\$\([^()]*\)|\$[A-Z_][A-Z0-9_]+|%[A-Z_][A-Z0-9_]{{2,}}%"
    r"|__[A-Z][A-Z0-9_]+__|\{+[\w .:-]*\}+|<[\w .:-]*>"
)
_BEGINS_JSON: Final = re.compile(r"""\s*[\[{][\s\[{]*["']""")
_VARIABLE: Final = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)
# As word processors make them.
_TYPOGRAPHIC: Final = "\u201c\u201d\u201e\u2018\u2019\u201a\xab\xbb"
_QUOTES: Final = f"\"'{_TYPOGRAPHIC}"
_IN_QUOTES: Final = re.compile(
    rf"""(["']).*\1|[{_TYPOGRAPHIC}][^{_TYPOGRAPHIC}]*[{_TYPOGRAPHIC}]""", re.DOTALL
)
# Those that come along with copied text: spaces without a width, byte order marks, directions.
_INVISIBLE: Final = re.compile("[\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


class QuotedError(ValueError):
    """A value in quotes, and what is in them; nothing, if it's a secret."""

    def __init__(self, bare: str, *, shown: bool) -> None:
        self.bare = bare if shown else ""
        super().__init__(
            "must not be in quotes, which some tools such as `docker run --env-file` keep;"
            f" {f'write {bare}' if shown else 'leave them out'}"
        )


def plain(value: object, *, shown: bool = True) -> object:
    """
    Take white space away; refuse quotes around the value, and what nobody sees in it.

    The value is `shown` if it's no secret. A secret may look like anything, other text holds no
    placeholder.
    """
    if not isinstance(value, str):
        return value
    text = _visible(value, shown=shown).strip()
    if is_quoted(text):
        raise QuotedError(text[1:-1], shown=shown)
    return filled(text) if shown else text


def filled(text: str) -> str:
    """Refuse what a tool was to replace by a value."""
    if found := _UNFILLED.search(text):
        msg = f"must not hold the placeholder {found[0]}, which nothing fills in"
        raise ValueError(msg)
    return text


def is_quoted(text: str) -> bool:
    """Return whether there are quotes around it."""
    return bool(_IN_QUOTES.fullmatch(text))


def _visible(value: str, *, shown: bool) -> str:
    if found := _INVISIBLE.search(value):
        bare = _INVISIBLE.sub("", value).strip()
        way_out = f"write {bare[1:-1] if is_quoted(bare) else bare}" if shown else "leave it out"
        msg = f"must not hold the invisible character U+{ord(found[0]):04X}; {way_out}"
        raise ValueError(msg)
    return value


def split_commas(value: str, *, shown: bool = True) -> Any:
    """Read `a,b` and `["a", "b"]` in the same way; other JSON passes to the next check."""
    if _visible(value, shown=shown).lstrip().startswith(("[", "{")):
        try:
            return json.loads(value)
        except ValueError as error:
            # An IPv6 host such as [::1] is no JSON.
            if _BEGINS_JSON.match(value):
                it = f", not {value!r}" if shown else ""
                msg = f"must be JSON, or items with commas between them{it}: {error}"
                raise ValueError(msg) from None
    items = [item for part in value.split(",") if (item := part.strip())]
    if any(map(is_quoted, (value.strip(), *items))):
        bare = filter(None, (item.strip(_QUOTES) for item in items))
        raise QuotedError(",".join(bare), shown=shown)
    return items


def read_json(value: str) -> Any:
    """Read what is more than a text or a list."""
    try:
        return json.loads(value)
    except ValueError as error:
        msg = f"must be JSON: {error}"
        raise ValueError(msg) from None


def broken_lines(file: Path, encoding: str | None) -> Iterator[int]:
    """Yield the number of each line of an env file that sets no variable, and is no comment."""
    with file.open(encoding=encoding) as stream:
        for key, value, original, error in parse_stream(stream):
            named = key is None or (value is not None and _VARIABLE.fullmatch(key))
            if error or not named:
                yield _line_of(original)


def unset_names(file: Path, encoding: str | None) -> Iterator[tuple[str, str, int]]:
    """Yield the variable, the name and the line of each `${NAME}` that an env file can't fill."""
    known = {*os.environ}
    with file.open(encoding=encoding) as stream:
        for key, value, original, _ in parse_stream(stream):
            parts = [it for it in parse_variables(value or "") if isinstance(it, Variable)]
            unset = [it.name for it in parts if it.default is None and it.name not in known]
            if key and not unset:
                known.add(key)
            yield from ((key or "", name, _line_of(original)) for name in unset)


def _line_of(original: Original) -> int:
    # The blank lines before it count as a part of it.
    blank = original.string[: -len(original.string.lstrip())]
    return original.line + blank.count("\n")


def in_any_case(*choices: str) -> BeforeValidator:
    """Read one of `choices` in upper and in lower case."""
    spellings = {choice.lower(): choice for choice in choices}

    def read(value: object) -> object:
        text = plain(value)
        return spellings.get(text.lower(), text) if isinstance(text, str) else text

    return BeforeValidator(read)


def without_user(value: object) -> object:
    """Hide user and password of a URL, whatever is wrong with it."""
    user, at, host = value.rpartition("@") if isinstance(value, str) else ("", "", "")
    scheme = user[: user.find("://") + len("://")] if "://" in user else ""
    return f"{scheme}***@{host}" if at and ":" in user else value


def _some(value: str) -> str:
    if not value:
        msg = "must not be empty"
        raise ValueError(msg)
    return value


Plain: Final = BeforeValidator(plain)
Switch = Annotated[bool, Plain]
Text = Annotated[str, AfterValidator(_some), Plain]
