"""Answers: a wrong one is refused in a sentence, an odd one survives in every file."""

import ast
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment
from markdown_it import MarkdownIt

from .conftest import Render
from .support import TEMPLATE, UV, Done, python, real_defaults, run

WRONG: Final = {
    "an unknown layer": ("layers=[cors, leek]", "layers", "'leek' is not in ["),
    "no layer": ("layers=[]", "layers", "at least one layer; it is []"),
    "a layer without what it needs": (
        "layers=[https_redirect]",
        "layers",
        "https_redirect needs trusted_host: ",
    ),
    "an unknown preset": ("preset=huge", "preset", "'huge' is not in ['api', "),
    "an unknown storage": ("storage=disk", "storage", "'disk' is not in ['memory', 'redis']"),
    "a scheme without its layer": (
        "authentication_scheme=session",
        "authentication_scheme",
        "session needs the layer session",
    ),
    "a further scheme without its layer": (
        "further_schemes=[api_key, session]",
        "further_schemes",
        "session needs the layer session",
    ),
    "an unknown scheme": (
        "further_schemes=[basic]",
        "further_schemes",
        "'basic' is not in ['jwt', ",
    ),
    "a name that no question has": (
        "layer=[cors]",
        "project_name",
        "layer is no question of this template. Its questions are project_name, description, ",
    ),
    "a name for a list": (
        "layers=request_id",
        "project_name",
        'layers must be a list in brackets, such as [cors, error_handler]; it is "request_id"',
    ),
    "a list that does not end": (
        "layers=[request_id, ",
        "project_name",
        'layers must be a list in brackets, such as [cors, error_handler]; it is "[request_id, "',
    ),
    "a list with a reference": (
        "further_schemes=[*jwt]",
        "project_name",
        'further_schemes must be a list in brackets, such as [api_key]; it is "[*jwt]"',
    ),
    "nothing for a list": (
        "further_schemes=null",
        "project_name",
        'further_schemes must be a list in brackets, such as [api_key]; it is "null"',
    ),
    "no boolean": (
        "authentication_required=maybe",
        "authentication_required",
        'must be true or false; it is "maybe"',
    ),
    "nothing for a boolean": (
        "authentication_required=",
        "authentication_required",
        'must be true or false; it is ""',
    ),
    "no name": ("project_name=", "project_name", 'it is ""'),
    "a name of two lines": ("project_name=a\nb", "project_name", r'it is "a\nb"'),
    "a name with an escape": ("project_name=a\x1bb", "project_name", r'it is "a\u001bb"'),
    "a name with a line separator": ("project_name=a\u2028b", "project_name", "it is "),
    "a name with space around it": ("project_name= a", "project_name", 'it is " a"'),
    "a long name": (f"project_name={'a' * 51}", "project_name", f'it is "{"a" * 51}"'),
    "a description of two lines": ("description=a\nb", "description", r'it is "a\nb"'),
    "a long description": (f"description={'a' * 201}", "description", f'it is "{"a" * 59}…"'),
}

ODD: Final = {
    "quotes": '"It\'s" \'\'\'ours\'\'\' """yours"""',
    "backslashes": "C:\\new\\table\\",
    "braces": "{name} {{ name }} {% raw %} {# x #} ${x}",
    "emoji": "🚀 👩‍👩‍👧‍👧 🇩🇪",
    "right to left": "שלום مرحبا",
    "not Latin": "日本語のサービス",
    "accents": "Ünïcödé Straße ŉ",
    "typography": "Orders \u2013 L\u2019été \u201e\u0386\u201c",
    "marks of direction": "עסק\u200f (v2) \u2067x\u2069",
    "50 letters": "M" * 50,
    "50 emoji": "🚀" * 50,
    "50 quotes": '"' * 50,
    "TOML": "x = [1] # '''",
    "a TOML table": "[project]",
    "YAML": "- a: b # c & *d !e | > %",
    "a YAML boolean": "yes",
    "a YAML number": "1e3",
    "a YAML null": "~",
    "Jinja": "{{ 7 * 7 }}",
    "a heading": "# Orders #",
    "Markdown": "*a* _b_ `c` ~~d~~ [e](f) ![g](h) | i |",
    "a rule": "---",
    "a list": "1. a + b",
    "HTML": "<b>&amp; &copy;</b> <!-- x -->",
    "a link": "https://orders.example/?a=1&b=2#c",
    "a shell command": "$(reboot); `reboot` && x",
    "a format string": "%s %(name)s {0!r}",
    "a flag": "--help",
}


