"""What surrounds a service: other people's settings, tools, plugins and bots."""

import json
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.resources import files
from itertools import product
from pathlib import Path, PurePath
from typing import Any, Final

import pytest
import yaml
from copier import run_copy
from mypy.errorcodes import error_codes
from packaging.requirements import Requirement

from .clone import NEWEST, releases
from .conftest import Render
from .support import (
    FAILED_START,
    ROOT,
    SCHEMES,
    SERVE,
    TEMPLATE,
    UV,
    Done,
    blocks,
    commit,
    files_shown,
    git,
    path_with_uv,
    python,
    read_yaml,
    run,
)

TEMPLATES_OWN: Final = ("app/middleware", "tests/middleware", "conftest.py")
# `ruff format` formats the Python of pages, too.
FORMATTED: Final = (*TEMPLATES_OWN, "docs")
# And `ruff check` reads its own settings.
LINTED: Final = (*TEMPLATES_OWN, "pyproject.toml")

RUFF: Final = "[tool.ruff]\n"
LINT: Final = "[tool.ruff.lint]\n"
MYPY: Final = "[tool.mypy]\n"

# What a team writes into its pyproject: after which line, and what.
SETTINGS: Final = {
    "py314": [("\ntarget-version = ", '"py314"  #')],
    "79 columns": [("\nline-length = ", "79  #")],
    "120 columns": [("\nline-length = ", "120  #")],
    "single quotes": [
        (LINT, 'flake8-quotes.inline-quotes = "single"\n'),
        (RUFF, 'format.quote-style = "single"\n'),
    ],
    "docstrings in single quotes": [(LINT, 'flake8-quotes.docstring-quotes = "single"\n')],
    "one import a line": [(LINT, "isort.force-single-line = true\n")],
    "other first parties": [(LINT, 'isort.known-first-party = ["starlette"]\n')],
    "no relative imports": [(LINT, 'flake8-tidy-imports.ban-relative-imports = "all"\n')],
    "nothing ignored": [('select = ["ALL"]\nignore = [', "]\nextend-fixable = [")],
    "rules in preview": [(RUFF, "preview = true\n")],
    "Google's docstrings": [(LINT, 'pydocstyle.convention = "google"\n')],
}
OPTIONAL_CODES: Final = [code for code, it in error_codes.items() if not it.default_enabled]
MYPY_SETTINGS: Final = {
    "unreachable": "warn_unreachable = true\n",
    "more codes": f"enable_error_code = {OPTIONAL_CODES}\n",
    "no Any": "".join(
        f"disallow_any_{kind} = true\n" for kind in ("expr", "explicit", "decorated")
    ),
}
REFORMATTERS: Final = {
    "Black": ("[tool.black]\n", "", ("black", "--quiet")),
    "Black, 79 columns": ("[tool.black]\n", "line-length = 79\n", ("black", "--quiet")),
    "isort": ("[tool.isort]\n", 'profile = "black"\n', ("isort", "--quiet")),
    "isort, a line each": ("[tool.isort]\n", "force_single_line = true\n", ("isort", "--quiet")),
}
# What renders every file that a service may have.
EVERY_FILE: Final = {
    "preset": "everything",
    "authentication_scheme": SCHEMES[0],
    "further_schemes": [*SCHEMES[1:]],
    "storage": "redis",
}
# Where Renovate finds something and the rule for the lines of the template isn't needed.
NOT_RAISED: Final = {
    ".copier-answers.yml": "the update itself",
    "pyproject.toml": "only uv.lock is raised",
    "renovate.json": "its presets are of Renovate and have no version",
}
# What a user has where pages say how to call `stack_options`.
TOLD: Final = """
from fastapi import FastAPI
from starlette.middleware import Middleware
from .legacy import LegacyMiddleware as MyLayer
from .middleware import innermost, stack_options
from .settings import Settings

settings = Settings.from_environment()

async def database_is_up() -> None: ...

"""
# The hooks of pre-commit that many teams have, by the files that pre-commit gives them.
HOOKS: Final = {
    "*": (
        *("end-of-file-fixer", "trailing-whitespace-fixer", "mixed-line-ending"),
        *("fix-byte-order-marker", "check-added-large-files", "check-case-conflict"),
        *("check-merge-conflict", "check-vcs-permalinks", "check-symlinks"),
    ),
    "*.py": (
        "check-ast",
        "check-builtin-literals",
        "check-docstring-first",
        "debug-statement-hook",
    ),
    "*.y*ml": ("check-yaml",),
    "*.toml": ("check-toml",),
    "*.json": ("check-json",),
}
# With trio, the plugin of anyio runs its tests twice.
PLUGINS: Final = ("pytest-asyncio", "pytest-cov", "pytest-randomly", "pytest-xdist", "trio")


