"""The catalogue: it is complete, it says one thing, and what it promised stays."""

import ast
import inspect
import json
import re
import shutil
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement

from .conftest import Render
from .support import (
    BASE,
    ENTRIES,
    LAYERS,
    ORDER,
    ROOT,
    SCHEMES,
    SHARED,
    STORAGES,
    TEMPLATE,
    Answers,
    failures,
    python,
    read_yaml,
    with_variants,
)

# Names are for ever: answers are stored under them, and deployments set them.
NAMES: Final = (
    *("tracing", "proxy_headers", "request_id", "metrics", "access_log", "timing"),
    *("security_headers", "cors", "error_handler", "trusted_host", "https_redirect", "ip_filter"),
    *("maintenance", "readiness", "client_version", "required_headers", "compression", "timeout"),
    *("rate_limit", "body_limit", "session", "cross_origin", "concurrency", "authentication"),
    *("user_rate_limit", "idempotency", "conditional"),
)
MINIMAL: Final = {"request_id", "access_log", "error_handler"}
API: Final = MINIMAL | {
    *("proxy_headers", "metrics", "timing", "security_headers", "trusted_host", "compression"),
    *("timeout", "rate_limit", "body_limit"),
}
PRESETS: Final = {
    "minimal": MINIMAL,
    "api": API,
    "browser": API | {"cors", "session", "cross_origin"},
    "public": API
    | {"tracing", "cors", "https_redirect", "ip_filter", "maintenance", "readiness"}
    | {"authentication", "user_rate_limit", "conditional"},
}
REQUIREMENTS: Final = {
    "https_redirect": {"trusted_host"},
    "user_rate_limit": {"authentication"},
    "idempotency": {"authentication", "body_limit"},
}
QUESTIONS: Final = {
    *("project_name", "description", "preset", "layers"),
    *("authentication_required", "authentication_scheme", "further_schemes", "storage"),
}
HIDDEN: Final = {"onion", "onion_catalogue"}

SETTINGS_OF_COPIER: Final = {
    *("_envops", "_exclude", "_external_data", "_message_after_copy", "_message_after_update"),
    *("_min_copier_version", "_subdirectory", "_templates_suffix"),
}
KEYS_OF_A_QUESTION: Final = {
    *("choices", "default", "help", "multiselect", "placeholder", "secret", "type", "validator"),
    "when",
}
KEYS_OF_AN_ENTRY: Final = {
    *("adds", "answers", "arguments", "band", "builds", "checks", "class", "client_sees"),
    *("commands", "dependencies", "doubles", "gauges", "imports", "inside", "label"),
    *("looks_at", "methods", "modules", "options", "outside_of_refusals", "parameters"),
    *("per_route", "place", "policies", "probe_paths", "public"),
    *(
        "readiness_paths",
        "reads",
        "refuses",
        "refuses_only",
        "requires",
        "schemes",
        "sets",
        "settings",
        "setup",
        "summary",
    ),
    *("test_dependencies", "variants", "websocket"),
}
KEYS_OF_A_LAYER: Final = {
    *("label", "summary", "band", "class", "place", "websocket", "per_route", "client_sees"),
}
KEYS_INSIDE: Final = {
    "inside": {"layer", "because", "strength", "shown_by", "explain"},
    "outside_of_refusals": {"because", "except", "strength", "shown_by", "explain"},
    "refuses_only": {"of", "statuses"},
    "settings": {
        *("name", "type", "default", "unit", "help", "test", "fresh", "first_run", "production"),
        "closed",
    },
    "gauges": {"name", "meaning", "read", "label", "of_workers"},
    "checks": {"import", "beside", "call"},
    "setup": {"import", "call"},
    "commands": {"import", "name"},
    "parameters": {"name", "type", "help"},
    "policies": {"name", "type", "argument", "named_by", "default", "replaces", "help"},
    "public": {"import", "help"},
    "exception_handlers": {"import", "call"},
    "routes": {"import", "call"},
    "telemetry": {"import", "call"},
    "schemes": {"name", "way_in", "call"},
    "variants": {"authentication_scheme", "number_of_schemes", "session_and", "storage"},
    "authentication_scheme": {*SCHEMES},
    "number_of_schemes": {"several"},
    "session_and": {"others"},
    "storage": {*STORAGES},
}
STRENGTHS: Final = {"MUST", "SHOULD"}


