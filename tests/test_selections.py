"""Whatever is chosen: formatted, linted, typed, tested, and nothing of what was not chosen."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import distributions
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import pytest
from covertable import make
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .conftest import Render
from .support import (
    ENTRIES,
    LAYERS,
    ORDER,
    SCHEMES,
    STORAGES,
    STORING,
    Answers,
    Parameters,
    closed,
    failures,
    python,
    run,
    with_variants,
)

FIRST_SEVEN: Final = (
    "request_id",
    "access_log",
    "security_headers",
    "cors",
    "error_handler",
    "trusted_host",
    "client_version",
)

# Where the tests of a layer run with each of their parameters: where few others are. Elsewhere the
# question is another: does a test fail that counts on a layer which is absent? It doesn't take
# every parameter to see that. `everything` runs with all of them in an environment of its own
# (test_presets.py).
OF_LAYERS: Final = ("alone-", "pair-")
# What every run has: in these any two layers meet in all their states, in the matrix any three.
# Of the rows in which layers meet each set of schemes and each storage, it has three.
SAMPLE: Final = (
    "everything-jwt-memory",
    "everything-jwt+session",
    "preset-public-closed-jwt",
    "alone-",
    *("two-0", "two-5", "two-9"),
)

# What a service declares and never imports, and why.
NOT_IMPORTED: Final = {
    "fastapi-cli": "`fastapi run` serves it",
    "mypy": "checks it",
    "opentelemetry-exporter-otlp-proto-http": "the SDK loads it by its name",
    "ruff": "checks it",
    "uvicorn": "serves it",
}


# What one layer alone gives: a text of a service without it would promise that in vain.
EFFECTS: Final = {
    "tracing": r"trace IDs?\b|\btraced\b",
    "proxy_headers": r"isn't trusted\b",
    "request_id": r"request IDs?\b|X-Request-ID",
    "metrics": r"Prometheus|metrics page|in (?:the )?metrics",
    "access_log": r"access log|(?:are|aren't|isn't) logged|logged only|log lines with status",
    "timing": r"Server-Timing",
    "security_headers": r"security headers|nosniff|Content-Security-Policy",
    "cors": r"preflights\b|CORS (?:allows them|lets|headers)",
    "error_handler": r"(?:on|to) every response|Every response has|Errors (?:are|have)\b",
    "trusted_host": r"host check",
    "https_redirect": r"\b307\b",
    "ip_filter": r"IP filter|blocked client",
    "maintenance": r"during maintenance|[Mm]aintenance mode",
    "readiness": r"\breadiness\b",
    "client_version": r"(?:old|outdated) clients",
    "required_headers": r"required header",
    "compression": r"compressed (?:byte|chunk)|of a compressed response begins",
    "timeout": r"\b504\b|such as by a timeout|for example by a timeout",
    "rate_limit": r"share one limit|one IP address can send",
    "body_limit": r"limit bodies|[Rr]eturns 413",
    "session": r"session cookie|request[.]session",
    "cross_origin": r"CSRF|forged requests",
    "concurrency": r"\b(?:a|no|the|own) slots?\b",
    "authentication": r"CurrentUser|request[.]state[.]user|anonymous",
    "user_rate_limit": r"user's limit|one user can send",
    "idempotency": r"Idempotency-Key|stored response|repeated request",
    "conditional": r"If-None-Match|[Aa]dds ETags",
}
# What is left of a sentence of the catalogue that names no layer.
MARKS: Final = {r"\{with(?:out)? "}

# Which of the schemes a service has: one, two, all of them.
SCHEME_SETS: Final = [
    "+".join(chosen) for size in (1, 2, 3) for chosen in combinations(SCHEMES, size)
]


def _answers(layers: list[str], schemes: str = "jwt", storage: str = "memory") -> dict[str, Any]:
    first, *others = schemes.split("+")
    if "session" in {first, *others} and "authentication" in layers:
        layers = [*layers, "session"]
    answers: dict[str, Any] = {"layers": closed(layers)}
    if "authentication" in answers["layers"]:
        answers["authentication_scheme"] = first
        answers["further_schemes"] = others
    if STORING & {*answers["layers"]}:
        answers["storage"] = storage
    return answers


def _named() -> Iterator[tuple[str, Answers]]:
    """Yield the selections that somebody would think of, the long ones first."""
    everything = [*LAYERS]
    for scheme in SCHEMES:
        for storage in STORAGES:
            yield f"everything-{scheme}-{storage}", _answers(everything, scheme, storage)
    for name in LAYERS:
        dependents = {other for other in LAYERS if name in closed([other])}
        yield f"without-{name}", _answers([name for name in LAYERS if name not in dependents])
    for preset, layers in ORDER["presets"].items():
        yield f"preset-{preset}", _answers(layers)
    closed_by_default = {"authentication_required": True}
    yield f"everything-{SCHEME_SETS[-1]}", _answers(everything, SCHEME_SETS[-1]) | closed_by_default
    for scheme in SCHEMES:
        layers = ORDER["presets"]["public"]
        yield f"preset-public-closed-{scheme}", _answers(layers, scheme) | closed_by_default
    for schemes in SCHEME_SETS:
        yield f"alone-authentication-{schemes}", _answers(["authentication"], schemes)
    for name in LAYERS:
        for storage in STORAGES if name in STORING else ("memory",):
            yield f"alone-{name}-{storage}", _answers([name], storage=storage)
    for pair in combinations(FIRST_SEVEN, 2):
        yield "-".join(("pair", *pair)), _answers([*pair])


def _covering_array(named: Iterable[Answers], size: int) -> Iterator[Answers]:
    """
    Yield what the `named` selections lack, so that `size` layers meet in all their states.

    Chosen or left out, each of them: most of it is covered by everything, by everything but
    one, and by each alone; what a layer requires leaves gaps, and so do the other questions.
    """
    factors = {
        **{name: [True, False] for name in LAYERS},
        "schemes": SCHEME_SETS,
        "storage": [*STORAGES],
    }
    requirements = [
        {
            "operator": "or",
            "conditions": [
                {"operator": "eq", "left": name, "value": False},
                {"operator": "eq", "left": needed, "value": True},
            ],
        }
        for name, layer in LAYERS.items()
        for needed in layer.get("requires", {})
    ]
    seeds = [
        {
            **{name: name in answers["layers"] for name in LAYERS},
            "schemes": _schemes(answers),
            "storage": answers.get("storage", "memory"),
        }
        for answers in named
    ]
    rows: list[Any] = make(
        factors,
        strength=2,
        sub_models=[{"fields": [*LAYERS], "strength": size}],
        constraints=requirements,
        presets=seeds,
    )
    for row in rows[len(seeds) :]:
        chosen = [name for name in LAYERS if row[name]]
        yield _answers(chosen, row["schemes"], row["storage"])


def _schemes(answers: Answers) -> str:
    found = [answers.get("authentication_scheme", "jwt"), *answers.get("further_schemes", ())]
    return "+".join(name for name in SCHEMES if name in found)


@cache
def _selections() -> dict[str, Answers]:
    """Return each selection once, under the first of its names."""
    named = {repr(answers): (name, answers) for name, answers in reversed([*_named()])}
    found = dict(reversed([*named.values()]))
    for prefix, size in (("two", 2), ("three", 3)):
        # In the sample any two meet without what only the matrix has.
        known = [row for name, row in found.items() if size > 2 or _in_sample(name)]
        rows = enumerate([*_covering_array(known, size)])
        found |= {f"{prefix}-{number}": row for number, row in rows}
    return found


def _in_sample(name: str) -> bool:
    return name.startswith(SAMPLE)


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        pytest.param(name, row, id=name, marks=[] if _in_sample(name) else [pytest.mark.matrix])
        for name, row in _selections().items()
    ],
)
def test_a_selection_is_a_good_service(
    name: str, answers: Answers, render: Render, mypy_cache: Path
) -> None:
    service = render(**answers)

    parameters: Parameters = "of layers" if name.startswith(OF_LAYERS) else "first"
    assert failures(service, mypy_cache=mypy_cache, parameters=parameters) == []
    assert _traces(service, {*answers["layers"]}) == []
    assert _declared(service) == _imported(service)
    assert _untidy(service) == []


@pytest.mark.parametrize("columns", [88, 120])
def test_a_team_s_own_line_length_leaves_the_template_s_files_alone(
    columns: int, render: Render
) -> None:
    """Files that were formatted anew would conflict with every update."""
    service = render(preset="everything")
    project = service / "pyproject.toml"
    text = project.read_text("utf-8")
    assert "line-length = 100" in text
    project.write_text(text.replace("line-length = 100", f"line-length = {columns}"), "utf-8")

    for command in (("format", "--check", "--no-cache", "."), ("check", "--no-cache", ".")):
        done = python("ruff", *command, cwd=service)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("preset", ORDER["presets"])
def test_nothing_is_imported_for_what_is_absent(preset: str, render: Render) -> None:
    service = render(preset=preset)
    long = "random characters, more than 32 of them"
    shown = "import sys, app.main; print(*(name for name in sys.modules))"
    env: dict[str, Any] = {"SESSION_SECRET": long, "JWT_KEY": long, "JWT_ALGORITHMS": "HS256"}

    done = run(sys.executable, "-c", shown, cwd=service, **env)

    assert done.returncode == 0, done.stdout
    paths = [name.replace(".", "/") for name in done.stdout.split()]
    imported = {_owners().get(at) for path in paths for at in (path, f"{path}/__init__")}
    all_of_them = {_name(line) for name in ENTRIES for line in _dependencies(name)}
    assert imported & all_of_them - _declared(service) == set()


@pytest.mark.parametrize(("size", "left_out"), [(2, None), (3, "pair-")])
def test_layers_meet_in_all_their_states(size: int, left_out: str | None) -> None:
    """Any two in the sample; any three in the matrix, even without its pairs."""
    selections = [
        {*answers["layers"]}
        for name, answers in _selections().items()
        if (not name.startswith(left_out) if left_out else _in_sample(name))
    ]
    possible = [
        (chosen, {*group} - chosen)
        for group in combinations(LAYERS, size)
        for count in range(size + 1)
        for chosen in map(set, combinations(group, count))
        if not {*closed(chosen)} & ({*group} - chosen)
    ]

    lacking = [
        (chosen, absent)
        for chosen, absent in possible
        if not any(chosen <= selection and not absent & selection for selection in selections)
    ]
    assert lacking == []


def _traces(service: Path, chosen: set[str]) -> list[str]:
    """Return where files speak of what isn't there: modules, classes, settings, effects."""
    absent = {*LAYERS} - chosen
    # Not a path that is in quotes, such as that of the metrics.
    names = {rf"(?:(?<![\"'])[./]|test_){name}(?:[.]py)?\b" for name in absent}
    names |= {rf"{word}\b" for name in absent for word in _classes(name)}
    fields = (service / "app/middleware/settings.py").read_text("utf-8")
    settings = {
        name: {rf"{word}\b" for word in _settings(name) if f"\n    {word.lower()}: " not in fields}
        for name in ENTRIES
    }
    effects = {EFFECTS[name] for name in absent}
    found: list[str] = []
    for path in sorted(service.rglob("*")):
        if path.suffix not in {".py", ".toml", ".md", ".yml", ".yaml", ".json", ".example"}:
            continue
        words = names | MARKS
        # The test of a layer may speak of another's settings, where it is skipped without that one.
        if not path.name.startswith("test_"):
            # Code compares a setting with one of a module that may be absent.
            speaking = absent if path.suffix == ".py" else {*ENTRIES}
            words |= {word for name in speaking for word in settings[name]}
        # What layers run on knows all of them.
        if not {"tests", "core"} & {*path.relative_to(service).parts}:
            words |= effects
        text = _without_left_out(path.read_text("utf-8"))
        hits = re.finditer(rf"(?<!\w)(?:{'|'.join(sorted(words))})", text)
        found += [f"{path.relative_to(service)}: {hit[0]}" for hit in hits]
    return found