@pytest.mark.parametrize(("data", "answer", "sentence"), WRONG.values(), ids=WRONG)
def test_a_wrong_answer_is_refused(
    data: str, answer: str, sentence: str, template: Path, tmp_path: Path
) -> None:
    done = _copy(template, tmp_path, "--data", data)

    last = done.stdout.rstrip().split("\n")[-1]
    assert done.returncode == 1
    assert answer in last
    assert sentence in last
    assert not (tmp_path / "service").exists()


def test_a_copy_needs_neither_trust_nor_network_nor_terminal(
    template: Path, tmp_path: Path
) -> None:
    """Any connection would go to a proxy that is not there."""
    done = _copy(template, tmp_path, https_proxy="http://127.0.0.1:9", http_proxy="")

    assert done.returncode == 0, done.stdout
    assert (tmp_path / "service/app/main.py").exists()


@pytest.mark.parametrize("layers", ["public", "everything"])
def test_a_new_service_with_authentication_is_closed(
    layers: str, template: Path, tmp_path: Path
) -> None:
    """Unless somebody says otherwise, or no layer knows users."""
    closed = ("--data", f"preset={layers}")
    for folder, options, recorded in (
        ("closed", closed, True),
        ("named", (*closed, "--data", "authentication_scheme=api_key"), True),
        ("open", (*closed, "--data", "authentication_required=false"), False),
        ("without", ("--data", "preset=api"), None),
    ):
        (tmp_path / folder).mkdir()
        done = _copy(template, tmp_path / folder, *options, **real_defaults(tmp_path))
        service = tmp_path / folder / "service"

        assert done.returncode == 0, done.stdout
        assert _recorded(service).get("authentication_required") is recorded
        assert ("says how to get in" in done.stdout) == (recorded is True)
        settings = (service / "app/middleware/settings.py").read_text("utf-8")
        assert ("authentication_required: Switch = True" in settings) == (recorded is True)
        assert ("## Get in" in (service / "README.md").read_text("utf-8")) == (recorded is True)


def test_answers_may_come_from_a_file(template: Path, tmp_path: Path) -> None:
    (tmp_path / "answers.yml").write_text("layers: [cors, request_id]\n", "utf-8")

    done = _copy(template, tmp_path, "--data-file", tmp_path / "answers.yml")

    assert done.returncode == 0, done.stdout
    assert _recorded(tmp_path / "service")["layers"] == ["request_id", "cors"]


@pytest.mark.parametrize(
    "written", ["[cors]", "[]", "['cors', \"request_id\",]", "\n [ cors\n, cors ] "]
)
def test_a_list_may_be_written_in_any_of_its_forms(
    written: str, template: Path, tmp_path: Path
) -> None:
    done = _copy(template, tmp_path, "--data", f"layers={written}")

    assert "a list in brackets" not in done.stdout
    assert (done.returncode == 0) == (written != "[]")


def test_every_file_names_the_file_of_the_answers(template: Path, tmp_path: Path) -> None:
    done = _copy(template, tmp_path, "-a", "our answers.yml", "--data", "layers=[cors]")

    assert done.returncode == 0, done.stdout
    service = tmp_path / "service"
    texts = {path: path.read_text("utf-8") for path in service.rglob("*") if path.is_file()}
    assert ".copier-answers" not in "".join([done.stdout, *texts.values()])
    for name in ("README.md", "AGENTS.md", "docs/middleware.md"):
        assert "copier update -a 'our answers.yml' --" in texts[service / name], name


def test_what_git_must_not_see_stays_hidden(template: Path, tmp_path: Path) -> None:
    """A service that exists keeps its lists, whichever template it has come from."""
    service = tmp_path / "service"
    service.mkdir()
    own = {".gitignore": "*.pem\n", ".gitattributes": "*.onion binary\n"}
    for name, text in {**own, ".copier-answers.yml": "_src_path: gh:x/y\n"}.items():
        (service / name).write_text(text, "utf-8")

    done = _copy(template, tmp_path, "--overwrite", "--data", "layers=[cors]")

    assert done.returncode == 0, done.stdout
    assert {name: (service / name).read_text("utf-8") for name in own} == own