def _rules(name: str) -> Iterator[Mapping[str, str]]:
    """Yield the rules of a layer, those of its family of gates included."""
    for entry in with_variants(LAYERS[name]):
        yield from entry.get("inside", ())
    if "refuses" in LAYERS[name]:
        for outer, entry in LAYERS.items():
            family = entry.get("outside_of_refusals")
            if family and name not in family.get("except", ()):
                shown_by = family["shown_by"].replace("{inside}", name)
                yield {**family, "layer": outer, "shown_by": shown_by}


@pytest.fixture
def questions() -> dict[str, Any]:
    found: dict[str, Any] = read_yaml(ROOT / "copier.yml")
    return found


def test_names_are_for_ever() -> None:
    assert tuple(ORDER["layers"]) == NAMES
    assert {*ORDER["presets"]} | {"everything"} == {*PRESETS, "everything"}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_holds_what_was_promised(preset: str) -> None:
    assert {*ORDER["presets"][preset]} == PRESETS[preset]


def test_no_layer_gains_a_requirement() -> None:
    """A tightened rule would make the next update replace recorded answers, silently."""
    required = {
        name: {*entry["requires"]} for name, entry in LAYERS.items() if entry.get("requires")
    }

    assert required == {name: needed for name, needed in REQUIREMENTS.items() if name in LAYERS}


def test_a_layer_is_three_files() -> None:
    entries = {path.stem for path in (ROOT / "hooks/layers").iterdir()}
    modules = _modules("app/middleware")
    tests = _modules("tests/middleware")

    assert entries == {*LAYERS}
    assert entries <= modules
    assert {f"test_{name}" for name in entries} <= tests


def _modules(folder: str) -> set[str]:
    """Return the modules of a folder of the template, such as `cors` and `storage/redis`."""
    base = TEMPLATE / folder
    return {str(path.relative_to(base)).partition(".")[0] for path in base.rglob("*.py*")}


def test_each_file_belongs_to_something() -> None:
    packages = {name.rpartition("/")[0] for name in SHARED if "/" in name}
    modules = _modules("app/middleware")
    general = {"__main__", "order", "policy", "problem", "settings", "stack"}
    core = "annotations cancellation check command_line effects environment exchange headers layer"
    core += " logger openapi outsiders places policies policies_command reading routes scope"
    core += " upload"
    general |= {f"core/{name}" for name in core.split()}
    general |= {name for name in modules if name.startswith("core/explain/")}
    inits = {"__init__", *(f"{package}/__init__" for package in packages)}
    tests = {path for path in _modules("tests/middleware") if "test_" in path}
    hooks = ROOT / "hooks/shared"

    assert len(packages) <= 3
    assert {str(path.relative_to(hooks).with_suffix("")) for path in hooks.rglob("*.yml")} == {
        *SHARED
    }
    # An entry without a module brings settings alone.
    assert {*ENTRIES} - modules == {"core/probes"}
    assert modules - {*ENTRIES} == general | inits
    assert tests - {re.sub(r"([^/]+)$", r"test_\1", name) for name in ENTRIES} == {
        *("core/test_cancellation", "core/test_environment", "core/test_exchange"),
        *("core/test_explain", "core/test_logger", "core/test_openapi"),
        *("core/test_policies", "core/test_routes", "core/test_scope"),
        *("test_public", "test_refusals", "test_stack"),
    }


def test_nothing_needs_trust(questions: dict[str, Any]) -> None:
    """One task, migration or extension, once released, would end updates without --trust."""
    assert {key for key in questions if key.startswith("_")} <= SETTINGS_OF_COPIER


def test_the_refusal_of_an_unknown_answer_lists_the_questions(questions: dict[str, Any]) -> None:
    asked = [name for name, question in questions.items() if name[0] != "_"]
    asked = [name for name in asked if questions[name].get("when", True)]

    assert f"questions = {asked}" in (ROOT / "hooks/validate/project_name.jinja").read_text("utf-8")


def test_questions_have_known_keys(questions: dict[str, Any]) -> None:
    """Copier ignores a key that it doesn't know."""
    asked = {key: value for key, value in questions.items() if not key.startswith("_")}

    assert {*asked} == QUESTIONS | HIDDEN
    assert {key for value in asked.values() for key in value} <= KEYS_OF_A_QUESTION


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_has_known_keys(name: str) -> None:
    """Jinja ignores a key that nobody asks for."""
    wrong = [
        f"{path}: {key}"
        for path, keys, allowed in _levels(ENTRIES[name])
        for key in sorted(keys - allowed)
    ]

    assert wrong == []


