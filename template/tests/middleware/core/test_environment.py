"""Environment: a wrong setting prevents the start with a sentence, and none shows a secret."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NewType, Optional, Self

import pytest
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    Field,
    Json,
    PositiveInt,
    PostgresDsn,
    SecretStr,
    create_model,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.middleware import EnvironmentSettings, StackSettings
from tests.middleware.conftest import NEEDED, stack_settings

LONG: Final = Field(min_length=32)

Said = Callable[[type[EnvironmentSettings]], list[str]]


def _colour(value: str) -> str:
    if value == "blue":
        msg = f"must be a colour of onions, not {value!r}"
        raise ValueError(msg)
    return value


class Settings(EnvironmentSettings):
    """Settings as a service may add them."""

    onion_layers: PositiveInt = 3
    onion_colour: Annotated[str, AfterValidator(_colour)] = "red"

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.onion_layers == 1:
            msg = f"ONION_LAYERS must be 2 or more with ONION_COLOUR={self.onion_colour}"
            raise ValueError(msg)
        return self


@pytest.fixture(autouse=True)
def _no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Read the `.env` of an empty folder, as a start reads that of the project."""
    monkeypatch.chdir(tmp_path)
    # The root conftest.py has another file for tests.
    monkeypatch.setattr(EnvironmentSettings, "__init__", BaseSettings.__init__)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Return what a start that fails says: `said(Settings)`, a sentence a line."""

    def read(settings: type[EnvironmentSettings]) -> list[str]:
        with pytest.raises(SystemExit) as exit_:
            settings.from_environment()
        # For any other status uvicorn's supervisor starts one worker after the other.
        assert exit_.value.code == 3
        return capsys.readouterr().err.splitlines()

    return read


def test_each_wrong_setting_is_told_in_a_line_with_its_value(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONION_LAYERS", "1MB")
    monkeypatch.setenv("ONION_COLOUR", "blue")

    layers, colour = said(Settings)

    assert layers == "ONION_LAYERS must be a whole number, such as 3, not '1MB'."
    assert colour == "ONION_COLOUR must be a colour of onions, not 'blue'."


def test_settings_that_do_not_fit_together_are_told_as_they_are(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONION_LAYERS", "1")

    assert said(Settings) == ["ONION_LAYERS must be 2 or more with ONION_COLOUR=red."]


def test_everything_that_is_wrong_is_told_at_once(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each start would report one setting only."""

    class Mine(Settings):
        onion_key: str

        @model_validator(mode="after")
        def _too_sweet(self) -> Self:
            if self.onion_colour == "red":
                msg = "ONION_COLOUR must not be red"
                raise ValueError(msg)
            return self

        @model_validator(mode="after")
        def _fits_the_key(self) -> Self:
            if not self.onion_key:
                msg = "never told, since the key is missing"
                raise ValueError(msg)
            return self

    monkeypatch.setenv("ONION_LAYERS", "1")

    assert said(Mine) == [
        "ONION_KEY must be set.",
        "ONION_LAYERS must be 2 or more with ONION_COLOUR=red.",
        "ONION_COLOUR must not be red.",
    ]


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        (Field(), "ONION_KEY must be set."),
        (Field(description="grow one"), "ONION_KEY must be set: grow one."),
    ],
)
def test_a_setting_that_is_missing_is_told(field: Any, sentence: str, said: Said) -> None:
    assert said(create_model("Mine", __base__=Settings, onion_key=(str, field))) == [sentence]


