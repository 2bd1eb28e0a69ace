"""
Every rule of the order is broken once, and every layer removed: a test of behaviour must notice.

For a rule "A outside of B" layer A is moved directly inside of B, and the one test that the
catalogue names for the rule must fail. A removed layer must make its own tests fail. The result is
in docs/order.md; `ORDER_TABLES=write` in the environment writes the page anew.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, Final

import pytest
from copier import run_copy

from .conftest import Render
from .support import LAYERS, ROOT, TESTS, commit, git, run
from .wrong_orders import WRONG_ORDERS, WrongOrder

PAGE: Final = ROOT / "docs" / "order.md"
NOTICED: Final = 1  # pytest's exit status for failed tests
PASSED: Final = 0

# A rule that exists only with another answer is broken in a service with that answer.
ANSWERS: Final[tuple[dict[str, Any], ...]] = (
    {"preset": "everything"},
    {"preset": "everything", "authentication_scheme": "session"},
)

Job = dict[str, Any]
Rule = dict[str, str]


@pytest.fixture(scope="module")
def telling(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a template whose services contain what its hooks computed, in `onion.json`."""
    clone = tmp_path_factory.mktemp("telling") / "fastapi-onion"
    git("clone", "--quiet", template, clone, cwd=template)
    (clone / "template" / "onion.json.jinja").write_text("{{ onion | to_json }}\n")
    commit(clone, "tell what the hooks computed")
    return clone


def test_every_broken_rule_and_every_lost_layer_is_noticed(telling: Path, render: Render) -> None:
    unnoticed: list[str] = []
    rules: list[Rule] = []
    for service, new, layers in _services(telling, render):
        rules += new
        unnoticed += _unnoticed(service, [*_kept(new), *_moved(new), *_removed(layers)])

    assert unnoticed == []
    _compare(_page(rules))


@pytest.mark.matrix
def test_every_rule_that_is_broken_from_inside_is_noticed(telling: Path, render: Render) -> None:
    unnoticed: list[str] = []
    for service, new, _ in _services(telling, render):
        unnoticed += _unnoticed(service, [*_raised(new)])

    assert unnoticed == []


def _services(telling: Path, render: Render) -> Iterator[tuple[Path, list[Rule], list[str]]]:
    """Yield services, each with its rules that no other had before, and its new layers."""
    seen: set[tuple[str, str]] = set()
    for number, answers in enumerate(ANSWERS):
        service = render(f"service-{number}", source=telling, **answers)
        onion = json.loads((service / "onion.json").read_text("utf-8"))
        new = [rule for rule in onion["rules"] if _pair(rule) not in seen]
        seen |= {*map(_pair, new)}
        yield service, new, [] if number else [layer["name"] for layer in onion["layers"]]


def _unnoticed(service: Path, jobs: list[Job]) -> list[str]:
    return [
        f"{job['verb']} {job['layer']} {job['neighbour']}: {job['tests']} ended with {status}"
        for job, status in zip(jobs, _spoil(service, jobs), strict=True)
        if status != (PASSED if job["verb"] == "keep" else NOTICED)
    ]


@pytest.mark.parametrize("wrong", WRONG_ORDERS, ids=lambda wrong: "-".join(wrong.broken))
def test_the_check_names_the_first_broken_rule(wrong: WrongOrder, everything: Path) -> None:
    code = f"""
from fastapi import FastAPI
from app.middleware.core.check import faults
from app.middleware.order import layer_of
from app.middleware import stack_options
from tests.middleware.conftest import stack_settings

options = stack_options(stack_settings())
check, *stack = options["middleware"]
layers = {{layer_of(layer.cls): layer for layer in stack}}
options["middleware"] = [check, *(layers[name] for name in {wrong.layers!r})]
print(faults(FastAPI(**options))[0])
"""

    outside, inside = wrong.broken
    fault = run(sys.executable, "-c", code, cwd=everything).stdout

    assert fault.startswith(f"{outside} must run outside {inside}: ")


