"""The command `explain` of a service of every layer: what its user sees, in a real terminal too."""

import json
import os
import re
import shlex
import shutil
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pexpect
import pytest
from copier import run_copy

from .conftest import Render
from .explained import (
    ADDED_ROUTES,
    ELIDED,
    PAGE,
    PAGE_RUNS,
    RUNS,
    SETTINGS,
    SWAPS,
    Run,
    explain,
    page_runs,
    parts,
    prepare,
    settings_of,
)
from .support import LAYERS, ROOT, TESTS, blocks, read_yaml, run

# As in a service whose owner has set what it can't do without.
NO_ORIGINS = {"CORS_ALLOW_ORIGINS": "", "CROSS_ORIGIN_TRUSTED": ""}
RUNS_OF_THE_PAGE = ROOT / "hooks/runs.yml"

# The order is wrong on purpose: a page can't read what the rate limit refuses.
WRONG_ORDER = """
from app.middleware.order import layer_of
names = [layer_of(item.cls) for item in app.user_middleware]
app.user_middleware.insert(
    names.index("rate_limit"), app.user_middleware.pop(names.index("cors"))
)
"""

_COLOUR = re.compile(r"\x1b\[[\d;]*(3[1-7]|9[1-7])[\d;]*m")
_STYLE = re.compile(r"\x1b\[[\d;]*m")


