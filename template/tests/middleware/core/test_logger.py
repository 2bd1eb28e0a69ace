"""The layers log, however a service configures logging."""

import logging
from importlib import import_module
from logging.config import dictConfig
from pkgutil import walk_packages
from typing import Final

import pytest

from app import middleware


def _found() -> list[str]:
    for module in walk_packages(middleware.__path__, f"{middleware.__name__}."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    known = logging.getLogger().manager.loggerDict.items()
    return [name for name, item in known if isinstance(item, logging.Logger)]


LOGGERS: Final = sorted(name for name in _found() if name.startswith(middleware.__name__))


@pytest.mark.parametrize("name", LOGGERS)
def test_a_layer_logs_after_logging_was_configured(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default that disables each logger without a configuration of its own."""
    logger = logging.getLogger(name)
    monkeypatch.setattr(logger.manager, "loggerDict", {name: logger})

    dictConfig({"version": 1})
    logger.error("seen")

    assert caplog.messages == ["seen"]
