"""`copier update`: it brings what is new, and takes nothing that is the user's."""

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from copier import run_copy, run_update

from .clone import NEWEST, releases
from .conftest import Render
from .support import (
    LAYERS,
    ORDER,
    ROOT,
    SCHEMES,
    UV,
    Done,
    closed,
    commit,
    failures,
    git,
    python,
    read_yaml,
    real_defaults,
    run,
    with_variants,
)

# The newest version may be unfinished: its first revision lacks what it will bring.
FINISHED: Final = [*releases(ROOT)][:-1]
MATRIX: Final = pytest.mark.matrix

PLAIN: Final = ["request_id", "access_log", "security_headers", "cors", "error_handler"]

# What every run has of the layers: one that others need, one that stores, the one with schemes.
SAMPLED_LAYERS: Final = {"request_id", "rate_limit", "authentication"}

USERS: Final = {
    *(".gitattributes", "AGENTS.md", "README.md"),
    *("app/__init__.py", "app/main.py", "app/routes.py", "app/settings.py"),
    *("tests/__init__.py", "tests/conftest.py", "tests/test_routes.py"),
}
SHARED: Final = {"pyproject.toml", ".env.example"}
OWN: Final = {"app/errors.py", "app/tenant.py", ".env"}


def _ends(names: Iterable[str]) -> list[Any]:
    """Return releases as parameters: the oldest and the newest finished one in every run."""
    listed = [*names]
    every_run = {listed[0], max(set(listed) & {*FINISHED})}
    return [pytest.param(name, marks=[] if name in every_run else MATRIX) for name in listed]


def _open_releases() -> Iterator[str]:
    """Yield those that had authentication, and let anonymous requests in by default."""
    for name, revision in releases(ROOT).items():
        order = git("show", f"{revision}:hooks/order.yml", cwd=ROOT)
        if name < "0.6" and "- authentication\n" in order:
            yield name


OWN_MAIN: Final = '''"""The application of a user who made it her own."""

from fastapi import FastAPI
from starlette.middleware import Middleware

from .middleware import innermost, stack_options
from .routes import router
from .settings import Settings
from .tenant import TenantMiddleware


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the service."""
    settings = settings or Settings.from_environment()
    own = [innermost(Middleware(TenantMiddleware))]
    app = FastAPI(title="Mine", **stack_options(settings, own))
    app.include_router(router)
    return app


app = create_app()
'''
OWN_LAYER: Final = '''"""A layer of the user's."""

from starlette.types import ASGIApp, Receive, Scope, Send


class TenantMiddleware:
    """Do nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
'''

# Imports that the pages of earlier releases showed.
OWN_ERRORS: Final = '''"""Errors of the user's."""

from starlette.requests import Request
from starlette.responses import Response

from .middleware.log import bind
from .middleware.problem import problem_response


async def sold_out(request: Request, exc: Exception) -> Response:
    """Answer 409."""
    bind(sold_out=True)
    return problem_response(request.scope, 409, f"Sold out: {exc}")
'''

# Settings whose default is written otherwise: what was one value is a list now, `auto` is `json`
# wherever a service is deployed, and pages may use fewer features of browsers.
WIDENED: Final = {"JWT_AUDIENCE", "JWT_ISSUER", "LOG_FORMAT", "PERMISSIONS_POLICY"}

