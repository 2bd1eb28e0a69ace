"""A plugin for the tests of a rendered service: recorders between all layers of each app."""

import copy
from typing import Any

from app.middleware.core.check import OrderCheck
from app.middleware.core.explain.recorder import Recorder
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import ASGIApp

_build = FastAPI.build_middleware_stack


def _build_recorded(app: FastAPI) -> ASGIApp:
    """Put a recorder outside each layer inside the check."""
    declared: list[Any] = app.user_middleware
    classes = [item.cls for item in declared]
    if OrderCheck not in classes:
        return _build(app)
    inside = classes.index(OrderCheck) + 1
    twin = copy.copy(app)
    twin.user_middleware = declared[:inside]
    for place, item in enumerate(declared[inside:]):
        recorder: Any = Middleware(Recorder, place=place, passages={})
        twin.user_middleware += [recorder, item]
    return _build(twin)


setattr(FastAPI, "build_middleware_stack", _build_recorded)  # noqa: B010 - of other types
