"""What becomes of the lines of the server."""

import logging
from collections.abc import Iterator

import pytest

from app.middleware.log import configure_logging


@pytest.fixture(autouse=True)
def server_log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("uvicorn.access")
    handlers, propagate = logger.handlers, logger.propagate
    yield logger
    logger.handlers, logger.propagate = handlers, propagate


def test_the_server_s_lines_are_written_in_the_one_format(server_log: logging.Logger) -> None:
    server_log.handlers, server_log.propagate = [logging.StreamHandler()], False

    configure_logging(level="INFO", log_format="json")

    assert server_log.handlers == []
    assert server_log.propagate


def test_a_log_that_was_switched_off_stays_off(server_log: logging.Logger) -> None:
    """With `--no-access-log` uvicorn leaves its logger without a handler."""
    server_log.handlers, server_log.propagate = [], False

    configure_logging(level="INFO", log_format="json")

    assert not server_log.hasHandlers()