# Where 0.6.0 moved the files of earlier releases.
MOVED: Final = {
    **{
        f"app/middleware/{old}.py": f"app/middleware/{new}.py"
        for old, new in {
            "answers": "storage/responses",
            "api_keys": "credentials/api_keys",
            "check": "core/check",
            "cli": "core/command_line",
            "closing": "core/upload",
            "environment": "core/environment",
            "exchange": "core/exchange",
            "jwks": "credentials/jwks",
            "jwt_keys": "credentials/jwt_keys",
            "jwt_settings": "credentials/jwt_settings",
            "jwt_verifier": "credentials/jwt_verifier",
            "limits": "storage/limits",
            "memory_storage": "storage/memory",
            "networks": "core/networks",
            "own": "core/places",
            "probes": "core/layer",
            "redis_connection": "storage/redis_connection",
            "redis_storage": "storage/redis",
            "scope": "core/scope",
            "secret": "core/secret",
            "session_user": "credentials/session_user",
            "setting_types": "core/setting_types",
            "storage": "storage/base",
        }.items()
    },
    **{
        f"tests/middleware/{old}.py": f"tests/middleware/{new}.py"
        for old, new in {
            "credentials": "users",
            "redis_server": "storage/redis_server",
            "test_api_keys": "credentials/test_api_keys",
            "test_environment": "core/test_environment",
            "test_exchange": "core/test_exchange",
            "test_jwks": "credentials/test_jwks",
            "test_jwt_verifier": "credentials/test_jwt_verifier",
            "test_limits": "storage/test_limits",
            "test_memory_storage": "storage/test_memory",
            "test_networks": "core/test_networks",
            "test_redis_connection": "storage/test_redis_connection",
            "test_redis_storage": "storage/test_redis",
            "test_session_user": "credentials/test_session_user",
            "test_storage": "storage/test_base",
        }.items()
    },
}

OWN_SETTING: Final = "\n# Mine.\n#MINE=1\n"

# What a user adds by which command, and the mark below which it belongs.
OWN_DEPENDENCIES: Final = [
    (command, dependency, f"    # Yours: `{command}` appends below.\n")
    for command, dependency in (("uv add", "idna>=3"), ("uv add --dev", "pytest-cov>=7"))
]


@pytest.fixture
def lived_in(render: Render) -> Path:
    return _lived_in(render)


def _lived_in(render: Render, release: str = "HEAD") -> Path:
    """Return a service that somebody has worked on."""
    service = render(layers=PLAIN, project_name="Orders", ref=release)
    commit(service, "as rendered")
    _write(service, "app/main.py", OWN_MAIN)
    _write(service, "app/tenant.py", OWN_LAYER)
    _write(service, "app/errors.py", OWN_ERRORS)
    _write(service, "app/settings.py", _read(service, "app/settings.py") + "\n    mine: int = 1\n")
    _write(service, "app/routes.py", _read(service, "app/routes.py").replace("Show a", "Give a"))
    _write(service, "README.md", "# Ours\n")
    _write(service, ".env", "MINE=2\n")
    _add_dependencies(service)
    settings = _read(service, ".env.example")
    # Earlier releases had no such mark.
    before, mark, after = settings.partition("# --- Yours: ")
    line, _, rest = after.partition("\n")
    lines = [before, mark, line, OWN_SETTING, rest] if mark else [settings, OWN_SETTING]
    _write(service, ".env.example", "".join(lines))
    (service / "tests/test_routes.py").unlink()
    commit(service, "made it mine")
    return service


def _add_dependencies(service: Path) -> None:
    for command, dependency, mark in OWN_DEPENDENCIES:
        if UV:
            words = (*command.split()[1:], "--frozen", dependency)
            done = run(UV, *words, cwd=service, VIRTUAL_ENV="")
            assert done.returncode == 0, done.stdout
        else:
            project = _read(service, "pyproject.toml")
            assert mark in project
            _write(service, "pyproject.toml", project.replace(mark, f'{mark}    "{dependency}",\n'))


@pytest.mark.skipif(not UV, reason="needs uv")
@pytest.mark.parametrize(
    "answers",
    [*({"preset": preset} for preset in ORDER["presets"]), {"layers": ["cors"]}],
    ids=lambda answers: str(*answers.values()),
)
def test_what_uv_adds_stands_below_the_mark(answers: dict[str, Any], render: Render) -> None:
    """In the midst of the template's lines it would conflict with their changes."""
    service = render(**answers)

    _add_dependencies(service)

    for _, dependency, mark in OWN_DEPENDENCIES:
        assert f'{mark}    "{dependency}",\n]\n' in _read(service, "pyproject.toml")


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param([*PLAIN, "trusted_host"], id="add"),
        pytest.param([name for name in PLAIN if name != "cors"], id="drop"),
        pytest.param([*LAYERS], id="everything"),
    ],
)
def test_what_is_the_users_stays(
    layers: list[str], lived_in: Path, render: Render, mypy_cache: Path
) -> None:
    _update_and_look(lived_in, layers, render)

    assert failures(lived_in, mypy_cache=mypy_cache, parameters="first") == []


