"""
Settings: each value takes effect, or the service doesn't start and prints what to write.

`settings.yml` has rows for each setting of the catalogue: values that look right.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest
from copier import run_copy

from .support import ENTRIES, FAILED_START, TESTS, read_yaml, run, with_variants

ROWS: Final[dict[str, Any]] = read_yaml(TESTS / "settings.yml")
WORKS: Final[dict[str, dict[str, Any]]] = ROWS["works"]
REFUSED: Final[dict[str, dict[str, str]]] = ROWS["refused"]
TOGETHER: Final[dict[str, dict[str, Any]]] = ROWS["together"]

KNOBS: Final[dict[str, dict[str, Any]]] = {
    knob["name"]: knob
    for entry in ENTRIES.values()
    for part in with_variants(entry)
    for knob in part.get("settings", ())
}
SECRETS: Final = {"API_KEYS", "JWT_KEY", "SESSION_SECRET", "STORAGE_URL"}
# Which answers have the settings that only one variant has.
SERVICES: Final = {
    "jwt": {"authentication_scheme": "jwt", "storage": "memory"},
    "api_key": {"authentication_scheme": "api_key", "storage": "redis"},
}
OF_API_KEY: Final = {"API_KEYS", "API_KEY_HEADER", "STORAGE_ON_ERROR", "STORAGE_URL of redis"}
# No literal that looks like a key: scanners would report it.
SECRET: Final = sha256(b"tests").hexdigest()
NEEDED: Final = {
    "API_KEYS": f"test:{SECRET}",
    "JWT_ALGORITHMS": "HS256",
    "JWT_KEY": SECRET,
    "SESSION_SECRET": SECRET,
}
# They are right alone.
MISFITS: Final = {("READINESS_PATH", "/healthz")}
# With published keys there is no other.
OF_JWKS: Final = {"JWT_KEY": "", "JWT_ALGORITHMS": "RS256"}

# Reads each set of variables as a start does, and prints what came of it.
READ: Final = """
import contextlib, io, json, os, sys
from pydantic_core import to_jsonable_python
from app.middleware import StackSettings

def read(variables):
    said = io.StringIO()
    os.environ.update(variables)
    try:
        with contextlib.redirect_stderr(said):
            settings = StackSettings.from_environment()
        return {name: to_jsonable_python(value) for name, value in settings}
    except SystemExit as exit:
        return [exit.code, *said.getvalue().splitlines()]
    finally:
        for name in variables:
            del os.environ[name]

with open(sys.argv[1]) as file:
    print(json.dumps([read(variables) for variables in json.load(file)]))