def _levels(entry: Answers) -> Iterator[tuple[str, set[str], set[str]]]:
    yield "entry", {*entry}, KEYS_OF_AN_ENTRY
    yield "options", {*entry.get("options", {})}, {"exception_handlers", "routes", "telemetry"}
    for key, value in [*entry.items(), *entry.get("options", {}).items()]:
        for item in value if isinstance(value, list) else [value]:
            if key in KEYS_INSIDE:
                yield key, {*item}, KEYS_INSIDE[key]
    for question, variants in entry.get("variants", {}).items():
        yield question, {*variants}, KEYS_INSIDE[question]
        for variant in variants.values():
            yield from _levels(variant)


@pytest.mark.parametrize("name", LAYERS)
def test_an_entry_is_complete_and_short(name: str) -> None:
    layer = LAYERS[name]

    assert layer.keys() >= KEYS_OF_A_LAYER
    assert len(layer["summary"]) <= 80
    assert len(layer["place"]) <= 88
    assert layer["summary"][0].islower()
    assert not layer["summary"].endswith(".")
    # A choice follows a pointer and a mark, in a terminal of 80 columns.
    assert len(f" » ○ {layer['label']}: {layer['summary']}") <= 80


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_has_a_reason_for_policies_or_against(name: str) -> None:
    reason = LAYERS[name]["per_route"]

    assert reason.endswith(".")
    assert reason.startswith("No: ") == ("policies" not in LAYERS[name])


# What a module reads of a request, and what it adds to a response.
READING: Final = (
    r'(?:exchange[.]header|exchange[.]lines|headers[.]get)\(b"([\w-]+)"',
    r'b"([\w-]+)" (?:not )?in (?:exchange[.])?headers\b',
)
ADDING: Final = (
    r"HeaderRule\(((?:[^()]|\([^()]*\))*)\)",
    r"^ +headers=\{(.*?)\}",
)


@pytest.mark.parametrize("name", LAYERS)
def test_an_entry_lists_the_headers_of_its_layer(name: str) -> None:
    """Its page prints them, so a header that is missing there passes for one of no layer."""
    (module,) = (ROOT / "template/app/middleware").glob(f"{name}.py*")
    code = module.read_text("utf-8")
    parts = list(with_variants(LAYERS[name]))

    read = {header for pattern in READING for header in re.findall(pattern, code)}
    rules = "\n".join(rule for it in ADDING for rule in re.findall(it, code, re.MULTILINE))
    added = {header.lower() for header in re.findall(r'"([A-Za-z-]+)"', rules)}

    assert read <= _headers(parts, "reads", "looks_at")
    assert added <= _headers(parts, "sets", "adds")


def _headers(parts: Iterable[Answers], *keys: str) -> set[str]:
    items = (item for part in parts for key in keys for item in part.get(key, ()))
    return {item.lower() for item in items if isinstance(item, str)}


@pytest.mark.parametrize("name", LAYERS)
def test_a_place_names_no_other_layer(name: str) -> None:
    """It is in services that have only this one."""
    others = {other for other in LAYERS if other != name and "_" in other}

    assert [other for other in others if other in LAYERS[name]["place"]] == []


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "error_handler"])
def test_a_layer_promises_nothing_about_the_500(name: str) -> None:
    """Without the layer error_handler the framework sends it, outside of every layer."""
    promise = re.compile(r"\b500s?\b|every response")

    texts = [LAYERS[name][key] for key in ("summary", "place", "client_sees")]
    texts = [re.sub(r"\{without error_handler: [^{}]+\}", "", text) for text in texts]

    assert [text for text in texts if promise.search(text)] == []


@pytest.mark.parametrize("path", [*(ROOT / "hooks").rglob("*.yml")], ids=lambda path: path.stem)
def test_a_sentence_for_some_services_names_their_layers(path: Path) -> None:
    """Jinja leaves what it can't read, and leaves out what names nothing."""
    catalogue = json.dumps(read_yaml(path), ensure_ascii=False)

    found = re.findall(r"\{with(?:out)? (\S+(?: or \S+)*): [^{}]+\}", catalogue)
    assert len(found) == len(re.findall(r"\{with", catalogue))
    assert {name for names in found for name in names.split(" or ")} <= {*ENTRIES}


