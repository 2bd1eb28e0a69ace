"""What becomes of the lines of the server, of libraries, and of odd values."""

import asyncio
import errno
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from contextvars import copy_context
from functools import wraps
from logging.config import dictConfig
from pathlib import Path
from typing import Any, Final, TextIO

import pytest
import structlog
from structlog.contextvars import bound_contextvars
from structlog.testing import capture_logs
from structlog.typing import EventDict
from uvicorn.config import LOGGING_CONFIG

from app.middleware.log import (
    LogFormat,
    begin_fields,
    begin_line,
    bind,
    configure_logging,
    line_writer,
    merge_fields,
    unbind,
)

from .conftest import LogLines, stack_settings


@pytest.fixture(autouse=True)
def server_log() -> Iterator[logging.Logger]:
    names = ("hypercorn.error", "uvicorn", "uvicorn.error", "uvicorn.access")
    before = [(logger, {**vars(logger)}) for logger in map(logging.getLogger, names)]
    for logger, _ in before:
        vars(logger).update(handlers=[], filters=[])
    yield before[-1][0]
    for logger, attributes in before:
        vars(logger).update(attributes)


@pytest.fixture(autouse=True)
def _own_configuration() -> Iterator[None]:
    """Keep what a test does to logging and structlog out of the other tests."""
    root = logging.getLogger()
    handlers = [*root.handlers]
    yield
    root.handlers = handlers
    structlog.reset_defaults()


def test_the_server_s_lines_are_written_in_the_one_format(server_log: logging.Logger) -> None:
    server_log.handlers[:], server_log.propagate = [logging.StreamHandler()], False

    configure_logging(level="INFO", log_format="json")

    assert server_log.handlers == []
    assert server_log.propagate


def test_a_log_that_was_switched_off_stays_off(server_log: logging.Logger) -> None:
    """With `--no-access-log` uvicorn leaves its logger without a handler."""
    server_log.handlers.clear()
    server_log.propagate = False

    configure_logging(level="INFO", log_format="json")

    assert not server_log.hasHandlers()


def test_handlers_that_the_server_puts_back_write_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """`fastapi run` and `uvicorn.run(app)` configure uvicorn's log after the app was imported."""
    configure_logging(level="INFO", log_format="json")
    dictConfig(LOGGING_CONFIG)

    logging.getLogger("uvicorn.error").info("Started server process [1]")
    logging.getLogger("uvicorn.access").info("GET /")

    written = capfd.readouterr()
    lines = [json.loads(line) for line in written.out.splitlines()]
    assert [line["logger"] for line in lines] == ["uvicorn.error", "uvicorn.access"]
    assert written.err == ""


def test_a_line_of_hypercorn_is_written_once(capfd: pytest.CaptureFixture[str]) -> None:
    """Its logger has a handler, and passes each line on too."""
    logger = logging.getLogger("hypercorn.error")
    logger.addHandler(logging.StreamHandler(sys.stderr))
    configure_logging(level="INFO", log_format="json")

    logger.info("Running on http://127.0.0.1:8000")

    written = capfd.readouterr()
    assert json.loads(written.out)["logger"] == "hypercorn.error"
    assert written.err == ""


