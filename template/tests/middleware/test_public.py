"""What your code imports from `app.middleware` stays there, whatever moves behind it."""

import json
from datetime import date
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
from pydantic import ValidationError

from app import middleware
from app.middleware import CommaList, StackSettings, problem_response

from .conftest import stack_settings

ALWAYS = {
    *("CommaList", "EnvironmentSettings", "Own", "StackOptions", "StackSettings", "innermost"),
    *("inside", "outermost", "outside", "stack_options"),
}
# Names that are imported from their modules too, as releases before 0.6 had it.
OF_MODULES = {
    "authentication": {"CurrentUser", "User", "current_user"},
    "core.environment": {"EnvironmentSettings"},
    "log": {"bind"},
    "problem": {"problem_response", "refuse"},
    "user": {"User"},
}


def test_each_public_name_is_there() -> None:
    assert {*middleware.__all__} >= ALWAYS
    assert [name for name in middleware.__all__ if not hasattr(middleware, name)] == []


@pytest.mark.parametrize("module", OF_MODULES)
def test_a_module_and_the_package_offer_the_same(module: str) -> None:
    if find_spec(f"app.middleware.{module}") is None:
        pytest.skip("no layer of this service needs it")
    offered = import_module(f"app.middleware.{module}")

    for name in OF_MODULES[module]:
        assert name in middleware.__all__
        assert getattr(offered, name) is getattr(middleware, name)


def test_a_list_of_yours_is_comma_separated_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    class Settings(StackSettings):
        partners: CommaList[int] = ()

    needed: dict[str, Any] = stack_settings().model_dump(exclude_unset=True)
    needed["_env_file"] = None
    for text in ("1, 2", "[1, 2]"):
        monkeypatch.setenv("PARTNERS", text)
        assert Settings(**needed).partners == (1, 2)

    monkeypatch.setenv("PARTNERS", "1,two")
    with pytest.raises(ValidationError, match="partners"):
        Settings(**needed)


def test_the_members_of_a_problem_are_json() -> None:
    """Of the standard ones, a type and a title are yours; others are beside them."""
    mine = {"type": "https://onions.example/late", "title": "Late"}
    odd = {"day": date(2026, 1, 2), "share": float("nan"), "cause": ValueError("rain")}
    members = {**mine, **odd, "status": 200, "detail": ""}

    response = problem_response({"type": "http"}, 409, "no onions", members=members)

    written = {"day": "2026-01-02", "share": None, "cause": "rain"}
    others = {"details": {"status": 200, "detail": ""}}
    expected = {**mine, **written, **others, "status": 409, "detail": "no onions"}
    assert json.loads(bytes(response.body), parse_constant=pytest.fail) == expected