def _untidy(service: Path) -> list[str]:
    """Return the files with white space that an editor or a hook would remove."""
    texts = {path: path.read_text("utf-8") for path in service.rglob("*") if path.is_file()}
    return [
        str(path.relative_to(service))
        for path, text in texts.items()
        if text and (not re.search(r"\S\n\Z", text) or re.search(r"[ \t]$", text, re.MULTILINE))
    ]


def _classes(name: str) -> Iterator[str]:
    # A library's class may be on any docs page, as an example.
    for entry in with_variants(ENTRIES[name]):
        if entry.get("class", "").startswith("."):
            yield entry["class"].split(":")[1]


def _settings(name: str) -> Iterator[str]:
    for entry in with_variants(ENTRIES[name]):
        for knob in entry.get("settings", ()):
            yield knob["name"]
            yield knob["name"].lower()


def _without_left_out(page: str) -> str:
    """Return a page without what it says of other layers on purpose."""
    page = re.sub(
        r"^[*][*]Why order matters[.][*][*]$.*?^$", "", page, flags=re.MULTILINE | re.DOTALL
    )
    page = re.sub(r"^.*#left-out\).*$", "", page, flags=re.MULTILINE)
    return re.sub(r"^## Left out$.*?(?=^## |\Z)", "", page, flags=re.MULTILINE | re.DOTALL)