@pytest.mark.parametrize("release", _ends(releases(ROOT)))
def test_what_is_the_users_stays_from_a_release_on(
    release: str, render: Render, mypy_cache: Path
) -> None:
    lived_in = _lived_in(render, release)

    _update_and_look(lived_in, PLAIN, render)

    assert failures(lived_in, mypy_cache=mypy_cache, parameters="first") == []


def _update_and_look(service: Path, layers: list[str], render: Render) -> None:
    """Update a service that is lived in; what the user wrote is there, the rest is as fresh."""
    kept = {path: _read(service, path) for path in (*USERS, *OWN) if (service / path).exists()}

    done = _update(service, layers=layers)

    assert done.returncode == 0, done.stdout
    assert _conflicts(service) == []
    assert {path: _read(service, path) for path in kept} == kept
    assert not (service / "tests/test_routes.py").exists()
    for _, dependency, _ in OWN_DEPENDENCIES:
        assert f'    "{dependency}",\n' in _read(service, "pyproject.toml")
    assert OWN_SETTING in _read(service, ".env.example")
    fresh = render("fresh", layers=layers, project_name="Orders")
    assert _differences(service, fresh) == []


def test_the_layer_of_the_scheme_can_not_be_dropped_alone(render: Render) -> None:
    """Copier would put the default in place of the scheme, and users in by another door."""
    service = render(layers=["session", "authentication"], authentication_scheme="session")
    commit(service)

    done = _update(service, layers=["authentication"])

    assert done.returncode == 1
    assert "authentication_scheme=session needs the layer session" in done.stdout
    assert git("status", "--short", cwd=service) == ""
    done = _update(service, layers=["authentication"], authentication_scheme="api_key")
    assert done.returncode == 0, done.stdout


def test_a_scheme_is_added_and_another_becomes_the_first(render: Render) -> None:
    """No login vanishes because two questions had the same answer for a moment."""
    layers = ["session", "authentication"]
    service = render(layers=layers, authentication_scheme="jwt")
    commit(service)

    for answers in (
        {"further_schemes": ["session", "api_key"]},
        {"authentication_scheme": "api_key"},
    ):
        done = _update(service, **answers)
        assert done.returncode == 0, done.stdout
        assert _conflicts(service) == []
        commit(service)

    assert _answers(service)["further_schemes"] == ["session", "api_key"]
    recorded = {name: value for name, value in _answers(service).items() if name[0] != "_"}
    fresh = render("fresh", **recorded)
    assert _differences(service, fresh, besides=USERS) == []
    done = _update(service, layers=["authentication"])
    assert done.returncode == 1
    assert "further_schemes=session needs the layer session" in done.stdout


@pytest.mark.parametrize("command", ["update", "recopy"])
@pytest.mark.parametrize("release", _ends(_open_releases()))
def test_a_service_of_an_earlier_release_lets_anonymous_requests_in_as_before(
    release: str, command: str, render: Render, tmp_path: Path
) -> None:
    """New ones are closed; who has clients without credentials loses none by an update."""
    layers = ["error_handler", "authentication"]
    service = render(ref=release, layers=layers)
    commit(service)

    options = ("--overwrite",) if command == "recopy" else ()
    real = real_defaults(tmp_path)
    done = python("copier", command, "--defaults", *options, cwd=service, **real)

    assert done.returncode == 0, done.stdout
    assert _conflicts(service) == []
    assert _answers(service)["authentication_required"] is False
    fresh = render("fresh", layers=layers, authentication_required=False)
    # What an older release had elsewhere is left lying around by a second copy.
    left = _files(service) - _files(fresh) if command == "recopy" else set[str]()
    assert _differences(service, fresh, besides=USERS | left) == []


