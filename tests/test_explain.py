"""The command `explain` of a service of every layer: what its user sees, in a real terminal too."""

import json
import re
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pexpect
import pytest
from copier import run_copy

from .explained import PAGE, RUNS, SETTINGS, SWAPS, explain, prepare
from .support import ROOT, TESTS, python, run

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
    shared = {"label": "rate_limit", "declared": "client: 203.0.113.9"}
    assert {**shared, "changed": "client: 127.0.0.1"} in proxy["differences"]
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
    assert re.search(r"^  \d+ layers +unchanged: error_handler to ", plain, re.MULTILINE)
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


def test_recorders_change_nothing(service: Path, tmp_path: Path) -> None:
    """The tests of all layers pass with a recorder between each two."""
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={tmp_path}/tests")

    done = python(
        "pytest",
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