def _dependencies(name: str) -> Iterator[str]:
    for entry in with_variants(ENTRIES[name]):
        yield from entry.get("dependencies", ())


def _declared(service: Path) -> set[str]:
    project = tomllib.loads((service / "pyproject.toml").read_text("utf-8"))
    lines = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    return {*map(_name, lines)} - {*NOT_IMPORTED}


def _name(requirement: str) -> str:
    return str(canonicalize_name(Requirement(requirement).name))


def _imported(service: Path) -> set[str]:
    return {
        owner
        for folder in ("app", "tests")
        for path in (service / folder).rglob("*.py")
        for modules in _modules(path)
        if (owner := _owner(*modules))
    } - {*NOT_IMPORTED}


def _modules(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield what each import may name: `from a import b` is of `a.b` or of `a`."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name,) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((f"{node.module}.{alias.name}", node.module) for alias in node.names)


def _owner(*modules: str) -> str | None:
    """Return the distribution that brings the first of `modules` that is one."""
    if modules[0].split(".")[0] in {*sys.stdlib_module_names, "app", "tests"}:
        return None
    return next(
        owner
        for module in modules
        for name in (module, f"{module}.__init__")
        if (owner := _owners().get(name.replace(".", "/")))
    )


@cache
def _owners() -> dict[str, str]:
    return {
        file.as_posix().split(".")[0]: str(canonicalize_name(distribution.name))
        for distribution in distributions()
        for file in distribution.files or ()
        if file.suffix in {".py", ".so", ".pyd", ".pyi"}
    }
