"""Environment: a wrong setting ends the start with a sentence, and none shows a secret."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Optional, Self

import pytest
from pydantic import AfterValidator, Field, PositiveInt, SecretStr, create_model, model_validator
from pydantic_settings import BaseSettings

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