def test_the_preset_is_not_recorded(render: Render) -> None:
    """So no later answer to it can change the selection of a service."""
    recorded = _recorded(render(preset="minimal"))

    assert "preset" not in recorded
    assert recorded["layers"] == ["request_id", "access_log", "error_handler"]


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_an_odd_text_survives_in_every_file(text: str, render: Render) -> None:
    service = render(project_name=text, description=text, layers=["cors"])

    for path in sorted(service.rglob("*")):
        if path.suffix in PARSERS:
            PARSERS[path.suffix](path.read_text("utf-8"))
    main = ast.parse((service / "app/main.py").read_text("utf-8"))
    written = {
        keyword.arg: ast.literal_eval(keyword.value)
        for node in ast.walk(main)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg in {"title", "description"}
    }
    assert written == {"title": text, "description": text}
    recorded = _recorded(service)
    assert (recorded["project_name"], recorded["description"]) == (text, text)
    assert _project(service)["description"] == text
    assert _title(service / "README.md") == text
    assert _title(service / "README.md", "p") == text
    assert _title(service / "docs/middleware.md") == f"The middleware of {text}"
    for check in (("format", "--diff"), ("check",)):
        done = python("ruff", *check, "--no-cache", ".", cwd=service)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("typed", "recorded"),
    {
        "gh:OWNER/fastapi-onion": "https://github.com/OWNER/fastapi-onion.git",
        "gh:OWNER/fastapi-onion.git": "https://github.com/OWNER/fastapi-onion.git",
        "gl:OWNER/fastapi-onion": "https://gitlab.com/OWNER/fastapi-onion.git",
        "https://github.com/OWNER/fastapi-onion": "https://github.com/OWNER/fastapi-onion",
        "git@github.com:OWNER/fastapi-onion.git": "git@github.com:OWNER/fastapi-onion.git",
    }.items(),
)
def test_the_address_of_the_template_is_one_that_renovate_resolves(
    typed: str, recorded: str
) -> None:
    """It reads the file itself, and knows none of the short forms of Copier."""
    text = (TEMPLATE / "{{ _copier_conf.answers_file }}.jinja").read_text("utf-8")
    environment = SandboxedEnvironment(
        extensions=["jinja2_ansible_filters.AnsibleCoreFiltersExtension"], undefined=StrictUndefined
    )

    rendered = environment.from_string(text).render(_copier_answers={"_src_path": typed})

    assert yaml.safe_load(rendered) == {"_src_path": recorded}


@pytest.mark.parametrize(
    ("project_name", "name"),
    {
        "My service": "my-service",
        "  Ordering (v2)!".strip(): "ordering-v2",
        "日本語": "service",
        "🚀": "service",
        "FastAPI": "fastapi-service",
        "Starlette": "starlette-service",
        "pydantic": "pydantic-service",
        "Uvicorn": "uvicorn-service",
        "Typing.Extensions": "typing-extensions-service",
        "H11": "h11-service",
    }.items(),
)
def test_a_distribution_is_named_like_no_other(
    project_name: str, name: str, render: Render
) -> None:
    assert _project(render(project_name=project_name, layers=["cors"]))["name"] == name


@pytest.mark.skipif(not UV, reason="needs uv")
@pytest.mark.parametrize("project_name", ["日本語", "🚀", "FastAPI"])
def test_a_service_of_any_name_is_installed(
    project_name: str, render: Render, tmp_path: Path
) -> None:
    service = render(project_name=project_name, preset="minimal")

    done = run(
        UV, "run", "pytest", "-q", f"--basetemp={tmp_path}/tests", cwd=service, VIRTUAL_ENV=""
    )

    assert done.returncode == 0, done.stdout
    assert (service / "uv.lock").exists()


def _copy(template: Path, folder: Path, *options: str | Path, **environment: Any) -> Done:
    destination = folder / "service"
    arguments = ("copy", "--defaults", *options, template, destination)
    return python("copier", *arguments, cwd=folder, **environment)


def _recorded(service: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((service / ".copier-answers.yml").read_text("utf-8"))
    return found


def _project(service: Path) -> dict[str, Any]:
    found = tomllib.loads((service / "pyproject.toml").read_text("utf-8"))
    project: dict[str, Any] = found["project"]
    return project


def _title(page: Path, tag: str = "h1") -> str:
    """Return what a reader sees of the first heading or paragraph of a Markdown page."""
    tokens = MarkdownIt("commonmark").enable("strikethrough").parse(page.read_text("utf-8"))
    first = next(number for number, token in enumerate(tokens) if token.tag == tag)
    parts = tokens[first + 1].children or []
    assert {part.type for part in parts} <= {"text", "text_special"}
    return "".join(part.content for part in parts)


PARSERS: Final[dict[str, Callable[[str], object]]] = {
    ".json": json.loads,
    ".md": MarkdownIt().parse,
    ".py": ast.parse,
    ".toml": tomllib.loads,
    ".yaml": yaml.safe_load,
    ".yml": yaml.safe_load,
}