def test_a_closed_service_stays_closed(render: Render, tmp_path: Path) -> None:
    layers = ["error_handler", "authentication"]
    service = render(ref=NEWEST, layers=layers, authentication_required=True)
    fresh = render("fresh", layers=layers, authentication_required=True)
    real = real_defaults(tmp_path)
    for data in ((), ("--data", "authentication_scheme=api_key"), ("--data", 'layers=["cors"]')):
        commit(service)
        done = python("copier", "update", "--defaults", *data, cwd=service, **real)
        assert done.returncode == 0, done.stdout
        if not data:
            assert _differences(service, fresh, besides=USERS) == []
        else:
            assert _answers(service).get("authentication_required") is not False
    commit(service)

    # Who adds the layer later has a new one.
    again = json.dumps(layers)
    python("copier", "update", "--defaults", "--data", f"layers={again}", cwd=service, **real)

    assert _answers(service)["authentication_required"] is True


CLOSED: Final = ["error_handler", "authentication"]


@pytest.mark.parametrize("data", [f"--data=authentication_scheme={name}" for name in SCHEMES])
@pytest.mark.parametrize("release", ["0.5.2", NEWEST])
def test_authentication_that_is_added_is_closed(
    release: str, data: str, render: Render, tmp_path: Path
) -> None:
    """Whichever scheme is named with it: none was recorded."""
    service = render(ref=release, layers=["error_handler", "session"])
    commit(service)
    layers = f"--data=layers={json.dumps([*CLOSED, 'session'])}"

    real = real_defaults(tmp_path)
    python("copier", "update", "--defaults", layers, data, cwd=service, **real)

    assert _answers(service)["authentication_required"] is True


@pytest.mark.parametrize("recorded", ["_commit: 999.0.0\nlayers: [authentication]", "layers: 1"])
def test_answers_without_the_line_that_opens_are_closed(
    recorded: str, template: Path, tmp_path: Path
) -> None:
    """A later release has lost it, or another template wrote them."""
    _write(tmp_path, ".copier-answers.yml", f"{recorded}\n")
    (tmp_path / "app/middleware").mkdir(parents=True)
    _write(tmp_path, "app/middleware/stack.py", "")
    options = ("--overwrite", "--defaults", "--vcs-ref=HEAD", f"--data=layers={json.dumps(CLOSED)}")

    real = real_defaults(tmp_path)
    done = python(
        *("copier", "copy", *options, "--data=authentication_scheme=jwt", template, "."),
        cwd=tmp_path,
        **real,
    )

    assert done.returncode == 0, done.stdout
    assert _answers(tmp_path)["authentication_required"] is True


def test_an_update_of_a_renamed_package_is_refused(render: Render) -> None:
    """It would write a second one, and renew nothing in the first."""
    service = render(ref=FINISHED[-1], layers=PLAIN)
    commit(service)
    git("mv", "app", "orders", cwd=service)
    commit(service)

    done = _update(service)

    assert done.returncode == 1
    assert "app/middleware/stack.py is not beside .copier-answers.yml" in done.stdout
    assert git("status", "--short", cwd=service) == ""


def test_attributes_of_ones_own_stay(render: Render) -> None:
    """Services older than the template's may have them."""
    service = render(ref="0.5.1", layers=PLAIN)
    _write(service, ".gitattributes", "*.onion binary\n")
    commit(service)

    done = _update(service)

    assert done.returncode == 0, done.stdout
    assert _conflicts(service) == []
    assert _read(service, ".gitattributes") == "*.onion binary\n"


def test_lines_end_alike_wherever_they_are_checked_out(render: Render) -> None:
    """With other ends each line differs from the template's, and an update is one conflict."""
    service = render(layers=PLAIN)
    commit(service)
    git("config", "core.autocrlf", "true", cwd=service)

    (service / "pyproject.toml").unlink()
    git("checkout", "--", "pyproject.toml", cwd=service)

    assert b"\r" not in (service / "pyproject.toml").read_bytes()