@pytest.fixture(scope="module")
def rendered(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a preset's service, or one with every file, to be read and not to be changed."""
    folder: Path = tmp_path_factory.mktemp("surroundings")

    def service(preset: str) -> Path:
        destination = folder / preset
        if not destination.exists():
            data = EVERY_FILE if preset == "every file" else {"preset": preset}
            run_copy(
                str(template), destination, data=data, defaults=True, quiet=True, vcs_ref="HEAD"
            )
        return destination

    return service


@pytest.fixture(params=["every file", pytest.param("minimal", marks=pytest.mark.matrix)])
def service(
    request: pytest.FixtureRequest, rendered: Callable[[str], Path], tmp_path: Path
) -> Iterator[Path]:
    yield (copied := _copied(rendered(request.param), tmp_path))
    shutil.rmtree(copied)


@pytest.fixture
def minimal(rendered: Callable[[str], Path], tmp_path: Path) -> Iterator[Path]:
    yield (copied := _copied(rendered("minimal"), tmp_path))
    shutil.rmtree(copied)


def _copied(service: Path, folder: Path) -> Path:
    return Path(shutil.copytree(service, folder / "copied"))


# The settings of a team


@pytest.mark.parametrize("edits", SETTINGS.values(), ids=SETTINGS)
def test_ruff_leaves_the_template_s_files_alone(
    edits: list[tuple[str, str]], service: Path
) -> None:
    for after, text in edits:
        _insert(service, after, text)

    formatted = python("ruff", "format", "--no-cache", "--check", *FORMATTED, cwd=service)
    linted = python("ruff", "check", "--no-cache", *LINTED, cwd=service)

    assert (formatted.returncode, formatted.stdout) == (0, formatted.stdout)
    assert (linted.returncode, linted.stdout) == (0, linted.stdout)


@pytest.mark.parametrize(("section", "text", "command"), REFORMATTERS.values(), ids=REFORMATTERS)
def test_other_formatters_leave_the_template_s_files_alone(
    section: str, text: str, command: tuple[str, ...], service: Path
) -> None:
    """By folder as by hand, and file by file as pre-commit does."""
    _insert(service, section, text)
    commit(service)

    for paths in ([service], [path for name in TEMPLATES_OWN for path in _files(service / name)]):
        done = python(*command, *paths, cwd=service)
        assert done.returncode == 0, done.stdout

    assert git("status", "--short", "--", *TEMPLATES_OWN, cwd=service) == ""
    # It does its work elsewhere.
    _write(service, "app/routes.py", "import sys, os\nx = {'a':1}\n")
    python(*command, ".", cwd=service)
    assert "sys, os" not in _read(service, "app/routes.py") or "{'a':1}" not in _read(
        service, "app/routes.py"
    )


@pytest.mark.parametrize("text", MYPY_SETTINGS.values(), ids=MYPY_SETTINGS)
@pytest.mark.parametrize(
    "preset", ["minimal", pytest.param("every file", marks=pytest.mark.matrix)]
)
def test_mypy_finds_nothing_in_the_template_s_files(
    preset: str, text: str, rendered: Callable[[str], Path], tmp_path: Path, mypy_cache: Path
) -> None:
    service = _copied(rendered(preset), tmp_path)
    _insert(service, MYPY, text)

    found = python("mypy", "--cache-dir", mypy_cache, cwd=service).stdout.splitlines()

    assert [line for line in found if line.startswith(TEMPLATES_OWN)] == []
    assert re.search(r"Success|Found \d+ error", found[-1])


def test_strict_pyright_finds_nothing_in_the_template_s_files(minimal: Path) -> None:
    _insert(minimal, "[tool.pyright]\n", 'typeCheckingMode = "strict"\n')

    found = _tool("pyright", "--pythonpath", sys.executable, cwd=minimal).stdout

    assert [name for name in TEMPLATES_OWN[:2] if f"/{name}/" in found] == []
    assert re.search(r"\d+ errors?, ", found)


# Checkers


@pytest.mark.parametrize(
    "command",
    [
        ("pyright", "--pythonpath", sys.executable),
        ("ty", "check", "--python", sys.executable, "--error-on-warning"),
        ("pyrefly", "check", "--python-interpreter-path", sys.executable, "--min-severity=warn"),
        ("zizmor", "--offline", "."),
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize("folder", ["every file", "this repository"])
def test_checkers_find_nothing(
    command: tuple[str, ...], folder: str, rendered: Callable[[str], Path], tmp_path: Path
) -> None:
    """
    In the code of pages neither, as a user writes it from them.

    Nor in the template's files, which the settings of a service spare pyright.
    """
    service = ROOT
    if folder != "this repository":
        service = _copied(rendered(folder), tmp_path)
        for name, content in files_shown(_read(service, "docs/middleware.md")):
            _write(service, name, content)
        _write(service, "app/told.py", TOLD + "\n".join(_calls_in_pages(service)))
        project = _read(service, "pyproject.toml")
        _write(service, "pyproject.toml", re.sub(r"\[tool.pyright\]\nignore = .*\n", "", project))

    done = _tool(*command, cwd=service)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "scheme", [SCHEMES[0], *(pytest.param(name, marks=pytest.mark.matrix) for name in SCHEMES[1:])]
)
def test_no_literal_looks_like_a_secret(scheme: str, render: Render) -> None:
    """Scanners before a commit would refuse the template's own files."""
    service = render(preset="everything", authentication_scheme=scheme)
    commit(service)
    names = git("ls-files", cwd=service).split()

    scanned = _tool("detect-secrets", "scan", cwd=service)
    keys = _tool("detect-private-key", *names, cwd=service)

    assert json.loads(scanned.stdout)["results"] == {}
    assert keys.returncode == 0, keys.stdout


@pytest.mark.parametrize("preset", ["everything", "minimal", "api"])
def test_hooks_before_a_commit_leave_every_file_alone(
    preset: str, rendered: Callable[[str], Path], tmp_path: Path
) -> None:
    """What they rewrite would conflict with the next update."""
    service = _copied(rendered(preset), tmp_path)
    commit(service)

    for pattern, hooks in HOOKS.items():
        names = git("ls-files", pattern, cwd=service).splitlines()
        assert names
        found = {hook: _tool(hook, *names, cwd=service) for hook in hooks}
        assert {hook: done.stdout for hook, done in found.items() if done.returncode} == {}


@pytest.mark.matrix
@pytest.mark.skipif(not shutil.which("npx"), reason="needs npx, and the registry of npm")
def test_prettier_leaves_the_template_s_files_alone(render: Render) -> None:
    """The answers are Copier's to write, as the README says; the README is the user's."""
    service = render(preset="everything", storage="redis")

    done = run("npx", "--yes", "prettier@3", "--list-different", ".", cwd=service)

    assert {*done.stdout.split()} == {".copier-answers.yml", "README.md"}
    assert "put `.copier-answers.yml` into your `.prettierignore`" in _read(service, "README.md")


# Plugins, `.env`, migrations


@pytest.mark.skipif(not UV, reason="needs uv")
@pytest.mark.parametrize(
    "preset", ["minimal", pytest.param("everything", marks=pytest.mark.matrix)]
)
def test_usual_plugins_just_work(
    preset: str, rendered: Callable[[str], Path], tmp_path: Path
) -> None:
    service = _copied(rendered(preset), tmp_path)
    plugins = [word for name in PLUGINS for word in ("--with", name)]

    done = run(
        UV, "run", *plugins, "pytest", "-q", "-n", "2", "--cov=app", cwd=service, VIRTUAL_ENV=""
    )

    assert done.returncode == 0, done.stdout
    assert "asyncio_default_fixture_loop_scope" in done.stdout


def test_a_warning_still_fails_a_test(minimal: Path) -> None:
    _write(
        minimal, "tests/test_mine.py", "import warnings\n\ndef test():\n    warnings.warn('x')\n"
    )

    done = python("pytest", "-q", "-p", "no:xdist", "tests/test_mine.py", cwd=minimal)

    assert done.returncode == 1
    assert "UserWarning: x" in done.stdout


def test_tests_do_not_depend_on_the_settings_of_a_machine(service: Path) -> None:
    _write(service, ".env", "ALLOWED_HOSTS=api.orders.test\nLOG_FORMAT=xml\n")

    done = python("pytest", "-q", "-p", "no:xdist", "tests/test_routes.py", cwd=service)

    assert done.returncode == 0, done.stdout


def test_tests_read_what_is_committed_for_them(service: Path) -> None:
    """A setting without a default would end every test of a clean clone."""
    settings = _read(service, "app/settings.py")
    _write(service, "app/settings.py", f"{settings}\n    orders_url: str\n")
    _write(service, ".env.test", "ORDERS_URL=sqlite://\n")

    done = python("pytest", "-q", "-p", "no:xdist", "tests/test_routes.py", cwd=service)

    assert done.returncode == 0, done.stdout
    commit(service)
    assert ".env.test" in git("ls-files", cwd=service)


def test_no_settings_of_tests_come_from_the_machine(service: Path) -> None:
    """Those of a job neither, those with a file of their own, and those of other processes."""
    _write(
        service,
        "app/settings.py",
        '''"""The settings."""

from .middleware import EnvironmentSettings, StackSettings


class DatabaseSettings(EnvironmentSettings):
    database_url: str


class JobSettings(DatabaseSettings, env_file=(".env", ".env.jobs")):
    pass


class Settings(StackSettings, DatabaseSettings):
    pass
''',
    )
    _write(
        service,
        "tests/test_mine.py",
        """import pytest

from app.settings import DatabaseSettings, JobSettings, Settings


class Later(JobSettings):
    pass


@pytest.mark.parametrize("settings", [DatabaseSettings, JobSettings, Settings, Later])
def test(settings):
    assert settings.from_environment().database_url == "test"
""",
    )
    _write(service, ".env", "DATABASE_URL=production\nLOG_FORMAT=xml\n")
    _write(service, ".env.jobs", "DATABASE_URL=production\n")
    _write(service, ".env.test", "DATABASE_URL=test\n")
    processes = (
        "tests/middleware/test_stack.py::test_the_command_prints_the_live_stack",
        "tests/middleware/core/test_explain.py::test_the_command_compares_both",
    )

    done = python(
        *("pytest", "-q", "-p", "no:xdist", "tests/test_mine.py", "tests/test_routes.py"),
        *processes,
        cwd=service,
    )

    assert done.returncode == 0, done.stdout


JWKS_URL: Final = "JWT_JWKS_URL=https://id.example/keys"


def test_tests_add_only_what_is_not_set(service: Path) -> None:
    """A key of their own beside the address of keys would end every test."""
    _write(service, ".env.test", f"{JWKS_URL}\n")
    _write(service, "tests/conftest.py", _read(service, "tests/conftest.py") + CREDENTIALS)

    done = python(
        *("pytest", "-q", "-p", "no:xdist", "tests/test_routes.py::test_a_probe_is_answered"),
        cwd=service,
    )

    assert done.returncode == 0, done.stdout


CREDENTIALS: Final = """

@pytest.fixture
def credentials() -> dict[str, str]:
    return {}
"""


def test_a_migration_needs_no_setting_of_the_middleware(service: Path) -> None:
    """As the README says; what Alembic writes is nobody's to format."""
    (settings,) = blocks(_read(service, "README.md"), "python")
    _write(service, "app/settings.py", settings)
    (service / "alembic").mkdir()
    _write(service, "alembic/env.py", "import os, sys\nx = 'a'\n")
    read = "from app.settings import *; print({}.from_environment().database_url)"

    database = run(
        sys.executable, "-c", read.format("DatabaseSettings"), cwd=service, DATABASE_URL="sqlite://"
    )
    checks = [
        python("ruff", *words, ".", cwd=service) for words in (("format", "--check"), ("check",))
    ]

    assert database.stdout == "sqlite://\n"
    assert [done.stdout for done in checks if done.returncode] == []
    typed = python("mypy", "app/settings.py", cwd=service)
    assert typed.returncode == 0, typed.stdout
    admitted = _read(service, ".dockerignore").splitlines()
    assert {"!alembic", "!alembic.ini", "!migrations"} <= {*admitted}
    assert "\nCOPY --chmod=755 . .\n" in _read(service, "Dockerfile")


def test_everything_that_is_missing_is_told_in_one_start(
    rendered: Callable[[str], Path],
) -> None:
    done = run(sys.executable, "-c", "import app.main", cwd=rendered("everything"))

    assert done.returncode == FAILED_START
    named = {line.split(" must be set")[0] for line in done.stdout.splitlines()}
    assert named == {"SESSION_SECRET", "JWT_KEY or JWT_JWKS_URL"}


# Image, commands


def test_no_proxy_stands_before_the_health_check(minimal: Path) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any, **__: Any) -> None:
            pass

    image = _read(minimal, "Dockerfile").replace("\\\n", "")
    (check,) = (
        json.loads(words)[-1] for words in re.findall(r"HEALTHCHECK.* CMD +(\[.*\])", image)
    )
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        here = check.replace(":8000", f":{server.server_port}")
        names = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
        proxies: dict[str, Any] = dict.fromkeys(names, "http://127.0.0.1:9")
        done = run(sys.executable, "-c", here, cwd=minimal, NO_PROXY="", no_proxy="", **proxies)
        server.shutdown()

    assert done.returncode == 0, done.stdout


def test_every_command_ends_where_the_start_does_and_names_no_server(service: Path) -> None:
    """A lifespan that may be left out hides a refusal to start."""
    image = json.dumps(_read(service, "Dockerfile").replace("\\\n     ", "").replace('", "', " "))
    words = [
        image,
        *(_read(service, name) for name in ("README.md", "AGENTS.md", "docs/deployment.md")),
    ]
    commands = re.findall(r"uvicorn app[.]main:app[^`\n\"\\]*", "\n".join(words))

    assert len(commands) >= 3
    assert f"uv run {SERVE}" in words[1]
    for command, flag in product(
        commands, ("--lifespan on", "--no-server-header", "--no-proxy-headers")
    ):
        assert flag in command
    assert not re.search(r"uv run fastapi", "\n".join(words))


@pytest.mark.parametrize("shell", ["sh", "dash", "bash", "zsh", "fish"])
def test_each_shell_writes_the_values_that_are_kept(
    shell: str, render: Render, tmp_path: Path
) -> None:
    """Below a last line without an end, which takes the next one in."""
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    layers = ["rate_limit", "session", "authentication"]
    service = render(layers=layers, further_schemes=["api_key"], storage="redis")
    _write(service, ".env", "MINE=1")
    path = path_with_uv(tmp_path)
    commands = [
        command.partition("\nuv run uvicorn")[0]
        for command in blocks(_read(service, "README.md"), "sh")
        if ">> .env" in command
    ]

    for command in commands:
        done = run(shell, "-c", command, cwd=service, PATH=path)
        assert done.returncode == 0, done.stdout

    lines = dict(line.split("=", 1) for line in _read(service, ".env").split())
    assert len(commands) == 2
    assert lines.keys() >= {"MINE", "API_KEYS", "SESSION_SECRET", "STORAGE_URL", "REDIS_PASSWORD"}
    assert lines["MINE"] == "1"
    assert "" not in lines.values()


def test_the_floor_of_cryptography_leaves_wheels_for_every_machine(service: Path) -> None:
    """From 49 on there is none for macOS on Intel, and 46 has one for Windows on ARM."""
    floors = re.findall(r'"(cryptography.*)"', _read(service, "pyproject.toml"))

    assert all(Requirement(floor).specifier.contains("46.0.7") for floor in floors)


# Renovate


def test_renovate_leaves_the_lines_of_the_template_alone(render: Render) -> None:
    """Raised in the service and in the template, they are conflicts of the next update."""
    service = render(preset="everything", storage="redis")
    rules = json.loads(_read(service, "renovate.json"))["packageRules"]
    (left,) = (rule for rule in rules if rule.get("enabled") is False)
    (bounds,) = (rule for rule in rules if rule.get("matchManagers") == ["pep621"])
    names = [path.relative_to(service).as_posix() for path in _files(service)]
    found = {name for name in names if any(_finds(it, name) for it in _managers().values())}

    assert found == {*left["matchFileNames"], *NOT_RAISED}
    pins = {pin for name in left["matchFileNames"] for pin in _pins(_read(service, name))}
    assert {package for package, _ in pins} == {*left["matchPackageNames"]}
    assert "matchManagers" not in left
    assert bounds["rangeStrategy"] == "update-lockfile"


@pytest.mark.parametrize("folder", [".github", "template"])
def test_renovate_raises_the_lines_of_the_template_here(folder: str) -> None:
    settings = json.loads(_read(ROOT, "renovate.json"))
    patterns = dict(_managers())
    for manager in patterns.keys() & settings:
        patterns[manager] = patterns[manager] + settings[manager]["managerFilePatterns"]
    pinned = {
        name: pins
        for name in git("ls-files", folder, cwd=ROOT).splitlines()
        if name.endswith(("file", ".yml", ".yaml", ".jinja")) and (pins := _pins(_read(ROOT, name)))
    }
    everywhere = {pin for pins in pinned.values() for pin in pins}

    assert pinned
    assert [name for name in pinned if not any(_finds(it, name) for it in patterns.values())] == []
    assert len({package for package, _ in everywhere}) == len(everywhere)
    assert {"docker:pinDigests", "helpers:pinGitHubActionDigests"} <= {*settings["extends"]}
    for name in pinned:
        for _, pin in re.findall(r"uses: (\S+)@(.*)", _read(ROOT, name)):
            assert re.fullmatch(r"[0-9a-f]{40} # v\d+[.]\d+[.]\d+", pin)


def test_renovate_reads_the_images_of_a_template() -> None:
    """It removes what is Jinja's first (pull request 31206 of renovatebot/renovate)."""
    text = re.sub(r"\{\{.+?\}\}|\{%.+?%\}", "", _read(TEMPLATE, "compose.yaml.jinja"))
    services = yaml.safe_load(text)["services"].values()

    images = {service["image"] for service in services if "image" in service}
    assert images == {":".join(pin) for pin in _pins(text)}


@pytest.mark.parametrize("name", ["renovate.json", "template/renovate.json"])
def test_the_settings_of_renovate_are_known_to_it(name: str) -> None:
    schema = ("--builtin-schema", "vendor.renovate")

    done = _tool("check-jsonschema", *schema, ROOT / name, cwd=ROOT)

    assert done.returncode == 0, done.stdout


def test_a_conflict_in_a_workflow_is_found_by_another(minimal: Path) -> None:
    workflow = _read(minimal, ".github/workflows/ci.yml")
    marks = "<<<<<<< before updating\n=======\n>>>>>>> after updating\n"
    _write(
        minimal,
        ".github/workflows/ci.yml",
        workflow.replace("    steps:\n", f"{marks}    steps:\n"),
    )
    commit(minimal)
    (step,) = (
        step["run"]
        for step in read_yaml(minimal / ".github/workflows/conflicts.yml")["jobs"]["check"]["steps"]
        if "run" in step
    )

    assert run("bash", "-e", "-c", step, cwd=minimal).returncode == 1


# Updates


@pytest.mark.parametrize(
    "release", [*[*releases(ROOT)][-1:], pytest.param(NEWEST, marks=pytest.mark.matrix)]
)
def test_what_was_deleted_stays_away(release: str, render: Render) -> None:
    """With what is new in a folder: tests without their conftest can't run."""
    deleted = ("tests/middleware", ".github/workflows", ".gitattributes")
    service = render("service [1]", ref=release, preset="minimal")
    commit(service)
    git("rm", "-r", "--quiet", *deleted, cwd=service)
    commit(service)

    for _ in range(2):
        # As an argument, the path is part of a pattern.
        done = python("copier", "update", "--defaults", service, cwd=service.parent)
        assert done.returncode == 0, done.stdout
        assert [path for path in deleted if (service / path).exists()] == []
        assert git("diff", "--name-only", "--diff-filter=U", cwd=service) == ""
        commit(service)


def test_attributes_are_of_the_template_s_files_alone(minimal: Path) -> None:
    commit(minimal)
    names = git("ls-files", cwd=minimal).split()
    answered = git("check-attr", "eol", "--", *names, "notes.txt", "app/routes.py", cwd=minimal)

    governed = {line.split(":")[0] for line in answered.splitlines() if line.endswith(": lf")}

    mine = {"README.md", ".gitattributes", "app/__init__.py", "app/main.py", "app/routes.py"}
    mine |= {"app/settings.py", "tests/__init__.py", "tests/conftest.py", "tests/test_routes.py"}
    assert governed == {*names} - mine


def test_windows_line_ends_do_not_conflict_after_the_advice(render: Render, tmp_path: Path) -> None:
    """The README's words, on a service whose files were committed that way."""
    born = render(ref="0.5.1", preset="api")
    git("init", "--quiet", cwd=born)
    for path in _files(born):
        if ".git" not in path.relative_to(born).parts:
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    commit(born)
    service = tmp_path / "clone"
    git("clone", "--quiet", born, service, cwd=tmp_path)
    (advice,) = re.findall(
        r"Windows line ends, add `(.+?)` to `(.+?)`, run `git (.+?)`", _read(ROOT, "README.md")
    )
    attributes, name, words = advice
    _write(service, name, f"{attributes}\n")
    git(*words.split(), cwd=service)
    commit(service)

    done = _update(service)

    assert done.returncode == 0, done.stdout
    assert git("diff", "--name-only", "--diff-filter=U", cwd=service) == ""
    assert git("ls-files", "*.rej", "--others", cwd=service) == ""


# Answers


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("onion", "data"),
        ("onion", "defaults"),
        ("onion_catalogue", "data"),
        ("distribution_name", "data"),
        ("distribution_name", "defaults"),
    ],
)
def test_what_is_computed_can_not_be_set(
    name: str, given: str, template: Path, tmp_path: Path
) -> None:
    value = 'x "y' if name == "distribution_name" else "{}"
    settings = tmp_path / "settings.yml"
    settings.write_text(json.dumps({"defaults": {name: value} if given == "defaults" else {}}))
    data = ["--data", f"{name}={value}"] if given == "data" else []
    words: tuple[str | Path, ...] = ("copy", "--defaults", *data, template, tmp_path / "service")

    done = python("copier", *words, cwd=tmp_path, COPIER_SETTINGS_PATH=str(settings))

    if name == "distribution_name":
        assert 'name = "my-service"\n' in _read(tmp_path / "service", "pyproject.toml")
    else:
        assert f"{name} is computed from the other answers and can't be set." in done.stdout
        assert not (tmp_path / "service").exists()