@pytest.mark.parametrize(
    "kind",
    [
        Annotated[SecretStr, LONG],
        Optional[Annotated[SecretStr, LONG]],  # noqa: UP045 - `|` hides the field from checkers
        Annotated[SecretStr | None, LONG],
        tuple[Annotated[SecretStr, LONG], ...],
    ],
)
def test_a_secret_is_never_shown(kind: Any, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONION_KEY", '["hunter2"]')

    (sentence,) = said(create_model("Mine", __base__=Settings, onion_key=(kind, ...)))

    assert sentence.startswith("ONION_KEY: ")
    assert "hunter2" not in sentence


def test_a_file_that_is_not_utf_8_is_refused(said: Said) -> None:
    Path(".env").write_bytes(b"ONION_COLOUR=\xff")

    assert said(Settings) == [".env must be UTF-8."]


@pytest.mark.parametrize("target", ["", "gone", ".env"], ids=["directory", "dangling", "loop"])
def test_a_file_that_can_not_be_read_is_refused(target: str, said: Said) -> None:
    """Defaults would hold. Docker makes a directory of a missing file that it mounts."""
    if target:
        Path(".env").symlink_to(target)
    else:
        Path(".env").mkdir()

    (sentence,) = said(Settings)

    assert sentence.startswith(".env must be a file that this process can read, or not be there: ")


@pytest.mark.parametrize(
    "line",
    [
        "ONION_COLOUR='hunter2', 'white'",
        "ONION_COLOUR: hunter2",
        "ONION_COLOUR hunter2",
        'ONION_COLOUR="hunter2',
        "set ONION_COLOUR=hunter2",
        "ONION_COLOUR := hunter2",
        "ONION_COLOUR+=hunter2",
        "$env:ONION_COLOUR=hunter2",
        "ONION_COLOUR",
        "hunter2",
        "= hunter2",
        "--onion-colour=hunter2",
        '"ONION_COLOUR"=hunter2',
    ],
)
@pytest.mark.parametrize("file", [".env", ".env.local"])
def test_a_line_that_sets_nothing_is_refused(
    file: str, line: str, said: Said, caplog: pytest.LogCaptureFixture
) -> None:
    """It would be left out, and the service would start with the default."""

    class Mine(Settings):
        model_config = SettingsConfigDict(env_file=(".env", ".env.local"))

    Path(file).write_bytes(f"# Colours\r\n\r\n  \r\n{line}\r\nONION_LAYERS=2\r\n".encode())

    (sentence,) = said(Mine)

    assert sentence.startswith(f"{file} must have NAME=value or a comment on each line, ")
    assert sentence.endswith("; see line 4.")
    assert "hunter2" not in sentence
    assert caplog.messages == [], "a line of the library"


def test_all_lines_that_set_nothing_are_counted(said: Said) -> None:
    Path(".env").write_text("A\nB=1\n\nC\n", "utf-8")

    (sentence,) = said(Settings)

    assert sentence.endswith("; see line 1, 4.")


@pytest.mark.parametrize(
    "value", ["${OFFICE}", "'${OFFICE}'", '"${OFFICE}"', "red,${OFFICE}", "${LATER}", "${COLOUR}"]
)
@pytest.mark.parametrize("variable", ["ONION_COLOUR", "onion_colour"])
def test_a_variable_that_is_not_set_is_refused(variable: str, value: str, said: Said) -> None:
    """It would be empty without a word, as in `IP_ALLOW=${OFFICE}`, which then allows everybody."""
    Path(".env").write_text(f"COLOUR=${{NOPE}}\n\n{variable}={value}\nLATER=1\n", "utf-8")

    (sentence,) = said(Settings)

    name = value[value.index("{") + 1 : value.index("}")]
    assert sentence.startswith(f".env must fill ${{{name}}} of {variable} in line 3, which would")
    assert sentence.endswith(f" or write ${{{name}:-default}}.")


@pytest.mark.parametrize(
    ("lines", "colour"),
    [
        ("ONION_COLOUR=${NOPE:-white}", "white"),
        ("ONION_COLOUR=${NOPE:-}", ""),
        ("OFFICE=white\nONION_COLOUR=${OFFICE}", "white"),
        ("ONION_COLOUR=${FROM_OUTSIDE}", "white"),
        ("ONION_COLOUR=white # not ${NOPE}", "white"),
        ("ONION_COLOUR=white\nIMAGE=${REGISTRY}/onion", "white"),
    ],
)
def test_a_variable_that_is_set_fills_a_value(
    lines: str, colour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_OUTSIDE", "white")
    Path(".env").write_text(lines, "utf-8")

    assert Settings().onion_colour == colour


def test_a_value_that_the_environment_replaces_needs_no_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ONION_COLOUR", "white")
    Path(".env").write_text("ONION_COLOUR=${NOPE}", "utf-8")

    assert Settings().onion_colour == "white"


def test_the_refusal_of_a_variable_shows_no_secret(said: Said) -> None:
    Path(".env").write_text("ONION_COLOUR=a${hunter2}b", "utf-8")

    (sentence,) = said(Settings)

    assert sentence.startswith(".env must fill ${...} of ONION_COLOUR in line 1")


def test_every_usual_line_is_read() -> None:
    Path(".env").write_text(
        "\ufeff# Colours\n\n  # and more\nexport A.b-c='1' # one\nB=\nC= # empty\n"
        'D="""\nKEY="-----BEGIN KEY-----\nabc=\n-----END KEY-----"\nlower=1\n'.replace('"""', '""')
        + "ONION_COLOUR = white",
        "utf-8",
    )

    assert Settings().onion_colour == "white"


def test_a_keyword_without_a_field_is_refused() -> None:
    """It would be left out, and the default would hold."""
    keywords: Any = {"onion_color": "white"}

    with pytest.raises(TypeError, match="no field onion_color; did you mean onion_colour"):
        Settings(**keywords)


def test_a_keyword_of_any_field_is_taken() -> None:
    aliased: Any = settings_of(int, default=1, validation_alias=AliasChoices("weight", "grams"))
    allowing: Any = settings_of(int, {"extra": "allow"}, default=1)

    assert aliased(grams=3, onion_layers=2).model_dump()["size"] == 3
    assert allowing(other=1).model_dump()["other"] == 1


def test_other_programs_may_use_the_same_file() -> None:
    Path(".env").write_text("SOMETHING_ELSE=1\nONION_COLOUR=white\n", "utf-8")

    assert Settings().onion_colour == "white"


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, field in StackSettings.model_fields.items()
        if isinstance(field.default, tuple) and name not in NEEDED
    ],
)
@pytest.mark.parametrize("form", [",".join, " , ".join, json.dumps], ids=["a,b", "a , b", "JSON"])
def test_a_list_may_be_written_with_commas_or_as_json(
    form: Callable[[Sequence[str]], str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = StackSettings.model_fields[name].default
    monkeypatch.setenv(name.upper(), form(default))

    assert getattr(stack_settings(), name) == default


class Mine(StackSettings):
    """Settings as a team adds them, and another default of ours."""

    probe_paths: tuple[str, ...] = ("/alive",)
    debt: tuple[str, ...] = ()
    sizes: list[int] | None = None
    colours: frozenset[Literal["red", "white"]] = frozenset()
    prices: dict[str, int] = Field(default_factory=dict)


@pytest.fixture
def needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what the stack needs."""
    for name, value in NEEDED.items():
        monkeypatch.setenv(name.upper(), ",".join(value) if isinstance(value, list) else value)


@pytest.mark.usefixtures("needed")
def test_lists_of_a_service_are_read_as_those_of_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("DEBT=south, north\nSIZES=[1, 2]\nCOLOURS=red\n", "utf-8")
    monkeypatch.setenv("PRICES", '{"onion": 3}')

    settings = Mine.from_environment()

    assert settings.debt == ("south", "north")
    assert settings.sizes == [1, 2]
    assert settings.colours == {"red"}
    assert settings.prices == {"onion": 3}


@pytest.mark.usefixtures("needed")
@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("SIZES", "1,two", "SIZES must be a whole number, not 'two'."),
        ("COLOURS", "blue", "COLOURS must be 'red' or 'white', not 'blue'."),
        ("PRICES", "onion=3", "PRICES must be JSON: "),
        ("DEBT", '{"a": 1}', "DEBT must be a list: items separated by commas, or a JSON list, not"),
    ],
)
def test_a_wrong_value_of_a_service_is_one_sentence(
    name: str, value: str, sentence: str, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    (line,) = said(Mine)

    assert line.startswith(sentence)


@pytest.mark.skipif("probe_paths" not in StackSettings.model_fields, reason="nothing has probes")
@pytest.mark.usefixtures("needed")
def test_another_default_keeps_the_rules(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Mine.from_environment().model_dump()["probe_paths"] == ("/alive",)

    monkeypatch.setenv("PROBE_PATHS", "/alive, /ready")
    assert Mine.from_environment().model_dump()["probe_paths"] == ("/alive", "/ready")

    monkeypatch.setenv("PROBE_PATHS", "/alive,/ready/*")
    (line,) = said(Mine)
    assert line.startswith("PROBE_PATHS must be exact paths such as /healthz")


class Colour(Enum):
    RED = "red"


class Onion(BaseModel):
    """What is in a setting, as a model."""

    layers: int = 1
    tags: list[str] = []
    key: SecretStr = SecretStr("")
    inner: "Onion | None" = None
    price: int = Field(default=1, alias="cost")


@dataclass
class Leek:
    """The same as a data class."""

    layers: int = 1
    tags: tuple[str, ...] = ()
    key: SecretStr = field(default_factory=lambda: SecretStr(""))


# Pydantic's own, since it takes no other from Python 3.11.
EXTENSIONS: Final[Any] = import_module("typing_extensions")
GARLIC: Final = EXTENSIONS.TypedDict(
    "Garlic", {"layers": int, "tags": frozenset[str], "key": SecretStr}, total=False
)
KEY: Final = EXTENSIONS.TypeAliasType("KEY", SecretStr)
Named = NewType("Named", SecretStr)
PASSWORD: Final = "hunter2"
NAMES: Final = EXTENSIONS.TypeAliasType("NAMES", list[str])
NESTED: Final = SettingsConfigDict(env_nested_delimiter="__")
PREFIXED: Final = SettingsConfigDict(env_prefix="mine_")


SPLIT: Final = BeforeValidator(lambda text: text.split(";"))


def _refused(value: str) -> str:
    msg = f"must be near, not {value}"
    raise ValueError(msg)


class Asserting(Settings):
    """A class whose rule for all settings is an assertion."""

    size: str

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.size:
            msg = "these don't fit"
            raise AssertionError(msg)
        return self


def settings_of(
    kind: Any, config: SettingsConfigDict | None = None, **of: Any
) -> type[EnvironmentSettings]:
    """Return a class with one field, `size`."""
    base = type("Base", (Settings,), {"model_config": config or {}})
    create: Any = create_model
    made: type[EnvironmentSettings] = create("Mine", __base__=base, size=(kind, Field(**of)))
    return made


@pytest.mark.parametrize(
    ("settings", "variables", "sentence"),
    [
        (
            settings_of(int, PREFIXED, default=1),
            {"MINE_SIZE": "x"},
            "MINE_SIZE must be a whole number, such as 1, not 'x'.",
        ),
        (settings_of(int, PREFIXED), {}, "MINE_SIZE must be set."),
        (
            settings_of(int, PREFIXED, validation_alias="weight"),
            {"WEIGHT": "x"},
            "WEIGHT must be a whole number, not 'x'.",
        ),
        (
            settings_of(int, {**PREFIXED, "env_prefix_target": "all"}, validation_alias="weight"),
            {"MINE_WEIGHT": "x"},
            "MINE_WEIGHT must be a whole number, not 'x'.",
        ),
        (
            settings_of(int, validation_alias=AliasChoices("weight", "grams")),
            {"GRAMS": "x"},
            "WEIGHT or GRAMS must be a whole number, not 'x'.",
        ),
        (
            settings_of(int, validation_alias=AliasChoices("weight", "grams"), description="weigh"),
            {},
            "WEIGHT or GRAMS must be set: weigh.",
        ),
        (
            settings_of(int, validation_alias=AliasPath("weight", "grams")),
            {},
            "WEIGHT must be set.",
        ),
        (settings_of(int, {"case_sensitive": True}), {"size": "x"}, "size must be a whole number"),
        (
            settings_of(int, PREFIXED, default=1),
            {"MINE_ONION_LAYERS": "1"},
            "MINE_ONION_LAYERS must be 2 or more with MINE_ONION_COLOUR=red.",
        ),
        (
            settings_of(int, default=1, validation_alias="weight"),
            {"ONION_LAYERS": "1"},
            "ONION_LAYERS must be 2 or more with ONION_COLOUR=red.",
        ),
        (settings_of(tuple[int, int]), {"SIZE": "3"}, "SIZE must have 2 items, not ['3']."),
        (settings_of(Colour), {"SIZE": "blue"}, "SIZE must be 'red', not 'blue'."),
        *(
            case
            for kind in (Onion, Leek, GARLIC, Onion | None, Annotated[Onion, "sweet"])
            for case in (
                (
                    settings_of(kind, NESTED),
                    {"SIZE__LAYERS": "x"},
                    "SIZE__LAYERS must be a whole number, not 'x'.",
                ),
                (
                    settings_of(kind),
                    {"SIZE": '{"layers": "x"}'},
                    "SIZE: layers must be a whole number, not 'x'.",
                ),
            )
        ),
        (
            settings_of(Onion, NESTED),
            {"SIZE__INNER__COST": "x"},
            "SIZE__INNER__COST must be a whole number, not 'x'.",
        ),
        (
            settings_of(dict[str, int], NESTED),
            {"SIZE__ONION": "x"},
            "SIZE__ONION must be a whole number, not 'x'.",
        ),
        (settings_of(list[int]), {"SIZE": "1,x"}, "SIZE must be a whole number, not 'x'."),
        (
            settings_of(list[Onion]),
            {"SIZE": '[{"layers": "x"}]'},
            "SIZE: layers must be a whole number, not 'x'.",
        ),
    ],
)
def test_a_sentence_names_the_variable(
    settings: type[EnvironmentSettings],
    variables: dict[str, str],
    sentence: str,
    said: Said,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    (line,) = said(settings)

    assert line.startswith(sentence)


@pytest.mark.parametrize(
    ("settings", "variables", "shown"),
    [
        (settings_of(PostgresDsn), {"SIZE": f"mysql://me:{PASSWORD}@db/it"}, "'mysql://***@db/it'"),
        (settings_of(PostgresDsn), {"SIZE": "mysql://me:hun/t er2@db/it"}, "'mysql://***@db/it'"),
        (settings_of(PostgresDsn), {"SIZE": f"me:{PASSWORD}@db/it"}, "'***@db/it'"),
        (settings_of(list[PostgresDsn]), {"SIZE": f"a://me:{PASSWORD}@db"}, "'a://***@db'"),
        (
            settings_of(PostgresDsn, validation_alias="a"),
            {"A": f"b://me:{PASSWORD}@c"},
            "'b://***@c'",
        ),
        (
            settings_of(Annotated[str, AfterValidator(_refused)]),
            {"SIZE": f"redis://me:{PASSWORD}@db"},
            "not redis://***@db",
        ),
        (
            settings_of(Annotated[str, AfterValidator(_refused)]),
            {"SIZE": f"redis://me: {PASSWORD} @db"},
            "not redis://***@db",
        ),
        (settings_of(PostgresDsn), {"SIZE": f"b://me:{PASSWORD}://@c"}, "'b://***@c'"),
        (settings_of(Annotated[KEY, LONG]), {"SIZE": "hunter2"}, ""),
        (settings_of(Annotated[Named, LONG]), {"SIZE": "hunter2"}, ""),
        (settings_of(Annotated[SecretStr, LONG], validation_alias="a"), {"A": "hunter2"}, ""),
        (settings_of(Onion, NESTED), {"SIZE__KEY": "hunter2", "SIZE__LAYERS": "x"}, "'x'"),
        (settings_of(Onion), {"SIZE": '["hunter2"]'}, ""),
        (settings_of(Leek), {"SIZE": '["hunter2"]'}, ""),
        (settings_of(dict[str, Annotated[SecretStr, LONG]]), {"SIZE": '{"a": "hunter2"}'}, ""),
        (settings_of(int, {"extra": "forbid"}, default=1), {}, ""),
        (Asserting, {"SIZE": "hunter2"}, "these don't fit"),
    ],
)
def test_no_sentence_shows_a_password(
    settings: type[EnvironmentSettings],
    variables: dict[str, str],
    shown: str,
    said: Said,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if settings.model_config.get("extra") == "forbid":
        Path(".env").write_text("OTHER_KEY=hunter2\n", "utf-8")

    (line,) = said(settings)

    assert "hunter2" not in line
    assert shown in line


@pytest.mark.parametrize(
    ("settings", "variables", "value"),
    [
        (settings_of(Onion, NESTED), {"SIZE__TAGS": "a, b"}, Onion(tags=["a", "b"])),
        (settings_of(Onion, NESTED), {"SIZE__TAGS": '["a", "b"]'}, Onion(tags=["a", "b"])),
        (settings_of(Onion), {"SIZE": '{"tags": "a, b"}'}, Onion(tags=["a", "b"])),
        (settings_of(list[Onion]), {"SIZE": '[{"tags": "a"}]'}, [Onion(tags=["a"])]),
        (settings_of(dict[str, Onion]), {"SIZE": '{"x": {"tags": "a"}}'}, {"x": Onion(tags=["a"])}),
        (settings_of(Literal[1, 2], default=1), {"SIZE": "2"}, 2),
        (settings_of(Literal[1, "2"] | None), {"SIZE": "2"}, "2"),
        (settings_of(Literal[True, 7]), {"SIZE": "true"}, True),
        (settings_of(tuple[Literal[1, 2], ...]), {"SIZE": "1, 2"}, (1, 2)),
        (settings_of(list[list[int]]), {"SIZE": "[[1], [2]]"}, [[1], [2]]),
        (settings_of(Leek, NESTED), {"SIZE__TAGS": "a,b"}, Leek(tags=("a", "b"))),
        (settings_of(GARLIC, NESTED), {"SIZE__TAGS": "a"}, {"tags": frozenset("a")}),
        (
            settings_of(Onion, NESTED),
            {"SIZE__INNER__TAGS": "a"},
            Onion(inner=Onion(tags=["a"])),
        ),
        (settings_of(dict[str, list[int]], NESTED), {"SIZE__A": "1,2"}, {"a": [1, 2]}),
        (settings_of(Json[list[int]]), {"SIZE": "[1]"}, [1]),
        (settings_of(Json[list[int]] | None), {"SIZE": "[1]"}, [1]),
        (settings_of(Json), {"SIZE": "[1]"}, [1]),
        (settings_of(Annotated[list[str], NoDecode, SPLIT]), {"SIZE": "a;b"}, ["a", "b"]),
        (settings_of(NAMES), {"SIZE": "a,b"}, ["a", "b"]),
    ],
)
def test_every_kind_of_value_can_be_set(
    settings: type[EnvironmentSettings],
    variables: dict[str, str],
    value: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in variables.items():
        monkeypatch.setenv(name, text)

    assert dict(settings.from_environment())["size"] == value


@pytest.mark.parametrize("others", ["environment", "file"])
@pytest.mark.parametrize(
    ("kind", "of", "variables"),
    [
        (Onion, {}, {"SIZE": '{"layers": 3}', "SIZE__TAGS": '["a"]'}),
        (Onion, {}, {"SIZE": '{"layers": 3, "tags": ["a"]}', "SIZE__TAGS": '["b"]'}),
        (Onion, {}, {"SIZE": '{"inner": {"layers": 3}}', "SIZE__INNER__COST": "2"}),
        (Onion, {}, {"SIZE__INNER": '{"layers": 3}', "SIZE__INNER__COST": "2"}),
        (Onion | None, {}, {"SIZE": '{"layers": 3}', "SIZE__COST": "2"}),
        (Onion | int, {}, {"SIZE": '{"layers": 3}', "SIZE__COST": "2"}),
        (dict[str, Onion], {}, {"SIZE": '{"x": {"layers": 3}}', "SIZE__x__COST": "2"}),
        (dict[str, str], {}, {"SIZE": '{"x": "a", "y": "b"}', "SIZE__Y": "c"}),
        (str | dict[str, str], {}, {"SIZE": '{"x": "a"}', "SIZE__Y": "c"}),
        (dict, {}, {"SIZE": '{"x": 1}', "SIZE__Y": '{"z": 2}', "SIZE__W": "3"}),
        (
            Onion,
            {"validation_alias": AliasChoices("weight", "grams")},
            {"GRAMS": '{"layers": 3}', "WEIGHT__COST": "2"},
        ),
        (int, {"validation_alias": AliasPath("weight", "grams")}, {"WEIGHT": '{"grams": 3}'}),
        (int, {"validation_alias": AliasPath("weight", 1)}, {"WEIGHT": "[1, 3]"}),
    ],
)
def test_json_and_its_members_are_one_value_as_in_the_library(
    kind: Any, of: Any, variables: dict[str, str], others: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only one of them has would be lost without a word."""
    (first, text), *rest = variables.items()
    monkeypatch.setenv(first, text)
    for name, value in rest if others == "environment" else ():
        monkeypatch.setenv(name, value)
    if others == "file":
        lines = "".join(f"{name}='{value}'\n" for name, value in rest)
        Path(".env").write_text(lines, "utf-8")

    class Bare(BaseSettings):
        model_config = SettingsConfigDict(
            env_nested_delimiter="__", env_file=".env", extra="ignore"
        )

    create: Any = create_model
    bare = create("Bare", __base__=Bare, size=(kind, Field(**of)))

    ours = settings_of(kind, NESTED, **of).from_environment()

    assert ours.model_dump()["size"] == bare().model_dump()["size"]


def test_a_list_that_replaces_that_of_json_may_have_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIZE", '{"layers": 3, "tags": "a, b"}')
    monkeypatch.setenv("SIZE__TAGS", "c, d")

    ours = settings_of(Onion, NESTED).from_environment()

    assert ours.model_dump()["size"] == Onion(layers=3, tags=["c", "d"]).model_dump()