@pytest.fixture(scope="module")
def service(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("explained") / "service"
    answers = {"preset": "everything"}
    run_copy(str(template), folder, data=answers, defaults=True, quiet=True, vcs_ref="HEAD")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def plain(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a service of every layer as it is rendered."""
    folder: Path = tmp_path_factory.mktemp("plain") / "service"
    answers = {"preset": "everything"}
    run_copy(str(template), folder, data=answers, defaults=True, quiet=True, vcs_ref="HEAD")
    return folder


def test_the_runs_of_the_page_are_those_of_today(plain: Path) -> None:
    written = page_runs(plain)

    if os.environ.get("RUNS") == "write":
        RUNS_OF_THE_PAGE.write_text(written, "utf-8")
    known = RUNS_OF_THE_PAGE.read_text("utf-8")
    assert _lasting(written) == _lasting(known), "RUNS=write in the environment writes them anew"


@pytest.mark.parametrize(
    "answers",
    [
        *({"preset": name} for name in ("minimal", "api", "browser", "public", "everything")),
        {"preset": "everything", "authentication_scheme": "api_key"},
        {"layers": ["trusted_host", "timing"]},
        {"layers": ["cors", "body_limit", "error_handler"]},
        {"layers": ["conditional"]},
    ],
    ids=lambda answers: "-".join(answers.get("layers", answers.values())),
)
def test_the_page_shows_what_is_printed(answers: dict[str, Any], render: Render) -> None:
    """Whatever the layers are: the page reduces runs of a service that has all."""
    service = render(**answers)
    page = (service / "docs/middleware.md").read_text("utf-8").partition("\n## The layers")[0]
    layers = read_yaml(service / ".copier-answers.yml")["layers"]
    shown = [None, *[layer for layer in PAGE_RUNS if layer in layers][:1]]

    assert len(blocks(page, "text")) == len(shown)
    for layer, command, block in zip(shown, blocks(page, "sh"), blocks(page, "text"), strict=True):
        settings = dict(item.split("=") for item in re.findall(r"[A-Z_]+=\S+", command))
        *_, typed = command.replace("\\\n", " ").partition(" explain ")
        assert shlex.split(typed) == [*PAGE_RUNS[layer].options]
        printed = explain(service, replace(PAGE_RUNS[layer], settings=settings)).stdout
        _, result, *ways, _ = parts(printed)
        found, *found_ways = parts(f"\n\n{block}")[1:]
        assert " ".join(" ".join(found).split()) in " ".join(" ".join(result).split())
        assert [_cut(way) for way in found_ways] == [_cut(way) for way in ways]


def _lasting(text: str) -> str:
    """Return what is the same in each run."""
    text = re.sub(r"[0-9a-f]{32}", "ID", text)
    return re.sub(r"\d+\.\d{3,}", "TIME", text)


def _cut(lines: list[str]) -> list[str]:
    """Return lines without what depends on the width of a column, or on other layers."""
    plain = (ELIDED.sub(r"\1", line).replace("…", "") for line in lines)
    return [_lasting(" ".join(line.split()))[:38] for line in plain]


@cache
def facts(service: Path, name: str) -> Any:
    done = explain(service, {**RUNS, **SWAPS}[name], "--json")
    assert done.returncode == 0, done.stdout
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", RUNS)
def test_a_request_is_explained(name: str, service: Path) -> None:
    found = facts(service, name)

    expected = (RUNS[name].status, RUNS[name].responder)
    assert (found["response"]["status"], found["responded_by"]) == expected
    refused = found["refusal"] is not None
    # A preflight is no refusal, and nobody refuses what no route takes.
    assert refused == (found["responded_by"] not in {"routes", "exceptions", "cors", None})
    if refused and name != "500":
        assert found["says"]
        own = {setting["name"] for setting in found["refusal"]["settings"]}
        assert set(RUNS[name].settings) <= {"ALLOWED_HOSTS"} | own
    names = [step["name"] for step in found["steps"]]
    if refused and found["never_reached"]:
        assert found["never_reached"] == names[names.index(found["responded_by"]) + 1 :]


@pytest.mark.parametrize("lacks", [None, "cors", "error_handler", "proxy_headers", "cross_origin"])
def test_a_symptom_has_its_line(lacks: str | None, service: Path, render: Render) -> None:
    """What the pages name in the output is there: with all layers, or without the one."""
    folder = service
    if lacks:
        folder = render(layers=[name for name in LAYERS if name != lacks])
        prepare(folder)
    rows = [
        row
        for row in read_yaml(ROOT / "hooks/symptoms.yml")
        if row.get("without", []) == [lacks] * bool(lacks) and "explain" in row
    ]

    _assert_shown(rows, folder)


def test_a_symptom_needs_no_layer_that_its_row_lacks(render: Render) -> None:
    folder = render(layers=["cors"])
    rows = read_yaml(ROOT / "hooks/symptoms.yml")

    _assert_shown([row for row in rows if row.get("when") == ["cors"]], folder)


def test_a_symptom_says_which_routes_a_new_service_lacks() -> None:
    lacking = tuple(re.findall(r"^@?router[.].*[(]\"(/\w+)\"", ADDED_ROUTES, re.MULTILINE))
    asked = [row.get("explain", {"options": ""}) for row in read_yaml(ROOT / "hooks/symptoms.yml")]

    assert [it for it in asked if it["options"].startswith(lacking)] == [
        it for it in asked if "instead" in it
    ]


def _assert_shown(rows: list[dict[str, Any]], folder: Path) -> None:
    assert rows
    for row in rows:
        asked = row["explain"]
        settings = {**NO_ORIGINS, **settings_of(asked.get("settings", ""))}
        run = Run(shlex.split(asked["options"]), settings=settings)
        # The heading repeats what was typed.
        printed = " ".join(explain(folder, run).stdout.partition("\n\n")[2].split())
        assert asked["shows"] in printed, (row["symptom"], printed)
        assert asked["shows"] not in asked["options"], row["symptom"]


def test_each_symptom_of_one_request_has_its_line() -> None:
    silent = [
        row["symptom"] for row in read_yaml(ROOT / "hooks/symptoms.yml") if "explain" not in row
    ]

    assert silent == [
        "Lines of libraries are written twice, in another format, or not at all",
        "A status that clients received, such as 413 or 502, is missing in the metrics",
        "Counters on the metrics page jump back and forth",
        *["A deploy loses requests, with 502 or a refused connection"] * 2,
        "The readiness probe gets 503",
        "The service takes some seconds to stop",
        '503 "The service is busy" although the CPU is idle',
        "All clients share one limit",
        "The limit is higher than the setting",
        "Tests of your routes fail with 429",
        "The access log shows the proxy's IP address",
        "A repeated POST gets the response of another client",
        "A cancelled request goes on until its thread has ended",
        "A layer of yours mixes the data of requests or websockets",
        "An endpoint hangs since a layer of yours reads the body",
        *["An `HTTPException` that a layer of yours raises becomes a 500"] * 2,
        "Health probes fill the log",
        "The service doesn't start, because a class was added outside the middleware stack",
        (
            "The service doesn't start, because `FastAPI(max_body_size=...)` responds outside every"
            " layer"
        ),
    ]


@pytest.mark.parametrize("name", SWAPS)
def test_a_swap_shows_the_reason(name: str, service: Path) -> None:
    found = facts(service, name)

    assert found["declared"]["broken_rules"] == []
    assert found["differences"]
    outside, _, inside = name.partition("-")
    if inside:
        assert found["reasons"][0].startswith(f"{outside} runs outside {inside}: ")


def test_the_swaps_differ_as_the_rules_say(service: Path) -> None:
    cors, host, proxy, credentials = (
        facts(service, name)
        for name in (
            "cors-rate_limit",
            "trusted_host-https_redirect",
            "proxy_headers-rate_limit",
            "rate_limit-authentication",
        )
    )

    assert "can read" in cors["declared"]["browser"]
    assert "runs inside rate_limit" in cors["changed"]["browser"]
    location = {"name": "location", "before": None, "after": "https://evil.example/"}
    assert location in host["headers"]
    shared = {"label": "rate_limit", "declared": "client: 198.51.100.7"}
    assert {**shared, "changed": "client: 10.0.0.2"} in proxy["differences"]
    statuses = [credentials[run]["response"]["status"] for run in ("declared", "changed")]
    assert statuses == [429, 401]


def test_a_wrong_order_is_found_by_it_alone(service: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(service, wrong)
    with (wrong / "app/main.py").open("a", encoding="utf-8") as file:
        file.write(WRONG_ORDER)

    text = " ".join(explain(wrong, RUNS["429"]).stdout.split())

    assert "The service refuses to start like this: cors must run outside rate_limit" in text
    assert f"A page on {PAGE} can't read this response" in text
    assert "cors adds it, but runs inside rate_limit and never saw the response." in text


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_text_fits_the_terminal(columns: int, service: Path) -> None:
    plain = in_terminal(service, columns, NO_COLOR="1")
    coloured = in_terminal(service, columns)

    assert _COLOUR.search(coloured)
    assert not _COLOUR.search(plain)
    plain = _STYLE.sub("", plain)
    assert max(map(len, plain.splitlines())) in range(columns // 2, columns + 1)
    # Who did nothing shares a line with its neighbours.
    assert re.search(r"^  \d+ layers +unchanged: metrics to ", plain, re.MULTILINE)
    assert re.search(r"^  session +\+ session: ", plain, re.MULTILINE)
    assert len(plain.splitlines()) < 70


def in_terminal(service: Path, columns: int, **environment: str) -> str:
    """Return what a terminal of a width gets."""
    settings = {key: value for key, value in SETTINGS.items() if key != "COLUMNS"}
    output, status = pexpect.run(
        f"{sys.executable} -m app.middleware explain /orders/1",
        cwd=service,
        env={"PATH": "/usr/bin:/bin", "TERM": "xterm", **settings, **environment},
        withexitstatus=True,
        timeout=60,
        dimensions=(60, columns),
    )
    assert status == 0, output
    text: str = output.decode().replace("\r\n", "\n")
    return text


@pytest.mark.parametrize(
    "runner",
    [
        pytest.param(("-P", TESTS / "first_parameters.py"), id="first parameters"),
        pytest.param(("-m", "pytest"), id="all", marks=pytest.mark.matrix),
    ],
)
def test_recorders_change_nothing(
    runner: tuple[str | Path, ...], service: Path, tmp_path: Path
) -> None:
    """The tests of all layers pass with a recorder between each two."""
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={tmp_path}/tests")

    done = run(
        sys.executable,
        *runner,
        *options,
        *("-p", "recorded", "tests/middleware"),
        cwd=service,
        timeout=900,
        PYTHONPATH=str(TESTS),
    )

    assert done.returncode == 0, done.stdout


def test_the_runs_can_be_written(service: Path, tmp_path: Path) -> None:
    done = run(sys.executable, "-m", "tests.explained", service, tmp_path, "200", cwd=ROOT)

    assert done.returncode == 0, done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["200.txt"]
    assert "200 OK from the routes" in (tmp_path / "200.txt").read_text("utf-8")


def test_no_run_adds_to_the_metrics_of_the_workers(service: Path, tmp_path: Path) -> None:
    done = explain(service, RUNS["200"], PROMETHEUS_MULTIPROC_DIR=str(tmp_path))

    assert done.returncode == 0, done.stdout
    assert [*tmp_path.iterdir()] == []
