"""
What agents, test clients and servers take a layer for: an ASGI 3 application.

This runs in a service. It prints, as JSON, which detectors there are, what they looked at, and
each layer that one of them takes for something else.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Final

# Where each asks, and what it returns for an application of ASGI 3.
QUESTIONS: Final = {
    "asgiref": ("asgiref.compatibility", "is_double_callable", False),
    "ddtrace": ("ddtrace.contrib.internal.asgi.utils", "is_double_callable", False),
    "honeybadger": ("honeybadger.contrib.asgi", "_looks_like_asgi3", True),
    "newrelic": ("newrelic.packages.asgiref_compatibility", "is_double_callable", False),
    "sentry-sdk": ("sentry_sdk.integrations.asgi", "_looks_like_asgi3", True),
    "starlette": ("starlette.testclient", "_is_asgi3", True),
}


def _takes_for_asgi_3(detector: str, layer: Any) -> bool:
    module, function, expected = QUESTIONS[detector]
    return bool(getattr(import_module(module), function)(layer)) is expected


def _uvicorn_takes_for_asgi_3(layer: Any) -> bool:
    config = import_module("uvicorn").Config(layer, log_config=None)
    config.load()
    return bool(config.interface == "asgi3")


def main(*examples: str) -> None:
    """Look at the layers of `app.main`, and at the layers in files of Python."""
    service = import_module("app.main").app
    layers = {}
    layer: Any = service.build_middleware_stack()
    while hasattr(layer, "app"):
        layers[f"{type(layer).__module__}.{type(layer).__name__}"] = layer
        layer = None if layer.app is layer else layer.app
    for example in examples:
        names: dict[str, Any] = {}
        exec(Path(example).read_text("utf-8"), names)  # noqa: S102 - the examples are ours
        for name, value in names.items():
            if isinstance(value, type) and "__call__" in vars(value):
                layers[name] = object.__new__(value)
    wrong = [
        f"{detector} takes {name} for ASGI 2"
        for name, layer in layers.items()
        for detector in QUESTIONS
        if not _takes_for_asgi_3(detector, layer)
    ]
    wrong += [
        f"uvicorn takes {name} for ASGI 2"
        for name, layer in layers.items()
        if not _uvicorn_takes_for_asgi_3(layer)
    ]
    detectors = [*QUESTIONS, "uvicorn"]
    found = {"detectors": detectors, "layers": [*layers], "wrong": wrong}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