@pytest.mark.parametrize("name", ENTRIES)
def test_what_is_read_without_a_service_holds_for_each(name: str) -> None:
    """Copier's questions and docs/order.md print it as it is."""
    entry = ENTRIES[name]
    texts = [entry.get("summary", ""), entry.get("outside_of_refusals", {}).get("because", "")]
    texts += entry.get("requires", {}).values()
    texts += [rule["because"] for part in with_variants(entry) for rule in part.get("inside", ())]

    assert [text for text in texts if "{" in text] == []


@pytest.mark.parametrize("name", LAYERS)
def test_the_order_obeys_the_rules_of_the_layer(name: str) -> None:
    order = ORDER["layers"]

    for rule in _rules(name):
        assert order.index(rule["layer"]) < order.index(name), rule["because"]
        assert rule["strength"] in STRENGTHS


def test_a_rule_is_stated_once() -> None:
    for name in LAYERS:
        outer = [rule["layer"] for rule in _rules(name)]
        assert len(outer) == len({*outer}), name


def test_a_reason_is_what_goes_wrong_otherwise() -> None:
    """It is printed after that word, and after "cors must run outside rate_limit:"."""
    reasons = [rule["because"] for name in LAYERS for rule in _rules(name)]

    assert [text for text in reasons if not re.match(r"[^,:]*\b(?:would|could)", text)] == []


def test_no_refusal_is_long() -> None:
    """The sentences of Copier and of the check at start-up are read in a terminal."""
    sentences = [
        f"{name} needs {needed}: {reason}. Add {needed} or leave out {name}."
        for name, layer in LAYERS.items()
        for needed, reason in layer.get("requires", {}).items()
    ]
    sentences += [
        f"{rule['layer']} must run outside {name}: {rule['because']}"
        for name in LAYERS
        for rule in _rules(name)
    ]

    assert [sentence for sentence in sentences if len(sentence) > 180] == []


def test_each_rule_is_shown_by_a_test(render: Render) -> None:
    collected = {
        line.removeprefix("tests/middleware/")
        for scheme in SCHEMES
        if scheme == "jwt" or {"authentication", "session"} <= {*LAYERS}
        for line in _collect(render(scheme, preset="everything", authentication_scheme=scheme))
    }
    promised = {rule["shown_by"] for name in LAYERS for rule in _rules(name)}

    assert promised - collected == set()


def _collect(service: Path) -> Iterator[str]:
    """Yield the ids of the tests of a service, with their parameters and without."""
    arguments = ("--collect-only", "-q", "-p", "no:xdist", "tests/middleware")
    for line in python("pytest", *arguments, cwd=service).stdout.splitlines():
        yield line
        yield line.partition("[")[0]


def test_arguments_are_those_of_the_class(render: Render) -> None:
    """So does mypy; but it is silent about a class of a library that takes anything."""
    modules = render(preset="everything") / "app/middleware"
    defaults = {"authentication_scheme": "jwt", "storage": "memory"}

    for name, layer in LAYERS.items():
        given = {*layer.get("arguments", {})}
        for question, variants in layer.get("variants", {}).items():
            variant = variants.get(defaults.get(question), {})
            given |= {*variant.get("arguments", {})}
        accepted, required = _parameters(modules, layer["class"])
        assert required <= given <= accepted, name