@pytest.fixture(scope="module")
def everything(telling: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("everything") / "service"
    run_copy(str(telling), folder, data=ANSWERS[0], defaults=True, quiet=True, vcs_ref="HEAD")
    return folder


def _pair(rule: Rule) -> tuple[str, str]:
    return rule["outside"], rule["inside"]


def _job(verb: str, *tests: str, layer: str = "", neighbour: str = "") -> Job:
    return {"verb": verb, "tests": tests, "layer": layer, "neighbour": neighbour}


def _kept(rules: list[Rule]) -> Iterator[Job]:
    """Run the named tests in the right order, where they must pass."""
    yield _job("keep", *sorted({rule["shown_by"] for rule in rules}))


def _moved(rules: list[Rule]) -> Iterator[Job]:
    for rule in rules:
        yield _job("lower", rule["shown_by"], layer=rule["outside"], neighbour=rule["inside"])


def _raised(rules: list[Rule]) -> Iterator[Job]:
    """Yield none of a layer outside of one that it requires: it does nothing there."""
    place = [*LAYERS].index
    for rule in rules:
        required = LAYERS[rule["inside"]].get("requires", {})
        if all(place(name) < place(rule["outside"]) for name in required):
            yield _job("raise", rule["shown_by"], layer=rule["inside"], neighbour=rule["outside"])


def _removed(names: list[str]) -> Iterator[Job]:
    for name in names:
        yield _job("remove", f"test_{name}.py", layer=name)


def _spoil(service: Path, jobs: list[Job]) -> list[int]:
    """Run `jobs` in `service`, on both cores, and return their exit statuses in order."""

    def half(part: list[Job]) -> list[int]:
        output = subprocess.run(
            [sys.executable, TESTS / "spoil.py"],
            cwd=service,
            input=json.dumps(part),
            env={**os.environ, "SPOIL_LOG": str(service / "spoil.log")},
            capture_output=True,
            text=True,
            check=True,
        )
        statuses: list[int] = json.loads(output.stdout)
        return statuses

    statuses = [0] * len(jobs)
    with ThreadPoolExecutor(2) as pool:
        statuses[0::2], statuses[1::2] = pool.map(half, (jobs[0::2], jobs[1::2]))
    return statuses


def _page(rules: list[Rule]) -> str:
    rows = [
        f"| {rule['outside']} | {rule['inside']} | {rule['strength']} | {rule['because']} |"
        f" `{rule['shown_by']}` |"
        for rule in rules
    ]
    wrong = [
        f"| {' > '.join(order.layers)} | {' > '.join(order.broken)} | {order.seen} |"
        for order in WRONG_ORDERS
    ]
    head = (
        "# The order, proven",
        "",
        "`tests/test_order.py` writes this page.",
        "It breaks each rule once, by moving the outer layer directly inside of the inner one,",
        "and demands that the named test of the rendered service fails.",
        "Under `-m matrix` it also moves the inner layer directly outside of the outer one.",
        "",
        f"## The {len(rules)} rules",
        "",
        "A rule binds only where both layers were chosen.",
        "MUST: security, or wrong data for a client or an operator. SHOULD: quality.",
        "",
        "| Outside | Inside | Strength | Otherwise | Shown by |",
        "| --- | --- | --- | --- | --- |",
    )
    tail = (
        "",
        "## Wrong orders in the wild",
        "",
        "Orders that popular generators and tutorials lead to, outermost first.",
        "The check at start-up refuses each, and names the rule that is broken first.",
        "",
        "| Order | First broken rule | What comes of it |",
        "| --- | --- | --- |",
    )
    return "\n".join(chain(head, rows, tail, wrong)) + "\n"


def _compare(page: str) -> None:
    if os.environ.get("ORDER_TABLES") == "write":
        PAGE.write_text(page, "utf-8")
    assert PAGE.read_text("utf-8") == page, "ORDER_TABLES=write in the environment renews the page"