def test_a_handler_that_writes_to_the_terminal_too_is_replaced(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Packages and agents call `logging.basicConfig()`."""
    for stream in (sys.stdout, sys.stderr):
        logging.getLogger().addHandler(logging.StreamHandler(stream))
        logging.getLogger().addHandler(Readable(stream))
    logging.getLogger().addHandler(Rich())

    configure_logging(level="INFO", log_format="json")
    logging.getLogger("library").warning("once")

    written = capfd.readouterr()
    assert (written.out.count("once"), written.err) == (1, "")


class Exporter(logging.StreamHandler[TextIO]):
    """A handler that sends records elsewhere."""

    def emit(self, record: logging.LogRecord) -> None:
        pass


class Readable(logging.StreamHandler[TextIO]):
    """One that writes in a format of its own."""


class Console:
    """As rich has it."""

    file = property(lambda _: sys.stderr)


class Rich(Exporter):
    """As that of rich, which some packages give the root."""

    console = Console()


@pytest.mark.parametrize("name", [None, "uvicorn"])
def test_a_handler_that_writes_elsewhere_stays(name: str | None, tmp_path: Path) -> None:
    others: list[logging.Handler] = [
        logging.FileHandler(tmp_path / "log", delay=True),
        logging.StreamHandler(io.StringIO()),
        logging.NullHandler(),
        Exporter(),
    ]
    logger = logging.getLogger(name)
    for handler in others:
        logger.addHandler(handler)
    propagate = logger.propagate = name is None

    configure_logging(level="INFO", log_format="json")

    assert [handler for handler in logger.handlers if handler in others] == others
    assert logger.propagate == propagate


def _owned(_: object, __: str, event: EventDict) -> EventDict:
    return {**event, "owner": "team"}


def _in_front() -> None:
    structlog.configure(processors=[_owned, *structlog.get_config()["processors"]])


def _before_the_renderer() -> None:
    *fields, render = structlog.get_config()["processors"]
    structlog.configure(processors=[*fields, _owned, render])


def _in_place() -> None:
    structlog.get_config()["processors"].insert(0, _owned)


def _another_format() -> None:
    structlog.configure(processors=[_owned, structlog.processors.JSONRenderer()])


def _another_output() -> None:
    _another_format()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory())


def _through_logging() -> None:
    structlog.configure(
        processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(sys.stdout)
    renderer = structlog.processors.JSONRenderer()
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _owned, renderer]
    )
    handler.setFormatter(formatter)
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel("INFO")


@pytest.mark.parametrize(
    ("configure", "when"),
    [
        (_in_front, "after"),
        (_before_the_renderer, "after"),
        (_in_place, "after"),
        (_another_format, "after"),
        (_another_output, "after"),
        (_another_output, "before"),
        (_through_logging, "after"),
        (_through_logging, "before"),
    ],
)
def test_every_line_passes_the_processors_of_the_service(
    configure: Callable[[], None], when: str, log_lines: LogLines
) -> None:
    """Those of requests too: one that redacts would fail silently there."""
    if when == "before":
        configure()
    configure_logging(level="INFO", log_format="json")
    write = line_writer("info")
    if when == "after":
        configure()

    write(begin_line("info", "of requests"))
    structlog.get_logger().info("of structlog")
    logging.getLogger("library").info("of a library")

    found = [(line["event"], line["owner"]) for line in log_lines()]
    assert found == [(f"of {origin}", "team") for origin in ("requests", "structlog", "a library")]


class Instrumentation(logging.Handler):
    """As that of OpenTelemetry, which exports records, and events before the last processor."""

    __module__ = "opentelemetry.instrumentation"

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record.getMessage())

    def __call__(self, _: object, __: str, event: EventDict) -> EventDict:
        self.seen.append(event["event"])
        return event


def _opentelemetry(agent: Instrumentation, _: pytest.MonkeyPatch) -> None:
    configure_logging(level="INFO", log_format="json")
    *fields, render = structlog.get_config()["processors"]
    structlog.configure(processors=[*fields, agent, render])
    logging.getLogger().addHandler(agent)


def _opentelemetry_without_logging(agent: Instrumentation, patch: pytest.MonkeyPatch) -> None:
    _opentelemetry(agent, patch)
    logging.getLogger().removeHandler(agent)


def _opentelemetry_with_another_format(agent: Instrumentation, patch: pytest.MonkeyPatch) -> None:
    _opentelemetry(agent, patch)
    _another_output()
    structlog.configure(processors=[agent, *structlog.get_config()["processors"]])


def _new_relic(agent: Instrumentation, patch: pytest.MonkeyPatch) -> None:
    """As its agent, which wraps a method before the service is there."""
    wrapped: Any = vars(structlog.BoundLoggerBase)["_process_event"]

    @wraps(wrapped)
    def process(*args: Any) -> Any:
        found = wrapped(*args)
        assert isinstance(found[0][0], str)  # of bytes it exports the `repr`
        return agent(None, "", json.loads(found[0][0])) and found

    patch.setattr(structlog.BoundLoggerBase, "_process_event", process)
    configure_logging(level="INFO", log_format="json")
    logging.getLogger().addHandler(agent)


@pytest.mark.parametrize(
    "install",
    [
        _opentelemetry,
        _opentelemetry_without_logging,
        _opentelemetry_with_another_format,
        _new_relic,
    ],
)
def test_an_agent_exports_each_line_once(
    install: Callable[[Instrumentation, pytest.MonkeyPatch], None],
    log_lines: LogLines,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Most watch both logging and structlog."""
    agent = Instrumentation([])
    install(agent, monkeypatch)

    line_writer("info")(begin_line("info", "of requests"))
    structlog.get_logger().info("of structlog")
    logging.getLogger("library").info("of a library")

    events = ["of requests", "of structlog", "of a library"]
    assert sorted(agent.seen) == sorted(events)
    assert [line["event"] for line in log_lines()] == events


def test_a_method_that_an_agent_replaces_is_no_field(log_lines: LogLines) -> None:
    configure_logging(level="INFO", log_format="json")
    record = logging.makeLogRecord({"msg": "got", "levelno": logging.INFO})
    vars(record)["getMessage"] = record.getMessage

    logging.getLogger("library").handle(record)

    assert log_lines()[0].keys() == {"timestamp", "level", "event", "logger"}


def test_an_agent_does_not_choose_the_format(log_lines: LogLines) -> None:
    *fields, render = structlog.get_config()["processors"]
    structlog.configure(processors=[*fields, Instrumentation([]), render])
    configure_logging(level="INFO", log_format="json")

    structlog.get_logger().info("got")

    assert [line["event"] for line in log_lines()] == ["got"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_configuration_of_the_service_can_have_the_fields(when: str, log_lines: LogLines) -> None:
    renderer = structlog.processors.JSONRenderer()
    if when == "before":
        structlog.configure(processors=[merge_fields, renderer])
    configure_logging(level="INFO", log_format="json")
    if when == "after":
        structlog.configure(processors=[merge_fields, renderer])
    token = bind(order_id=1)

    structlog.get_logger().info("got", item=2)
    unbind(token)

    assert log_lines() == [{"order_id": 1, "item": 2, "event": "got"}]


@pytest.mark.parametrize("log_format", ["auto", "console", "json"])
def test_a_closed_output_is_no_terminal(
    log_format: LogFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)

    configure_logging(level="INFO", log_format=log_format)

    structlog.get_logger().info("nobody reads it")


def test_the_line_of_a_request_has_its_fields_whatever_structlog_does(log_lines: LogLines) -> None:
    configure_logging(level="INFO", log_format="json")
    token = bind(order_id=1, level="gold", self="it")
    line = begin_line("info", "request")
    write = line_writer("info")

    write({**line, "status": 200})
    _in_front()
    write({**line, "status": 200})
    unbind(token)

    one, other = log_lines()
    assert {**other, "timestamp": one["timestamp"]} == {**one, "owner": "team"}


def test_the_level_that_holds_when_a_line_is_written_counts(log_lines: LogLines) -> None:
    configure_logging(level="ERROR", log_format="json")
    write = line_writer("info")
    write(begin_line("info", "too low"))

    configure_logging(level="INFO", log_format="json")
    write(begin_line("info", "high enough"))

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("ERROR"))
    write(begin_line("info", "too low again"))

    assert [line["event"] for line in log_lines()] == ["high enough"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_tests_capture_the_lines_of_requests(when: str, log_lines: LogLines) -> None:
    configure_logging(level="INFO", log_format="json")
    write = line_writer("info")
    if when == "before":
        write(begin_line("info", "earlier"))
        log_lines()

    with capture_logs() as captured:
        (line_writer("info") if when == "after" else write)(begin_line("info", "request"))

    write(begin_line("info", "later"))
    assert [line["event"] for line in captured] == ["request"]
    assert [line["event"] for line in log_lines()] == ["later"]


class FullDisk(io.RawIOBase):
    """A file to which nothing can be written, until there is room again."""

    full = True

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "full")
        return len(data)


def test_a_line_that_can_not_be_written_harms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would cancel its own request."""
    configure_logging(level="INFO", log_format="json")
    disk = FullDisk()
    stream = io.TextIOWrapper(io.BufferedWriter(disk))
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", stream)

        structlog.get_logger().info("one")
        structlog.get_logger().info("another")

    disk.full = False  # closing writes what is left in the buffer
    stream.close()


def test_a_line_that_was_cut_off_harms_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its rest has no place between later lines, and what follows it no place on its line."""
    configure_logging(level="INFO", log_format="json")
    room = 30

    def write(descriptor: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "full")
        written = os_write(descriptor, data[:room])
        room -= written
        return written

    os_write = os.write
    with (tmp_path / "log").open("w") as stream, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", stream)
        patch.setattr("os.write", write)
        structlog.get_logger().info("cut off")
        structlog.get_logger().info("lost")
        room = 10_000
        structlog.get_logger().info("one")
        structlog.get_logger().info("another")

    _, *lines = (tmp_path / "log").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["one", "another"]


def test_the_reloader_does_not_tell_of_each_change(log_lines: LogLines) -> None:
    """In a file of the project that line would be the next change."""
    configure_logging(level="INFO", log_format="json")

    logging.getLogger("watchfiles.main").info("1 change detected")

    assert log_lines() == []


def test_what_a_library_adds_can_not_take_the_place_of_a_field(log_lines: LogLines) -> None:
    configure_logging(level="INFO", log_format="json")

    extra = {"event": 1, "level": 2, "logger": 3, "timestamp": 4, "more": 5}
    logging.getLogger("library").warning("of a library", extra=extra)

    (line,) = log_lines()
    assert (line["event"], line["level"], line["logger"]) == ("of a library", "warning", "library")
    told = {"event_": 1, "level_": 2, "logger_": 3, "timestamp_": 4, "more": 5}
    assert {key: line[key] for key in told} == told


def _is_written_by_a_library(level: int) -> None:
    logging.getLogger("billing").log(level, "sent %s", "once")


def _is_written_by_structlog_at_once(level: int) -> None:
    structlog.get_logger().log(level, "sent %s", "once")


def _is_written_by_structlog(level: int) -> None:
    asyncio.run(structlog.get_logger().alog(level, "sent %s", "once"))


@pytest.mark.parametrize(
    "write",
    [
        _is_written_by_a_library,
        _is_written_by_structlog_at_once,
        _is_written_by_structlog,
    ],
    ids=["library", "structlog", "structlog-async"],
)
@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (5, None),
        (logging.INFO, ("info", None)),
        (25, ("info", "NOTICE")),
        (35, ("warning", "Level 35")),
        (99, ("critical", "Level 99")),
    ],
)
def test_a_level_of_another_name_is_the_next_below(
    write: Callable[[int], None],
    level: int,
    expected: tuple[str, str | None] | None,
    log_lines: LogLines,
) -> None:
    configure_logging(level="INFO", log_format="json")
    logging.addLevelName(25, "NOTICE")

    write(level)

    found = [(line["level"], line.get("levelname"), line["event"]) for line in log_lines()]
    assert found == ([(*expected, "sent once")] if expected else [])


