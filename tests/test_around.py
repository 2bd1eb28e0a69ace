"""Around the code of a rendered service: its page, README, settings, image and workflow."""

import doctest
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

import pytest
from copier import run_copy

from .conftest import Render
from .support import (
    LAYERS,
    ORDER,
    ROOT,
    SERVE,
    UV,
    blocks,
    commit,
    files_shown,
    git,
    path_with_uv,
    read_yaml,
    run,
    tokens,
    with_variants,
)

NAME: Final = r"""_On_ *and* [more](x) `co` #1 \ | <b> "é🧅" {{ 1 }}"""

# A service responds as its page says; run inside the service.
EXAMPLES: Final = """
from fastapi.testclient import TestClient
from app.main import app
with TestClient(app, base_url="http://localhost") as client:
    red, white, blue = (client.get(f"/stock/{kind}") for kind in ("red", "white", "blue"))
    assert (red.status_code, red.json()) == (200, {"kind": "red", "number": 3})
    assert (white.status_code, white.json()["detail"]) == (409, "Sold out: white")
    assert blue.status_code == 404
    assert all(answer.headers["x-build"] == "2026.11" for answer in (red, white, blue))
    assert white.headers["content-type"] == "application/problem+json"
    old = client.get("/v1/orders")
    assert (old.status_code, old.json()["layer"]) == (410, "legacy")
    assert client.get("/production").status_code == 400
    assert client.get("/production", headers={"X-Environment": "production"}).status_code == 200
"""