def test_a_path_of_a_machine_is_said_to_lead_renovate_nowhere(
    template: Path, tmp_path: Path
) -> None:
    done = python("copier", "copy", "--defaults", template, tmp_path / "service", cwd=tmp_path)

    assert f"Renovate can't find the template at {template}:" in done.stdout


@cache
def _managers() -> dict[str, list[str]]:
    """Return the patterns of files in which each manager of Renovate looks by default."""
    schemas = files("check_jsonschema.builtin_schemas.vendor")
    definitions = json.loads(schemas.joinpath("renovate.json").read_text("utf-8"))["definitions"]
    defaults = {name: it.get("default") for name, it in definitions.items()}
    return {
        name: default["managerFilePatterns"]
        for name, default in defaults.items()
        if isinstance(default, dict) and "managerFilePatterns" in default
    }


def _finds(patterns: list[str], name: str) -> bool:
    """Return whether one of Renovate's patterns, regular expressions or globs, fits a file."""
    return any(
        re.search(regex[1], name, re.IGNORECASE if regex[2] else re.NOFLAG)
        if (regex := re.fullmatch("/(.*)/(i?)", pattern))
        else PurePath(name).match(pattern)
        for pattern in patterns
    )


def _pins(text: str) -> set[tuple[str, str]]:
    """Return the actions and the images of a file, each with its version."""
    actions = re.findall(r"uses: (\S+)@(.*)", text)
    images = re.findall(
        r"^(?:FROM |.*--from=|# syntax=| +image: )([\w./-]+):([\w.-]+)", text, re.MULTILINE
    )
    return {*actions, *images}


def _calls_in_pages(service: Path) -> Iterator[str]:
    """Yield a line for each call of `stack_options` that a page has within a sentence."""
    pages = "".join(page.read_text("utf-8") for page in service.rglob("*.md"))
    calls = re.findall(r"`([^`\n]*stack_options[(][^`\n]+)`", pages)
    assert len(calls) > 2
    for call in calls:
        yield call if call.startswith("stack_options") else f"FastAPI({call})"


def _tool(name: str, *arguments: str | Path, cwd: Path) -> Done:
    return run(Path(sys.executable).with_name(name), *arguments, cwd=cwd)


def _update(service: Path) -> Done:
    return python("copier", "update", "--defaults", cwd=service)


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]


def _insert(service: Path, after: str, text: str) -> None:
    project = _read(service, "pyproject.toml")
    assert project.count(after) == 1
    _write(service, "pyproject.toml", project.replace(after, after + text))


def _read(folder: Path, name: str) -> str:
    return (folder / name).read_text("utf-8")


def _write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, "utf-8")