RESERVED: Final = {"event": "party", "level": "gold", "timestamp": "noon"}


@pytest.mark.parametrize("way", ["bind", "contextvars", "logger", "call"])
def test_a_field_can_not_take_the_place_of_one_that_each_line_has(
    way: str, log_lines: LogLines
) -> None:
    configure_logging(level="INFO", log_format="json")
    logger = structlog.get_logger()
    ours = {key: value for key, value in RESERVED.items() if way in {"bind", "contextvars"}}
    ours |= {"level": "gold", "timestamp": "noon"}

    if way == "bind":
        token = bind(**ours)
        logger.error("lost")
        unbind(token)
    elif way == "contextvars":
        with bound_contextvars(**ours):
            logger.error("lost")
    elif way == "logger":
        logger.bind(**ours).error("lost")
    else:
        logger.error("lost", **ours)

    (line,) = log_lines()
    assert (line["event"], line["level"]) == ("lost", "error")
    assert line["timestamp"] != "noon"
    assert {key: line[f"{key}_"] for key in ours} == ours


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(
    "logger", [logging.getLogger("library"), structlog.get_logger()], ids=["library", "structlog"]
)
def test_the_stack_is_written_where_it_is_wanted(
    logger: Any, log_format: LogFormat, capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logging(level="INFO", log_format=log_format)

    logger.error("here", stack_info=True)
    logger.error("there", stack_info=False)

    here, there = capfd.readouterr().out.split("there")
    assert "test_the_stack_is_written" in here
    assert "log.py" not in here.replace("test_log.py", "")
    assert "stack" not in there
    if log_format == "json":
        assert "test_log.py" in json.loads(here.splitlines()[0])["stack"]
    else:
        assert all(line.startswith("    ") for line in here.splitlines()[1:-1])


class Broken:
    """A value without a text."""

    def __repr__(self) -> str:
        raise RuntimeError


def _circular() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["itself"] = value
    return value


def _deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


BEYOND_JSON: Final[dict[str, Any]] = {
    "bytes": b"\xff",
    "bytes in a list": [1, b"\xff"],
    "a lone surrogate": "a \ud800",
    "one in a key": {"a \ud800": 1},
    "circular": _circular(),
    "deep": _deep(),
    "broken": Broken(),
    "broken in a set": {Broken()},
}


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("value", BEYOND_JSON.values(), ids=BEYOND_JSON)
def test_a_value_that_can_not_be_written_leaves_the_others(
    value: Any, log_format: LogFormat, capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logging(level="INFO", log_format=log_format)

    structlog.get_logger().info("got", value=value, number=float("nan"), names={"one"}, size=3)

    (written,) = capfd.readouterr().out.splitlines()
    assert "got" in written
    if log_format == "json":
        line = json.loads(written, parse_constant=pytest.fail)
        found = (line["level"], line["number"], line["names"], line["size"])
        assert found == ("info", None, ["one"], 3)
        assert isinstance(line["value"], str)


def test_a_long_value_without_a_text_is_written(log_lines: LogLines) -> None:
    configure_logging(level="INFO", log_format="json")

    structlog.get_logger().info("got", path="/leek" * 1000, value=Broken())

    assert [line["event"] for line in log_lines()] == ["got"]


def test_a_name_can_not_forge_a_readable_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(level="INFO", log_format="console")

    structlog.get_logger().info("odd", **{"\nforged\x1b[31m": 1})

    (line,) = capsys.readouterr().out.splitlines()
    assert "\x1b" not in line


def test_what_replaces_standard_output_gets_lines_or_none(log_lines: LogLines) -> None:
    configure_logging(level="INFO", log_format="json")
    text, closed = io.StringIO(), io.StringIO()
    closed.close()

    for output in (text, closed, None):
        with redirect_stdout(output):
            structlog.get_logger().info("one")

    assert json.loads(text.getvalue())["event"] == "one"
    assert log_lines() == []


def test_a_text_that_utf_8_can_not_hold_is_written(log_lines: LogLines) -> None:
    configure_logging(level="INFO", log_format="json")

    structlog.get_logger().info("got", value="a \ud800", **{"\ud801": {"b": "\ud802"}})

    (line,) = log_lines()
    assert line["value"] == "a \\ud800"
    assert line["\\ud801"] == "{'b': '\\ud802'}"


def test_a_traceback_can_not_forge_a_readable_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(level="INFO", log_format="console")

    logging.getLogger("app").error("broken", exc_info=ValueError("a\nforged\x1b[31m\u2028line"))

    first, *others = capsys.readouterr().out.splitlines()
    assert "broken" in first
    assert all(line.startswith("    ") for line in others)
    assert "\x1b" not in "".join(others)


class Odd:
    """A value whose text would begin a line of its own."""

    def __repr__(self) -> str:
        return "\nforged\x1b[31m"


@pytest.mark.parametrize("field", ["value", "exception"])
def test_a_value_can_not_forge_a_readable_line(
    field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(level="INFO", log_format="console")

    structlog.get_logger().info("odd", **{field: Odd()})

    first, *others = capsys.readouterr().out.splitlines()
    assert "odd" in first
    assert all(line.startswith("    ") for line in others)
    assert "\x1b" not in first + "".join(others)


class Terminal(io.TextIOWrapper):
    """Passes for a terminal."""

    def isatty(self) -> bool:
        return True


def written(settings: dict[str, Any], output: io.TextIOWrapper, patch: pytest.MonkeyPatch) -> bytes:
    found = stack_settings(**settings)
    with patch.context() as context:
        context.setattr("sys.stdout", output)
        configure_logging(level=found.log_level, log_format=found.log_format)
        structlog.get_logger().info("ready")
    output.seek(0)
    return bytes(output.buffer.read())


def test_a_line_is_readable_on_a_terminal_and_json_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_terminal = written({}, Terminal(io.BytesIO()), monkeypatch)
    elsewhere = written({}, io.TextIOWrapper(io.BytesIO()), monkeypatch)

    assert not on_terminal.startswith(b"{")
    assert b"ready" in on_terminal
    assert elsewhere.startswith(b"{")


def test_log_format_decides_on_a_terminal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert written({"log_format": "json"}, Terminal(io.BytesIO()), monkeypatch).startswith(b"{")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_line_is_longer_than_its_bound(
    log_format: LogFormat, capfd: pytest.CaptureFixture[str]
) -> None:
    """A client chooses the path, and would choose how much is kept."""
    configure_logging(level="INFO", log_format=log_format)

    structlog.get_logger().info("one", path="/leek" * 1_000_000, parts=["leek"] * 1_000_000)

    (line,) = capfd.readouterr().out.splitlines()
    assert "/leek/leek" in line
    assert "…" in line or r"\u2026" in line
    assert len(line) < 8192


def test_what_is_bound_by_structlog_is_in_each_line(log_lines: LogLines) -> None:
    configure_logging(level="INFO", log_format="json")
    with bound_contextvars(order_id=42):
        structlog.get_logger().info("one")
        logging.getLogger("library").info("another")
    structlog.get_logger().info("later")

    assert [line.get("order_id") for line in log_lines()] == [42, 42, None]


def bound() -> dict[str, Any]:
    return {key: value for key, value in begin_line("info", "now").items() if key in "abc"}


def test_each_task_logs_its_own_value_and_the_request_all_fields() -> None:
    async def work(number: int) -> dict[str, Any]:
        bind(a=number)
        await asyncio.sleep(0)
        bind(b=number)
        return bound()

    async def request() -> None:
        end = begin_fields(c=1)
        seven, eight = await asyncio.gather(work(7), work(8))
        assert seven == {"a": 7, "b": 7, "c": 1}
        assert eight == {"a": 8, "b": 8, "c": 1}
        assert bound() == {"a": 8, "b": 8, "c": 1}
        end()
        assert bound() == {}

    asyncio.run(request())


def test_what_a_task_outside_of_requests_binds_is_its_own() -> None:
    async def work(number: int) -> dict[str, Any]:
        bind(b=number)
        await asyncio.sleep(0)
        return bound()

    async def service() -> None:
        bind(a=1)
        end = begin_fields(c=1)
        end()
        seven, eight = await asyncio.gather(work(7), work(8))
        assert (seven, eight) == ({"a": 1, "b": 7}, {"a": 1, "b": 8})
        assert bound() == {"a": 1}

    asyncio.run(service())


def test_unbind_removes_what_the_whole_request_logs() -> None:
    async def request() -> None:
        begin_fields(c=1)
        bind(a=1)
        token = bind(a=2, b=2)
        unbind(token)
        assert bound() == {"a": 1, "c": 1}

    asyncio.run(request())


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"NO_COLOR": "1"}, False)],
    ids=["terminal", "dumb", "no-color"],
)
def test_colours_are_for_terminals_that_have_them(
    variables: dict[str, str],
    coloured: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert (b"\x1b[" in written({}, Terminal(io.BytesIO()), monkeypatch)) is coloured


def test_the_fields_of_a_request_may_end_in_a_task_of_a_layer() -> None:
    """A layer outside may run the rest of the request in one."""

    def run() -> None:
        end = begin_fields(c=1)
        copy_context().run(end)
        end()

    copy_context().run(run)