@pytest.fixture(scope="module", params=["minimal", "browser", "everything"])
def service(
    request: pytest.FixtureRequest, template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder: Path = tmp_path_factory.mktemp("service") / request.param
    answers = {"preset": request.param, "project_name": NAME, "description": NAME}
    run_copy(str(template), folder, data=answers, defaults=True, quiet=True, vcs_ref="HEAD")
    return folder


@pytest.fixture
def page(service: Path) -> str:
    return (service / "docs/middleware.md").read_text("utf-8")


def chosen(service: Path) -> list[str]:
    layers: list[str] = read_yaml(service / ".copier-answers.yml")["layers"]
    return layers


def output_of(service: Path, *arguments: str, **environment: Any) -> str:
    """Run Python in a service, which must succeed."""
    done = run(sys.executable, *arguments, cwd=service, **environment)
    assert done.returncode == 0, done.stdout
    return done.stdout


def headings(markdown: str) -> dict[str, str]:
    """Return text -> fragment, as GitHub makes it."""
    parsed = tokens(markdown)
    texts = [
        "".join(part.content for part in after.children or ())
        for token, after in pairwise(parsed)
        if token.type == "heading_open"
    ]
    return {text: re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}


def links(markdown: str) -> Iterator[str]:
    for token in tokens(markdown):
        for part in token.children or ():
            if part.type == "link_open":
                yield str(part.attrs["href"])


def pages(service: Path) -> list[Path]:
    return sorted((service / "docs").rglob("*.md"))


def fragments(page: Path) -> set[str]:
    text = page.read_text("utf-8")
    return {*headings(text).values(), *re.findall(r'<a id="([\w-]+)">', text)}


def first_run(service: Path) -> dict[str, Any]:
    """Return the values that the README's first command sets."""
    command = blocks((service / "README.md").read_text("utf-8"), "sh")[0]
    words = command.rpartition("uv run uvicorn")[0].replace("uv run python", sys.executable)
    done = run("bash", "-c", f"{words} env", cwd=service)
    names = re.findall(r"^([A-Z_]+)=", words, re.MULTILINE)
    return {
        name: value
        for name, _, value in (line.partition("=") for line in done.stdout.splitlines())
        if name in names
    }


# The page


def test_the_page_is_about_the_chosen_layers(service: Path, page: str) -> None:
    rows = re.findall(r"^[|] \[[^]]+\]\(layers/(\w+)[.]md\) [|]", page, re.MULTILINE)

    assert rows == chosen(service)
    assert {path.stem for path in (service / "docs/layers").iterdir()} == {*rows}
    _, _, left_out = page.partition("## Left out")
    for name in set(LAYERS) - set(rows):
        assert f"| `{name}` |" in left_out


def test_the_pages_hold_each_rule_and_setting(service: Path) -> None:
    program = """
import json
from app.middleware import StackSettings
from app.middleware.order import RULES
print(json.dumps([[*StackSettings.model_fields], [rule._asdict() for rule in RULES]]))
"""
    fields, rules = json.loads(output_of(service, "-c", program))
    everything = "\n".join(path.read_text("utf-8") for path in pages(service))

    assert [name for name in fields if f"| `{name.upper()}` |" not in everything] == []
    for rule in rules:
        inner, outer = (
            (service / f"docs/layers/{rule[side]}.md").read_text("utf-8")
            for side in ("inside", "outside")
        )
        assert f"]({rule['outside']}.md)" in inner.partition("## Why here")[2]
        row = outer.partition("## Why here")[0]
        rejects = "every layer that rejects requests" in row and "refuses" in LAYERS[rule["inside"]]
        assert rejects or f"]({rule['inside']}.md)" in row
        reason = rule["because"]
        assert reason in outer or f"{reason[0].upper()}{reason[1:]}." in inner


def test_a_layer_rejects_with_what_its_page_says(service: Path) -> None:
    for name in chosen(service):
        layer = LAYERS[name]
        parts = with_variants(layer)
        known = {
            *chain.from_iterable(
                (*p.get("refuses", ()), *p.get("answers", ()), *_of_some(p)) for p in parts
            )
        }
        text = (service / f"docs/layers/{name}.md").read_text("utf-8")
        row = re.search(r"^[|] Rejects with [|] (.+) [|]$", text, re.MULTILINE)
        said = {int(status) for status in re.findall(r"\d{3}", row[1])} if row else set()

        always = (*layer.get("refuses", ()), *layer.get("answers", ()), *_of_some(layer))
        assert {*always} <= said <= known


def _of_some(part: Mapping[str, Any]) -> list[int]:
    statuses: list[int] = part.get("refuses_only", {}).get("statuses", [])
    return statuses


def test_every_test_that_the_pages_name_is_there(service: Path) -> None:
    collected = output_of(service, "-m", "pytest", "--collect-only", "-q", "tests/middleware")
    text = "".join(path.read_text("utf-8") for path in pages(service))
    named = set(re.findall(r"`((?:\w+/)?test_\w+[.]py::[^`]+)`", text))

    assert named
    assert [name for name in named if not re.search(rf"/{re.escape(name)}[\n\[]", collected)] == []


def test_every_link_leads_somewhere(service: Path) -> None:
    for path in pages(service):
        text = path.read_text("utf-8")
        assert len({*headings(text).values()}) == len(headings(text)), path
        for link in links(text):
            file, _, fragment = link.partition("#")
            target = path.parent / file if file else path
            assert target.exists(), (path, link)
            assert not fragment or fragment in fragments(target), (path, link)


def test_old_links_still_lead_somewhere(service: Path) -> None:
    """The README of a service is its own, and has them."""
    assert {"several-workers", "left-out", "the-layers"} <= fragments(
        service / "docs/middleware.md"
    )


def test_the_picture_has_the_order_and_the_statuses_of_the_table(service: Path, page: str) -> None:
    picture = ET.parse(service / "docs/onion.svg")  # noqa: S314 - our own
    shown = [
        (item.get("class"), "".join(item.itertext()))
        for item in picture.iter("{http://www.w3.org/2000/svg}text")
    ]

    assert [text for kind, text in shown if kind == "layer"] == [
        LAYERS[name]["label"] for name in chosen(service)
    ]
    rows = re.findall(r"\(layers/(\w+)[.]md\) [|].*[|] (.*) [|]$", page, re.MULTILINE)
    numbers = {name: " ".join(re.findall(r"\d{3}", cell)) for name, cell in rows}
    of_chips = [text for kind, text in shown if kind == "status" and text != "rejected"]
    assert of_chips == [numbers[name] for name in chosen(service) if numbers[name]]


def test_the_picture_is_legible_in_both_themes(service: Path) -> None:
    """Every text has the contrast of 4.5 that WCAG 2.2 asks for, over all boxes behind it."""
    text = (service / "docs/onion.svg").read_text("utf-8")
    (opacity,) = map(float, re.findall(r"fill-opacity: ([.\d]+)", text))
    depth = len(re.findall(r'<rect class="skin" ', text))
    themes = [
        {name: colour(value) for name, value in re.findall(r"--(\w+): #(\w{6})", line)}
        for line in text.splitlines()
        if line.lstrip().startswith("svg {")
    ]

    assert depth > 0
    assert len(themes) == 2
    for theme in themes:
        share = (1 - opacity) ** depth
        pairs = zip(theme["ground"], theme["skin"], strict=True)
        innermost = [share * ground + (1 - share) * skin for ground, skin in pairs]
        for name in ("text", "quiet", "back"):
            for behind in (theme["ground"], innermost, theme["chip"]):
                assert contrast(theme[name], behind) >= 4.5, name


def colour(value: str) -> list[float]:
    return [int(value[at : at + 2], 16) / 255 for at in (0, 2, 4)]


def contrast(*colours: list[float]) -> float:
    """Return the contrast of two colours (WCAG 2.2, relative luminance)."""
    linear = [
        [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        for parts in colours
    ]
    dark, light = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in linear)
    return (light + 0.05) / (dark + 0.05)


def test_the_name_is_shown_as_it_is(service: Path, page: str) -> None:
    assert f"The middleware of {NAME}" in headings(page)
    assert NAME in headings((service / "README.md").read_text("utf-8"))


def test_the_two_lines_show_the_rule_of_registration(page: str) -> None:
    """As pytest reads a page, too: for doctest the end of a block is a line of its output."""
    test = doctest.DocTestParser().get_doctest(page, {}, "page", None, None)

    assert doctest.DocTestRunner().run(test).failed == 0
    assert len(test.examples) > 0


def test_the_page_names_what_the_framework_adds(service: Path, page: str) -> None:
    printed = output_of(service, "-m", "app.middleware", **first_run(service))
    added = re.findall(r"^- +(?:fastapi|starlette)[.].*[.](\w+Middleware)$", printed, re.MULTILINE)
    (sentence,) = re.findall(r"^Outside the list the framework adds .*$", page, re.MULTILINE)

    assert re.findall(r"`(\w+)`", sentence) == added


def test_the_examples_run(service: Path, page: str, tmp_path: Path, mypy_cache: Path) -> None:
    shutil.copytree(service, tmp_path, dirs_exist_ok=True)
    files = files_shown(page)
    assert [name for name, _ in files] == [
        "app/stock.py",
        "app/errors.py",
        "app/production.py",
        "app/build.py",
        "app/legacy.py",
        "app/main.py",
        "tests/test_build.py",
    ]
    for name, content in files:
        (tmp_path / name).write_text(content)
    environment = first_run(service)
    written = ["app", "tests/test_build.py"]

    output_of(tmp_path, "-c", EXAMPLES, **environment)
    output_of(tmp_path, "-m", "app.middleware", **environment)
    output_of(tmp_path, "-m", "ruff", "format", "--check", *written)
    output_of(tmp_path, "-m", "ruff", "check", *written)
    output_of(tmp_path, "-m", "mypy", "--cache-dir", str(mypy_cache), *written)
    output_of(tmp_path, "-m", "pytest", "tests/test_build.py", **environment)


def test_a_dependency_misses_what_the_page_says(service: Path, page: str) -> None:
    (source,) = (block for block in blocks(page, "python") if "def production_only" in block)
    program = f"""{source}
from fastapi import FastAPI
from fastapi.testclient import TestClient
from app.middleware import stack_options
from app.settings import Settings
stack = stack_options(Settings.from_environment())
app = FastAPI(dependencies=[Depends(production_only)], **stack)
app.include_router(router)
app.mount("/mounted", FastAPI())
with TestClient(app, base_url="http://localhost") as client:
    paths = ("/production", "/nothing", "/docs", "/openapi.json", "/mounted/docs")
    print(*(client.get(path).status_code for path in paths))
app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, **stack)
with TestClient(app, base_url="http://localhost") as client:
    print(*(client.get(path).status_code for path in ("/docs", "/redoc", "/openapi.json")))
"""

    lines = output_of(service, "-c", program, **first_run(service)).splitlines()

    assert [line for line in lines if re.fullmatch(r"[\d ]+", line)] == [
        "400 404 200 200 200",
        "404 404 404",
    ]


def test_the_recipes_work(render: Render) -> None:
    service = render(preset="everything")
    program = """
from typing import Annotated
from fastapi import Depends, FastAPI, Request
from fastapi.testclient import TestClient
from pydantic import SecretStr
from starlette.middleware import Middleware
from app.middleware import CurrentUser, User, bind, current_user, innermost, stack_options
from app.settings import Settings
class Tenant:
    def __init__(self, app): self.app = app
    async def __call__(self, scope, receive, send):
        scope.setdefault("state", {})["tenant"] = "a"
        await self.app(scope, receive, send)
app = FastAPI(**stack_options(Settings.from_environment(), [innermost(Middleware(Tenant))]))
@app.get("/me")
async def me(user: CurrentUser, request: Request) -> str:
    bind(order_id=1, password=SecretStr("abc"))
    return user.id + request.state.tenant
async def raw(request: Request) -> bytes:
    return await request.body()
@app.post("/raw")
async def read(order: dict[str, int], body: Annotated[bytes, Depends(raw)], request: Request):
    return f"{order['id']}{body.decode()}{len(request.state.request_id)}"
app.dependency_overrides[current_user] = lambda: User("ada")
with TestClient(app, base_url="http://localhost", headers={"X-Environment": "production"}) as c:
    order = c.post("/raw", json={"id": 1}).json()
    print(c.get("/me?token=abc", headers={"X-Secret": "abc"}).json(), order)
"""

    *_, line, last = output_of(service, "-c", program, **first_run(service)).splitlines()

    assert last == 'adaa 1{"id":1}32'
    assert '"order_id":1' in line
    assert "abc" not in line


def test_the_decorator_of_the_page_is_refused(service: Path, page: str) -> None:
    decorated = next(block for block in blocks(page, "python") if "@app.middleware" in block)
    look = "from app.middleware.core.check import faults\nprint(*faults(app))"
    program = f"from app.main import app\n{decorated}\n{look}"

    output = output_of(service, "-c", program, **first_run(service))

    assert "was added outside the middleware stack by @app.middleware" in output


def test_a_decorated_function_may_stay_where_the_page_puts_it(service: Path, page: str) -> None:
    (place,) = re.findall(r"`(outermost[(]Middleware[(]BaseHTTPMiddleware.+?)`", page)
    program = f"""
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from app.middleware import outermost, stack_options
from app.middleware.core.check import faults
from app.settings import Settings
async def add_process_time(request, call_next):
    return await call_next(request)
settings = Settings.from_environment()
print(*faults(FastAPI(**stack_options(settings, [{place}]))))
app = FastAPI(max_body_size=1, **stack_options(settings))
print(*faults(app))
app = FastAPI(**stack_options(settings))
app.add_middleware(RequestBodyLimitMiddleware, max_body_size=1)
print(*faults(app))
"""

    placed, limited, added = output_of(service, "-c", program, **first_run(service)).splitlines()

    assert placed == ""
    if "body_limit" in chosen(service):
        assert "Remove it, and set MAX_BODY_BYTES." in limited
        assert "RequestBodyLimitMiddleware does the job of the layer body_limit." in added
    else:
        assert limited == ""
        assert "RequestBodyLimitMiddleware was added outside the middleware stack" in added


def test_the_help_of_the_command_tells_what_there_is(service: Path) -> None:
    assert "{" not in output_of(service, "-m", "app.middleware", "--help")


def test_the_command_of_the_page_adds_a_layer(render: Render) -> None:
    service = render(layers=["request_id"])
    commit(service)
    page = (service / "docs/middleware.md").read_text("utf-8")
    _, _, left_out = page.partition("## Left out")
    (command,) = blocks(left_out, "sh")
    command = command.replace("uvx copier", f"{sys.executable} -m copier")

    done = run("bash", "-ec", command, cwd=service)

    assert done.returncode == 0, done.stdout

    added = next(name for name in LAYERS if name != "request_id")
    assert chosen(service) == [name for name in LAYERS if name in {"request_id", added}]


def test_a_symptom_is_told_where_its_layers_are(service: Path, page: str) -> None:
    layers = set(chosen(service))
    expected = [
        row["symptom"]
        for row in read_yaml(ROOT / "hooks/symptoms.yml")
        if layers.issuperset(row.get("when", ()))
        and layers.intersection(row.get("any", layers))
        and layers.isdisjoint(row.get("without", ()))
    ]

    told = headings((service / "docs/troubleshooting.md").read_text("utf-8"))

    assert [re.sub("`", "", symptom) for symptom in expected] == list(told)[1:]
    common = [row for row in links(page) if row.startswith("troubleshooting.md#")]
    assert {link.partition("#")[2] for link in common} <= {*told.values()}


def test_symptoms_name_layers_that_exist() -> None:
    rows = read_yaml(ROOT / "hooks/symptoms.yml")

    for row in rows:
        assert set(row) <= {
            *("symptom", "common", "when", "any", "without", "layers", "look", "explain")
        }
        asked = row.get("explain", {})
        assert set(asked) <= {"settings", "options", "instead", "shows"}
        conditions = (row.get(key, ()) for key in ("when", "any", "without"))
        named = {*row["layers"], *chain.from_iterable(conditions)}
        assert named <= set(ORDER["layers"])
        assert set(re.findall(r"{(\w+)}", row["look"])) <= set(row.get("when", ()))


# README, settings


def test_the_first_command_of_the_readme_starts_the_service(service: Path) -> None:
    command = blocks((service / "README.md").read_text("utf-8"), "sh")[0].strip()
    assert command.endswith(f"uv run {SERVE}")

    program = "from app.main import app; print(len(app.user_middleware))"

    assert int(output_of(service, "-c", program, **first_run(service))) > len(chosen(service))


def test_a_token_for_the_key_that_is_kept_gets_in(render: Render, tmp_path: Path) -> None:
    """As the README says: nothing in front of the command overrides `.env`."""
    service = render(layers=["authentication"], authentication_required=True)
    readme = (service / "README.md").read_text("utf-8")
    keep, end, start = blocks(readme, "sh")[1].rpartition(">> .env\n")
    (sign,) = re.findall(r"`uv run (python -c .*jwt[.]encode.*)`", readme)

    command = f"{keep}{end}uv run {sign}"
    done = run("bash", "-c", command, cwd=service, PATH=path_with_uv(tmp_path))

    program = """
import sys
from app.main import app
from fastapi.testclient import TestClient
client = TestClient(app, base_url="http://localhost")
for headers in ({}, {"Authorization": f"Bearer {sys.argv[1]}"}):
    print(client.get("/orders/1", headers=headers).status_code)
"""
    assert start == f"uv run {SERVE}\n"
    assert output_of(service, "-c", program, done.stdout.strip()).split() == ["401", "200"]


def test_the_readme_leads_to_files_that_exist(service: Path) -> None:
    for link in links((service / "README.md").read_text("utf-8")):
        path, _, fragment = link.partition("#")
        assert "://" in link or (service / path).exists()
        assert not fragment or fragment in fragments(service / path)


def test_the_example_of_the_settings_holds_the_defaults(service: Path, tmp_path: Path) -> None:
    """Without any # the service is the same."""
    lines = (service / ".env.example").read_text("utf-8").splitlines()
    settings = [line[1:] for line in lines if re.match(r"#[A-Z_]+=", line)]
    (tmp_path / ".env").write_text("\n".join(line for line in settings if not line.endswith("=")))
    program = """
import sys
from app.middleware import StackSettings
from tests.middleware.conftest import NEEDED
read = StackSettings(_env_file=sys.argv[1], **NEEDED)
plain = StackSettings(_env_file=None, **NEEDED)
assert read == plain, (read, plain)
print(*(name.upper() for name in StackSettings.model_fields))
"""
    names = output_of(service, "-c", program, str(tmp_path / ".env")).split()

    assert [line.partition("=")[0] for line in settings] == names


# Image, workflow, Renovate


def lint(linter: str, *arguments: str | Path) -> None:
    done = run(Path(sys.executable).with_name(linter), *arguments, cwd=ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("answers", [{}, {"layers": ["rate_limit"], "storage": "redis"}])
def test_the_files_around_the_code_pass_their_linters(
    answers: dict[str, Any], render: Render
) -> None:
    service = render(**answers)
    workflow = service / ".github/workflows/ci.yml"
    workflows = [*workflow.parent.iterdir()]

    lint("hadolint", service / "Dockerfile")
    lint("actionlint", *workflows)
    lint("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)
    lint("check-jsonschema", "--builtin-schema", "vendor.renovate", service / "renovate.json")
    assert ("redis-server" in workflow.read_text("utf-8")) == (answers.get("storage") == "redis")


def test_the_image_asks_a_probe_path_for_its_health(render: Render) -> None:
    """A probe path passes, whatever the settings are."""
    service = render(layers=["trusted_host"])
    image = (service / "Dockerfile").read_text("utf-8").replace("\\\n", "")
    check, server = (json.loads(words) for words in re.findall(r"CMD +(\[.*\])", image))
    program = "from app.main import app; print(*app.user_middleware[1].kwargs['probe_paths'])"

    path = output_of(service, "-c", program).strip()

    assert f"http://127.0.0.1:8000{path}'" in check[-1]
    assert "--no-proxy-headers" in server


@pytest.mark.skipif(not UV, reason="needs uv")
@pytest.mark.parametrize("has_lock", [False, True], ids=["without a lock", "with a lock"])
def test_the_image_serves_what_its_steps_make(
    has_lock: bool,  # noqa: FBT001 - a parameter
    render: Render,
    tmp_path: Path,
) -> None:
    """Docker is not needed: its steps run here, on the files that they may see."""
    service = render(preset="api")
    if has_lock:
        assert run(UV, "lock", cwd=service, VIRTUAL_ENV="").returncode == 0
    ignored = (service / ".dockerignore").read_text("utf-8")
    image = (service / "Dockerfile").read_text("utf-8").replace("\\\n", "")
    (step,) = re.findall(r"^RUN --mount=\S+ +(.*)$", image, re.MULTILINE)
    (mode,) = re.findall(r"^COPY --chmod=(\d+) [.] [.]$", image, re.MULTILINE)
    assert int(mode, 8) & 0o005 == 0o005  # the user of the image is none of the files' own
    check, server = (json.loads(words) for words in re.findall(r"CMD +(\[.*\])", image))
    folder = tmp_path / "image"
    folder.mkdir()
    for name in re.findall(r"^!(.*[.].*)$", ignored, re.MULTILINE):
        if (service / name).exists():
            shutil.copy2(service / name, folder)

    path = os.pathsep.join([str(folder / ".venv/bin"), str(Path(UV).parent), os.environ["PATH"]])
    made = run("sh", "-ec", step, cwd=folder, PATH=path, VIRTUAL_ENV="", UV_PYTHON=sys.executable)

    assert made.returncode == 0, made.stdout
    assert not (folder / ".venv/bin/pytest").exists()
    shutil.copytree(service / "app", folder / "app")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = str(unused.getsockname()[1])
    command = " ".join(server).replace("8000", port)
    process = subprocess.Popen(["sh", "-c", f"exec {command}"], cwd=folder, env={"PATH": path})
    try:
        healthy = check[-1].replace("8000", port)
        ends_at = time.monotonic() + 60
        while run(folder / ".venv/bin/python", "-c", healthy, cwd=folder).returncode:
            assert process.poll() is None
            assert time.monotonic() < ends_at
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.skipif(not UV, reason="needs uv")
def test_a_wheel_has_the_service_alone(render: Render, tmp_path: Path) -> None:
    service = render(preset="everything", storage="redis")

    built = run(UV, "build", "--wheel", "--out-dir", tmp_path, cwd=service, VIRTUAL_ENV="")

    assert built.returncode == 0, built.stdout
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"app/main.py", "app/middleware/core/layer.py"} <= {*names}
    folders = {name.partition("/")[0] for name in names}
    assert {name for name in folders if not name.endswith(".dist-info")} == {"app"}


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        ("app/main.py", "<<<<<<< before updating\n", 1),
        ("app/main.py", ">>>>>>> after updating\n", 1),
        ("app/main.py.rej", "@@ -1 +1 @@\n", 1),
        ("app/main.py", '"""Title.\n=======\n"""\n', 0),
    ],
)
def test_the_workflow_finds_what_an_update_left_over(
    name: str, content: str, status: int, render: Render
) -> None:
    service = render(layers=["request_id"])
    steps = read_yaml(service / ".github/workflows/conflicts.yml")["jobs"]["check"]["steps"]
    (script,) = [step["run"] for step in steps if "conflict" in step.get("name", "")]
    (service / name).write_text(content)
    git("init", "--quiet", cwd=service)
    git("add", ".", cwd=service)

    assert run("bash", "-e", "-c", script, cwd=service).returncode == status