@pytest.fixture(scope="module")
def complete(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("complete") / "service"
    data = {"layers": [*LAYERS]}
    run_copy(str(template), folder, data=data, defaults=True, quiet=True, vcs_ref="HEAD")
    return folder


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in SAMPLED_LAYERS else MATRIX) for name in LAYERS],
)
def test_each_layer_is_dropped_and_added(name: str, complete: Path, render: Render) -> None:
    """From an unedited service to a fresh one, and back; in process, which saves time."""
    others = [other for other in LAYERS if name not in closed([other])]
    without = render("without", layers=others)
    service = without.parent / "service"
    shutil.copytree(complete, service)
    commit(service)

    for layers, fresh in ((others, without), ([*LAYERS], complete)):
        data = {"layers": layers}
        run_update(service, data=data, defaults=True, overwrite=True, quiet=True)

        assert _conflicts(service) == []
        assert _differences(service, fresh, besides=USERS) == []
        commit(service)


@pytest.mark.parametrize("release", _ends(releases(ROOT)))
@pytest.mark.parametrize("preset", ["minimal", "everything"])
def test_an_unedited_service_of_a_release_becomes_a_fresh_one(
    release: str, preset: str, render: Render
) -> None:
    service = render(ref=release, preset=preset)
    commit(service)

    done = _update(service)

    assert done.returncode == 0, done.stdout
    assert _conflicts(service) == []
    layers = _answers(service)["layers"]
    assert _differences(service, render("fresh", layers=layers), besides=USERS) == []


@pytest.fixture(params=FINISHED[-2:])
def released(request: pytest.FixtureRequest, template: Path, tmp_path: Path) -> Path:
    """Return the template as it was released."""
    clone = tmp_path / str(request.param)
    git("clone", "--quiet", "--branch", request.param, template, clone, cwd=template)
    return clone


def test_no_layer_or_preset_that_was_released_vanishes_or_moves(released: Path) -> None:
    order, now = (read_yaml(folder / "hooks/order.yml") for folder in (released, ROOT))

    assert [name for name in now["layers"] if name in order["layers"]] == order["layers"]
    assert {*order["presets"]} <= {*now["presets"]}


def test_no_question_or_answer_that_was_released_vanishes(released: Path) -> None:
    """Copier replaces an answer that is no more among the choices by the default, silently."""
    old, now = (_questions(folder) for folder in (released, ROOT))

    assert {*old} <= {*now}
    for name, question in old.items():
        for key in ("type", "multiselect", "secret"):
            assert now[name].get(key) == question.get(key), name
        assert _values(question) <= _values(now[name]), name


def test_no_setting_that_was_released_changes_its_meaning(released: Path) -> None:
    """Services are deployed with them."""
    old, now = (_settings(folder) for folder in (released, ROOT))

    assert {*old} <= {*now}
    for name, setting in old.items():
        if name not in WIDENED:
            assert now[name].get("default") == setting.get("default"), name
        # What is written in words may say more; a number means what it is counted in.
        if isinstance(setting.get("default"), int | float):
            assert now[name]["unit"] == setting["unit"], name


def test_no_public_name_that_was_released_vanishes(render: Render, released: Path) -> None:
    """What user code imports from `app.middleware`."""
    layers = read_yaml(released / "hooks/order.yml")["layers"]
    then = render("then", ref=released.name, layers=layers)

    assert _public(then) <= _public(render(layers=layers))


def _public(service: Path) -> set[str]:
    (names,) = re.findall(
        r"^__all__ = \[(.*?)\]",
        _read(service, "app/middleware/__init__.py"),
        re.MULTILINE | re.DOTALL,
    )
    return {*re.findall(r'"(\w+)"', names)}


@pytest.mark.parametrize(
    ("scheme", "storage"), [("jwt", "memory"), ("session", "redis"), ("api_key", "redis")]
)
def test_no_file_of_a_released_service_vanishes_but_those_that_moved(
    scheme: str, storage: str, render: Render, released: Path
) -> None:
    layers = read_yaml(released / "hooks/order.yml")["layers"]
    answers: dict[str, Any] = {"layers": layers, "storage": storage}
    if "authentication" in layers:
        answers["authentication_scheme"] = scheme
    then = render("then", ref=released.name, **answers)
    now = _files(render(**answers))

    assert {MOVED.get(path, path) for path in _files(then)} <= now