def _parameters(modules: Path, path: str) -> tuple[set[str], set[str]]:
    """Return the arguments that a class takes besides `app`, and those that it must have."""
    module, name = path.split(":")
    if not module.startswith("."):
        parameters = [*inspect.signature(getattr(import_module(module), name)).parameters.values()]
        needed = {item.name for item in parameters if item.default is inspect.Parameter.empty}
        return {item.name for item in parameters} - {"app"}, needed - {"app"}
    nodes = [
        *ast.walk(ast.parse((modules / f"{module[1:].replace('.', '/')}.py").read_text("utf-8")))
    ]
    classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
    for item in classes[name].body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            pairs = [*zip(item.args.kwonlyargs, item.args.kw_defaults, strict=True)]
            accepted = {argument.arg for argument, _ in pairs}
            return accepted, {argument.arg for argument, default in pairs if default is None}
    imported = {
        alias.name: f"{'.' * node.level}{node.module}:{alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    inherited = [imported[ast.unparse(base)] for base in classes[name].bases]
    return _parameters(modules, *inherited) if inherited else (set(), set())


def test_settings_are_described() -> None:
    knobs = [knob for entry in ENTRIES.values() for knob in _knobs(entry)]

    for knob in knobs:
        assert re.fullmatch(r"[A-Z][A-Z0-9_]*", knob["name"])
        assert knob.keys() >= {"type", "unit", "help"}
        assert "default" in knob or "test" in knob, f"{knob['name']} has no value for tests"


def _knobs(entry: Answers) -> Iterator[dict[str, Any]]:
    for part in with_variants(entry):
        yield from part.get("settings", ())


def test_the_development_environment_runs_every_service() -> None:
    """Whatever a service imports, its tests run here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    needed = {*BASE["dependencies"], *BASE["test_dependencies"]}
    for entry in ENTRIES.values():
        for part in with_variants(entry):
            needed |= {*part.get("dependencies", ()), *part.get("test_dependencies", ())}

    assert {*project["dependency-groups"]["services"]} == needed
    assert all(Requirement(line) for line in needed)


def test_the_check_can_read_whom_it_knows() -> None:
    """A package of agents with the switch of its span, and classes by their dotted names."""
    observers, trackers = BASE["observers"], BASE["trackers"]

    assert all(
        {"package", "name"} <= it.keys() <= {"package", "name", "switch"} for it in observers
    )
    assert all(observer.get("switch", ".").endswith(".") for observer in observers)
    packages = [observer["package"] for observer in observers]
    assert all(re.fullmatch(r"[a-z_]+([.][a-z_]+)*", package) for package in packages)
    assert all(re.fullmatch(r"[a-z_]+([.][a-z_]+)*[.][A-Z]\w+", name) for name in trackers)
    assert [name for name in trackers if name.startswith(tuple(packages))] == []
    assert trackers == sorted(trackers)
    assert len(trackers) == len({*trackers})


def test_the_readme_lists_the_layers() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = [row for row in cells if len(row) == 3 and row[1].strip("`") in NAMES]

    assert rows == [
        [layer["label"], f"`{name}`", layer["summary"]] for name, layer in LAYERS.items()
    ]


def test_the_page_about_mounted_apps_lists_what_acts_once() -> None:
    page = (TEMPLATE / "docs" / "policies.md.jinja").read_text("utf-8")
    folder = TEMPLATE / "app" / "middleware"
    acting = [name for name in LAYERS if "once = True" in source(folder, name)]

    assert f"'in', {acting}" in page


def source(folder: Path, name: str) -> str:
    (file,) = folder.glob(f"{name}.py*")
    return file.read_text("utf-8")


def test_a_new_layer_needs_no_change_elsewhere(
    template: Path, render: Render, tmp_path: Path, mypy_cache: Path
) -> None:
    """One line in order.yml and three files; it uses each key that an entry may have."""
    source = tmp_path / "template"
    shutil.copytree(template, source, ignore=shutil.ignore_patterns(".git"))
    _add_layer(source)

    service = render(source=source, layers=["error_handler", "cors", "onion_demo"], storage="redis")

    assert failures(service, mypy_cache=mypy_cache) == []
    shown = python("app.middleware", "--json", cwd=service, DEMO_SECRET="x" * 32).stdout
    assert [row["layer"] for row in json.loads(shown) if row["layer"]] == [
        *("cors", "error_handler", "onion_demo")
    ]
    shouted = python("app.middleware", "shout", "leek", cwd=service, DEMO_SECRET="x" * 32)
    assert shouted.stdout == "LEEK\n"


def _add_layer(source: Path) -> None:
    folder = Path(__file__).parent / "demo_layer"
    order = source / "hooks/order.yml"
    text = order.read_text("utf-8")
    order.write_text(text.replace("- conditional\n", "- conditional\n- onion_demo\n"), "utf-8")
    shutil.copy2(folder / "onion_demo.yml", source / "hooks/layers")
    shutil.copy2(folder / "onion_demo.py", source / "template/app/middleware")
    shutil.copy2(folder / "test_onion_demo.py", source / "template/tests/middleware")