"""


class Reader:
    """The settings of rendered services, as they read them at start."""

    def __init__(self, services: dict[str, Path]) -> None:
        self._services = services

    def read(self, scheme: str, cases: Sequence[Mapping[str, str | None]]) -> list[Any]:
        """Return what came of each case, in which None is a variable that is missing."""
        service = self._services[scheme]
        redis = {} if scheme == "jwt" else {"STORAGE_URL": "redis://localhost"}
        file = service / "cases.json"
        complete = [
            {
                name: value
                for name, value in {
                    **NEEDED,
                    **redis,
                    **(OF_JWKS if case.get("JWT_JWKS_URL") else {}),
                    **case,
                }.items()
                if value is not None
            }
            for case in cases
        ]
        file.write_text(json.dumps(complete), "utf-8")
        done = run(sys.executable, "-c", READ, file, cwd=service)
        assert done.returncode == 0, done.stdout
        results: list[Any] = json.loads(done.stdout)
        return results


@pytest.fixture(scope="module")
def reader(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    services = {}
    for scheme, answers in SERVICES.items():
        services[scheme] = tmp_path_factory.mktemp("settings") / scheme
        data = {"preset": "everything", **answers}
        options: dict[str, Any] = {"defaults": True, "quiet": True, "vcs_ref": "HEAD"}
        run_copy(str(template), services[scheme], data=data, **options)
    return Reader(services)


def _cases(rows: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, str, Any]]:
    for name, values in rows.items():
        for value, expected in values.items():
            yield _scheme(name), name.partition(" ")[0], value, expected


def _scheme(name: str) -> str:
    return "api_key" if name in OF_API_KEY else "jwt"


def test_each_setting_has_rows() -> None:
    """Add yours to `settings.yml`: what looks right, and what comes of it."""
    assert {name.partition(" ")[0] for name in REFUSED} == {*KNOBS}
    assert {*WORKS} <= {*KNOBS}


@pytest.mark.parametrize("scheme", SERVICES)
def test_what_works_is_read(scheme: str, reader: Reader) -> None:
    cases = [case for case in _cases(WORKS) if case[0] == scheme]

    results = reader.read(scheme, [{name: value} for _, name, value, _ in cases])

    for (_, name, value, expected), result in zip(cases, results, strict=True):
        assert isinstance(result, dict), (name, value, result)
        assert result[name.lower()] == expected, (name, value)


@pytest.mark.parametrize("scheme", SERVICES)
def test_what_can_not_take_effect_ends_the_start(scheme: str, reader: Reader) -> None:
    cases = [case for case in _cases(REFUSED) if case[0] == scheme]

    results = reader.read(scheme, [{name: value} for _, name, value, _ in cases])

    wrong = [
        (name, value, way_out, result)
        for (_, name, value, way_out), result in zip(cases, results, strict=True)
        if not _is_refusal(result, name, value, way_out)
    ]
    assert wrong == [], "\n".join(map(str, wrong))


@pytest.mark.parametrize("scheme", SERVICES)
def test_each_way_out_is_one(scheme: str, reader: Reader) -> None:
    """What a sentence says to write, and its examples, are read by the same setting."""
    cases = [
        {name: spelled}
        for kind, name, value, _ in _cases(REFUSED)
        if kind == scheme
        for spelled in _spellings(name, value)
    ]

    results = reader.read(scheme, cases)

    ways_out = {
        (name, way_out): (value, result[1])
        for case, result in zip(cases, results, strict=True)
        if isinstance(result, list)
        for name, value in case.items()
        for way_out in _ways_out(result[1])
    }
    assert ways_out
    again = reader.read(scheme, [{name: way_out} for name, way_out in ways_out])
    refused = [
        (*asked, *ways_out[asked], result)
        for asked, result in zip(ways_out, again, strict=True)
        if not isinstance(result, dict)
    ]
    assert refused == [], "\n".join(map(str, refused))


def _spellings(name: str, value: str) -> Iterator[str]:
    """Yield a refused value, the same in quotes, and in a list beside one that is accepted."""
    yield value
    if value and name not in SECRETS and (name, value) not in MISFITS:
        yield from (f'"{value}"', f"'{value}'")
        if isinstance(KNOBS[name].get("default"), list):
            yield from (f"{_usual(name)}{mark}{value}" for mark in "| ;,")


def _ways_out(sentence: str) -> Iterator[str]:
    """Yield what can be written instead, and the examples."""
    for found in _WAY_OUT.finditer(sentence):
        for way_out in (found["example"] or found["written"]).split(" or "):
            yield re.sub("^'(.*)'$", r"\1", way_out)


# An example ends before the sentence goes on; what to write is the end of its sentence.
_WAY_OUT: Final = re.compile(
    r"(?:(?<!pattern )(?<!tools )(?<!characters )such as (?P<example>.+?)(?=, |;| \(|\.$)"
    r"|\bwrite (?!one\b|its\b|it\b|a host\b)(?P<written>.+?)(?=, not '|\.$))"
)


def _is_refusal(result: Any, name: str, value: str, way_out: str) -> bool:
    """One sentence names the setting, the value unless it is a secret, and the way out."""
    if not isinstance(result, list) or len(result) != 2:
        return False
    status, sentence = result
    named = sentence.startswith(f"{name} ") and sentence.endswith(".") and way_out in sentence
    shown = name not in SECRETS and value != ""
    leaked = name in SECRETS and len(value) > 20 and value in sentence
    return status == FAILED_START and named and (not shown or "not " in sentence) and not leaked


@pytest.mark.parametrize("scheme", SERVICES)
def test_no_setting_takes_a_header_of_a_layer(scheme: str, reader: Reader) -> None:
    headers = {
        header
        for entry in ENTRIES.values()
        for part in with_variants(entry)
        for key in ("sets", "reads", "looks_at")
        for header in part.get(key, ())
        if isinstance(header, str)
    }
    names = {"REQUEST_ID_HEADER", "API_KEY_HEADER"}
    cases = [(name, header) for name in names if _scheme(name) == scheme for header in headers]

    results = reader.read(scheme, [{name: header} for name, header in cases])

    taken = [case for case, result in zip(cases, results, strict=True) if isinstance(result, dict)]
    # It is the header of the key, where that is the only credential.
    assert [case for case in taken if case != ("API_KEY_HEADER", "Authorization")] == []


@pytest.mark.parametrize("scheme", SERVICES)
def test_quotes_and_white_space_are_no_part_of_a_value(scheme: str, reader: Reader) -> None:
    """`docker run --env-file` keeps both, and documents have some of their own."""
    names = sorted(name for name in {*KNOBS} - SECRETS if _scheme(name) == scheme)
    usual = {name: _usual(name) for name in names}

    plain = reader.read(scheme, [{name: usual[name]} for name in names])
    spaced = reader.read(scheme, [{name: f" {usual[name]}\t"} for name in names])
    wrong = [
        reader.read(scheme, [{name: form.format(usual[name])} for name in names])
        for form in ('"{}"', "'{}'", "\u201c{}\u201d", "\xab{}\xbb", "{}\u200b", "\ufeff{}")
    ]

    assert [result for result in plain if not isinstance(result, dict)] == []
    assert spaced == plain
    for name, *results in zip(names, *wrong, strict=True):
        for result in results:
            assert _is_refusal(result, name, usual[name], usual[name].split(",")[0].strip()), result


@pytest.mark.parametrize(
    ("scheme", "name", "value", "way_out"),
    [
        *(("jwt", name, f'"{SECRET}"', "leave them out") for name in ("JWT_KEY", "SESSION_SECRET")),
        ("jwt", "SESSION_SECRET", f" '{SECRET}' ", "leave them out"),
        ("jwt", "SESSION_SECRET", f"\u201c{SECRET}\u201d", "leave them out"),
        ("jwt", "JWT_KEY", f"{SECRET}\u200b", "character U+200B; leave it out"),
        ("api_key", "API_KEYS", f"\ufeffa:{SECRET}", "character U+FEFF; leave it out"),
        ("api_key", "STORAGE_URL", f"redis://:{SECRET}@localhost\u200b", "leave it out"),
        ("api_key", "API_KEYS", f'"a:{SECRET}"', "leave them out"),
        ("api_key", "API_KEYS", f"a:{SECRET[::-1]},'b:{SECRET}'", "leave them out"),
        ("api_key", "API_KEYS", f'{{"a": "{SECRET}"}}', "must be a list"),
        ("api_key", "STORAGE_URL", f'"redis://:{SECRET}@localhost"', "leave them out"),
    ],
)
def test_a_wrong_secret_is_not_shown(
    scheme: str, name: str, value: str, way_out: str, reader: Reader
) -> None:
    ((status, *sentences),) = reader.read(scheme, [{name: value}])

    assert (status, len(sentences)) == (FAILED_START, 1)
    assert sentences[0].startswith(f"{name} must ")
    assert way_out in sentences[0]
    assert SECRET not in sentences[0]


def _usual(name: str) -> str:
    """Return the default as `.env.example` has it, or the first value that works."""
    default = NEEDED.get(name, KNOBS[name].get("default"))
    if default in ("", [], None):
        return next(iter(WORKS[name])).strip()
    return ",".join(default) if isinstance(default, list) else str(default)


def test_all_that_is_missing_is_told_at_once(reader: Reader) -> None:
    (result,) = reader.read("jwt", [{"JWT_KEY": "", "SESSION_SECRET": "", "LOG_LEVEL": "loud"}])

    assert result[0] == FAILED_START
    assert [sentence.partition(" ")[0] for sentence in result[1:]] == [
        *("LOG_LEVEL", "JWT_KEY", "SESSION_SECRET"),
    ]


@pytest.mark.parametrize(
    ("scheme", "missing", "form"),
    [
        ("api_key", "API_KEYS", "` makes one."),
        ("api_key", "STORAGE_URL", "such as redis://127.0.0.1:6379/0."),
        ("jwt", "JWT_KEY", "JWT_JWKS_URL is the address of a key set, such as https://id.example/"),
        ("jwt", "SESSION_SECRET", "` makes a good one."),
    ],
)
def test_what_is_missing_is_named_with_a_form_of_it(
    scheme: str, missing: str, form: str, reader: Reader
) -> None:
    result, storage, keys = reader.read(
        scheme,
        [
            {missing: None},
            {"STORAGE_URL": "redis://127.0.0.1:6379/0" if scheme == "api_key" else None},
            {"JWT_JWKS_URL": "https://id.example/"},
        ],
    )

    assert result[0] == FAILED_START
    assert [form in sentence for sentence in result[1:]] == [True]
    assert (type(storage), type(keys)) == (dict, dict)


def test_what_does_not_fit_together_ends_the_start(reader: Reader) -> None:
    results = reader.read("jwt", [case["set"] for case in TOGETHER.values()])

    for case, result in zip(TOGETHER.values(), results, strict=True):
        assert result[0] == FAILED_START
        assert len(result) == 2
        assert result[1].startswith(case["says"])