def _questions(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_yaml(folder / "copier.yml")
    # What is computed is no question: it is neither asked nor stored.
    return {
        name: value
        for name, value in found.items()
        if name[0] != "_" and value.get("when") is not False
    }


def _values(question: dict[str, Any]) -> set[str]:
    choices = question.get("choices", ())
    values = choices.values() if isinstance(choices, dict) else ()
    # One with its own rule is beside it.
    return {value["value"] if isinstance(value, dict) else value for value in values}


def _settings(folder: Path) -> dict[str, dict[str, Any]]:
    parts = ("layers", "shared")
    entries = (read_yaml(path) for part in parts for path in folder.glob(f"hooks/{part}/**/*.yml"))
    return {
        knob["name"]: knob
        for entry in entries
        for part in with_variants(entry or {})
        for knob in part.get("settings", ())
    }


def test_a_service_in_a_folder_of_a_repository(render: Render, tmp_path: Path) -> None:
    _write(tmp_path, "unrelated.txt", "ours\n")
    service = render("services/orders", layers=PLAIN)
    commit(tmp_path)
    _write(tmp_path, "unrelated.txt", "ours, and not committed\n")

    done = _update(service, layers=[*PLAIN, "trusted_host"])

    assert done.returncode == 0, done.stdout
    fresh = render("fresh", layers=[*PLAIN, "trusted_host"])
    assert _differences(service, fresh, besides=USERS) == []
    assert _read(tmp_path, "unrelated.txt") == "ours, and not committed\n"


def test_an_edit_of_the_template_s_files_conflicts_visibly(
    template: Path, render: Render, tmp_path: Path
) -> None:
    """Where both changed the same line, nobody's word is lost in silence."""
    changed = _changed(template, tmp_path)
    service = render(source=changed, ref=NEWEST, layers=PLAIN)
    commit(service)
    path = "app/middleware/request_id.py"
    _write(service, path, _read(service, path).replace("urandom(16)", "urandom(8)"))
    commit(service)

    done = _update(service)

    assert done.returncode == 0, done.stdout
    assert _conflicts(service) == [path]
    for text in ("urandom(8)", "urandom(32)", "<<<<<<< before updating"):
        assert text in _read(service, path)
    assert "UU and .rej are conflicts" in done.stdout


def test_an_edit_elsewhere_in_the_template_s_files_is_merged(
    template: Path, render: Render, tmp_path: Path
) -> None:
    changed = _changed(template, tmp_path)
    service = render(source=changed, ref=NEWEST, layers=PLAIN)
    commit(service)
    path = "app/middleware/request_id.py"
    _write(service, path, _read(service, path) + "\n# Mine.\n")
    commit(service)

    _update(service)

    assert _conflicts(service) == []
    assert "urandom(32)" in _read(service, path)
    assert _read(service, path).endswith("# Mine.\n")


def test_the_message_tells_how_to_look(lived_in: Path) -> None:
    """A dropped layer takes edits with it, and Copier says nothing."""
    path = "app/middleware/cors.py"
    _edit(lived_in, path)

    done = _update(lived_in, layers=[name for name in PLAIN if name != "cors"])

    _look_for_edits(lived_in, path, done.stdout)


@pytest.mark.parametrize("release", _ends(name for name in releases(ROOT) if name < "0.6"))
def test_an_edit_in_a_file_that_moved_is_found(release: str, render: Render) -> None:
    """No conflict shows an edit that Copier deletes in its old place, so the message does."""
    path = "app/middleware/scope.py"
    service = render("services/orders", ref=release, layers=PLAIN)
    repository = service.parent
    commit(repository, "as rendered")
    _edit(service, path, repository)

    done = _update(service)

    _look_for_edits(service, path, done.stdout)
    assert (service / MOVED[path]).exists()


def _edit(service: Path, path: str, repository: Path | None = None) -> None:
    _write(service, path, _read(service, path) + "\n# Mine.\n")
    commit(repository or service, "my edit")


def _look_for_edits(service: Path, path: str, output: str) -> None:
    """Do what the message says; it finds the edit of a file that the update deleted."""
    _, _, message = output.partition("Look at the update")
    assert [line for line in message.splitlines() if len(line) > 80] == []
    status, deleted, changed, show, restore = (
        run("sh", "-c", line.replace("FILE", path), cwd=service).stdout
        for line in re.findall(r"^  (git .*?)(?:   .*)?$", message, re.MULTILINE)
    )
    assert path in status
    assert path in deleted.split()
    assert re.sub(r"^\w+ ", "", changed, flags=re.MULTILINE) == "my edit\n"
    assert show.endswith("# Mine.\n")
    assert restore == ""
    assert _read(service, path) == show


def test_an_outdated_service_is_told_so(template: Path, render: Render, tmp_path: Path) -> None:
    changed = _changed(template, tmp_path)
    service = render(source=changed, ref=NEWEST, layers=PLAIN)
    commit(service)

    outdated = python("copier", "check-update", "--quiet", cwd=service)
    _update(service)
    commit(service)
    current = python("copier", "check-update", "--quiet", cwd=service)

    assert (outdated.returncode, current.returncode) == (2, 0)


def test_recopy_keeps_the_answers(lived_in: Path, render: Render) -> None:
    done = python("copier", "recopy", "--defaults", "--overwrite", cwd=lived_in)

    assert done.returncode == 0, done.stdout
    assert _answers(lived_in)["layers"] == PLAIN
    fresh = render("fresh", layers=PLAIN, project_name="Orders")
    assert _files(lived_in) == _files(fresh) | OWN
    assert _differences(lived_in, fresh) == []


def test_a_preset_changes_no_recorded_selection(render: Render) -> None:
    service = render(layers=PLAIN)
    commit(service)

    done = _update(service, preset="everything")

    assert done.returncode == 0, done.stdout
    assert _answers(service)["layers"] == PLAIN


def _changed(template: Path, folder: Path) -> Path:
    """Return a clone of the template with one release more, in which a line changed."""
    clone = folder / "changed"
    git("clone", "--quiet", template, clone, cwd=folder)
    path = "template/app/middleware/request_id.py"
    assert "urandom(16)" in _read(clone, path)
    _write(clone, path, _read(clone, path).replace("urandom(16)", "urandom(32)"))
    commit(clone)
    git("tag", "999.1.0", cwd=clone)
    return clone


def _update(service: Path, **answers: Any) -> Done:
    """Update without trust and without a terminal, to the newest release."""
    data = [
        f"--data={name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in answers.items()
    ]
    return python("copier", "update", "--defaults", *data, cwd=service)


def _conflicts(service: Path) -> list[str]:
    unmerged = git("diff", "--name-only", "--relative", "--diff-filter=U", cwd=service)
    rejected = [str(path) for path in service.rglob("*.rej")]
    return [*unmerged.split(), *rejected]


def _differences(
    service: Path, fresh: Path, besides: frozenset[str] | set[str] = frozenset()
) -> list[str]:
    """Return the files of the template's in which a service differs from a fresh one."""
    ours = (_files(service) | _files(fresh)) - USERS - SHARED - OWN - besides
    return sorted(
        path
        for path in ours
        if not (service / path).exists()
        or not (fresh / path).exists()
        or _read(service, path) != _read(fresh, path)
    )


def _files(service: Path) -> set[str]:
    caches = {".git", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
    return {
        path.relative_to(service).as_posix()
        for path in service.rglob("*")
        if path.is_file() and not caches & {*path.relative_to(service).parts}
    }


def _answers(service: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_yaml(service / ".copier-answers.yml")
    return found


def _read(folder: Path, path: str) -> str:
    return (folder / path).read_text("utf-8")


def _write(folder: Path, path: str, text: str) -> None:
    (folder / path).write_text(text, "utf-8")
