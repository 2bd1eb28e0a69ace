"""Log lines: JSON or readable text, with the fields of the request."""

import json
import logging
import os
import sys
from collections import ChainMap
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from functools import lru_cache
from time import time
from types import MappingProxyType, MethodType
from typing import Annotated, Any, Final, Literal, TextIO, get_args

import orjson
import structlog
from pydantic_core import to_json
from structlog._config import _BUILTIN_DEFAULT_PROCESSORS
from structlog.contextvars import _CONTEXT_VARS, get_contextvars
from structlog.processors import StackInfoRenderer, format_exc_info
from structlog.typing import EventDict

from .core.reading import in_any_case

Render = Callable[[Any, str, EventDict], bytes]
_Format = Literal["auto", "console", "json"]
_Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
LogFormat = Annotated[_Format, in_any_case(*get_args(_Format))]
LogLevel = Annotated[_Level, in_any_case(*get_args(_Level))]

# In a request a dictionary, of which each context that binds has a view; outside of one, neither.
_fields: ContextVar[Mapping[str, object]] = ContextVar(
    "fields of the log line", default=MappingProxyType({})
)
_PLAIN_RECORD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
# Formatting the number for every line would cost half as much as the rest of the line.
_MILLISECONDS: Final = tuple(f".{number:03}+00:00" for number in range(1000))
_LEVELS: Final = {getattr(logging, name): name.lower() for name in get_args(_Level)}
# What each line has, whatever else is in it.
_RESERVED: Final = frozenset({"event", "level", "timestamp"})
# structlog has parameters of these names; `extra` can have any.
_RESERVED_IN_EXTRA: Final = _RESERVED | {"logger", "self"}
_OF_SEVERAL_LINES: Final = ("stack", "exception")
_render_stack: Final = StackInfoRenderer([__name__])
# Pydantic writes these, as it does in responses.
_OF_PYDANTIC: Final = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_LONGEST_TEXT: Final = 2048
_LONGEST_TRACEBACK: Final = 65_536
_OF_SERVERS: Final = [
    logging.getLogger(name)
    for name in (
        *("uvicorn", "uvicorn.error", "uvicorn.access"),
        *("hypercorn.error", "hypercorn.access"),
    )
]
# It logs each changed file; in a log file inside the project, that line is the next change.
_RELOADER: Final = "watchfiles"
# What structlog got here last; your code, an agent or a test can change that at any time.
_given: Final[dict[str, Any]] = {}


def begin_fields(**fields: object) -> Callable[[], None]:
    """
    Begin the fields of a request, with these, and return what ends them.

    Threads and tasks of the request have copies of its context, so they share one dictionary.
    """
    known = _fields.get()
    token = _fields.set({**known, **fields} if known else fields)

    def end() -> None:
        try:
            _fields.reset(token)
        except ValueError:
            return  # of a task in which a layer runs the rest, and whose context ends with it

    return end


def bind(**fields: object) -> Token[Mapping[str, object]]:
    """
    Add `fields` to all further log lines of this request, from its threads and tasks too.

    Of two tasks that bind the same field, each logs its own value. Those that each line has anyway
    get an underscore: `level` is logged as `level_`.
    """
    if not _RESERVED.isdisjoint(fields):
        fields = _apart(fields)
    own, *of_request = _maps(_fields.get())
    for shared in of_request:
        shared.update(fields)
    return _fields.set(ChainMap({**own, **fields}, *of_request))


def unbind(token: Token[Mapping[str, object]]) -> None:
    """Remove the fields of the `bind` that returned `token`."""
    own, *of_request = _maps(_fields.get())
    _fields.reset(token)
    for key in own.keys() - _maps(_fields.get())[0].keys():
        for shared in of_request:
            shared.pop(key, None)


def _maps(bound: Mapping[str, object]) -> list[Any]:
    """Return what was bound in this context, and in a request the fields that all share."""
    if isinstance(bound, ChainMap):
        return bound.maps
    return [{}, bound] if isinstance(bound, dict) else [{}]


def configure_logging(*, level: LogLevel, log_format: LogFormat) -> None:
    """
    Send structlog's and the standard library's lines to standard output, in one format.

    `auto` is `console` on a terminal and `json` elsewhere. If structlog is configured already,
    and not from here, that stays.
    """
    if not _is_configured_elsewhere():
        readable = _is_terminal() if log_format == "auto" else log_format == "console"
        render = _bounded(_console_line() if readable else _json_line)
        processors: list[Any] = [_complete, _Renderer(render)]
        structlog.configure(
            processors=[*processors],  # a list of its own, since structlog's tests change it
            context_class=dict,
            wrapper_class=_any_level(level),
            logger_factory=_StandardOutput,
            cache_logger_on_first_use=False,
        )
        # An agent that wraps methods of loggers, as New Relic's does, exports what passes those.
        methods = vars(structlog.BoundLoggerBase).values()
        if not any(hasattr(method, "__wrapped__") for method in methods):
            _given.update(structlog.get_config(), processors=processors)
    root = logging.getLogger()
    root.handlers = [item for item in root.handlers if not isinstance(item, _RecordWriter)]
    if _ends_in_logging():
        return
    _take_over(root)
    root.addHandler(_RecordWriter())
    root.setLevel(level)
    for logger in _OF_SERVERS:
        # Servers, such as `uvicorn.run(app)`, give it handlers later. A filter stays, and runs
        # before these.
        logger.addFilter(_take_over_servers)
    _take_over_servers()
    logging.getLogger(_RELOADER).setLevel(logging.WARNING)


def _is_configured_elsewhere() -> bool:
    """Return whether structlog has a configuration; an agent of OpenTelemetry only adds to it."""
    processors = structlog.get_config()["processors"]
    added = [item for item in processors if item not in _BUILTIN_DEFAULT_PROCESSORS]
    is_default = bool(added) and all(map(_is_of_opentelemetry, added))
    return structlog.is_configured() and _complete not in processors and not is_default


def _is_of_opentelemetry(item: object) -> bool:
    return type(item).__module__.startswith("opentelemetry.")


def _is_terminal() -> bool:
    # None where standard output is closed.
    return getattr(sys.stdout, "isatty", bool)()


def merge_fields(_: object, __: str, event: EventDict) -> EventDict:
    """Add the fields of the request: a processor for a configuration of your own."""
    return {**_fields.get(), **event}


def _take_over_servers(*_: object) -> bool:
    """Pass the lines of servers to the root, except where they were switched off."""
    for logger in _OF_SERVERS:
        if _take_over(logger):
            logger.propagate = True
    return True


def _take_over(logger: logging.Logger) -> bool:
    """
    Remove handlers that would write to the terminal too, in another format.

    Others stay, such as those of files, of trackers and of tests. A logger without a handler was
    switched off, for example by `--no-access-log`.
    """
    found = [item for item in logger.handlers if _is_of_terminal(item)]
    for handler in found:
        logger.removeHandler(handler)
    return bool(found)


def _is_of_terminal(handler: logging.Handler) -> bool:
    terminal = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    # That of rich, with which some packages log. An exporter may inherit from StreamHandler.
    console = getattr(handler, "console", None)
    writes = type(handler).emit is logging.StreamHandler.emit
    stream = getattr(handler, "stream", None) if writes else getattr(console, "file", None)
    return stream is not None and stream in terminal


def _ends_in_logging() -> bool:
    """Return whether structlog passes its lines to the standard library, whose handlers write."""
    factory = structlog.get_config()["logger_factory"]
    return isinstance(factory, structlog.stdlib.LoggerFactory)


def begin_line(level: str, event: object) -> dict[str, Any]:
    """Return a line with the fields that all have, and those that are bound."""
    bound = _fields.get()
    if _CONTEXT_VARS:  # of which a look at all costs as much as the rest, in vain if none is bound
        bound = {**_apart(get_contextvars()), **bound}
    return {"timestamp": _timestamp(), "level": level, "event": event, **bound}


def line_writer(level: str) -> Callable[[dict[str, Any]], None]:
    """
    Return a function that writes a line that `begin_line` began, as structlog is configured then.

    Where that was done here, it calls no logger of structlog, which would double the cost of a
    line that every request writes.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    output = _StandardOutput()

    def write(line: dict[str, Any]) -> None:
        found = structlog.get_config()
        if found != _given:
            fields = {key: line[key] for key in line if key not in _RESERVED_IN_EXTRA}
            getattr(structlog.get_logger(), level)(line["event"], **fields)
        elif number >= found["wrapper_class"].lowest:
            output.write(found["processors"][-1].render(output, level, line))

    return write


def _any_level(least: LogLevel) -> Any:
    """Return structlog's class of loggers with the levels that libraries define, such as NOTICE."""
    logger: Any = structlog.make_filtering_bound_logger(least)

    class AnyLevel(logger):  # type: ignore[misc]
        lowest = logging.getLevelNamesMapping()[least]

        def log(self, level: int, event: str, *args: Any, **fields: Any) -> Any:
            return super().log(_nearest(level), event, *args, **_named(level) | fields)

        async def alog(self, level: int, event: str, *args: Any, **fields: Any) -> Any:
            return await super().alog(_nearest(level), event, *args, **_named(level) | fields)

    return AnyLevel


def _nearest(level: int) -> int:
    return max((known for known in _LEVELS if known <= level), default=logging.NOTSET)


def _named(level: int) -> dict[str, str]:
    """Return the name of a level that `level` can't have, since what reads the log knows five."""
    return {} if level in _LEVELS else {"levelname": logging.getLevelName(level)}


class _StandardOutput:
    """Writes a line at once, to the current standard output, since tests replace it."""

    # Ends a line that was cut off, as on a full disk, before the next one.
    line_break = b""

    def __init__(self, *_: object) -> None:
        self._stream: TextIO | None = None
        self._descriptor: int | None = None

    def msg(self, line: str | bytes) -> None:
        """Write what a renderer of structlog returns: those of its own return texts."""
        self.write(line.encode("utf-8", "backslashreplace") if isinstance(line, str) else line)

    def write(self, line: bytes) -> None:
        line = left = _StandardOutput.line_break + line + b"\n"
        try:
            stream = sys.stdout
            if stream is not self._stream:
                self._stream = stream
                self._descriptor = _descriptor(stream)
            # Writing to the stream would take three times as long for the same call.
            if self._descriptor is not None:
                while left:
                    left = left[os.write(self._descriptor, left) :]
                if _StandardOutput.line_break:
                    _StandardOutput.line_break = b""
            elif hasattr(stream, "buffer"):
                stream.buffer.write(line)
                stream.buffer.flush()
            else:  # such as io.StringIO
                stream.write(line.decode())
        except (AttributeError, OSError, ValueError):
            if len(left) < len(line):
                _StandardOutput.line_break = b"\n"
            return  # a full disk, a closed pipe, no output; no request may fail because of its line

    debug = info = warning = warn = error = critical = exception = fatal = log = msg


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):  # no file of the operating system, as in tests
        return None


class _RecordWriter(logging.Handler):
    """
    Writes the log records of libraries and of the server as a logger of structlog would.

    Agents that export lines watch both, and have exported a record before it comes here.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if _ends_in_logging():
            return  # it would come back, and other handlers write it
        # New Relic's agent replaces a method of the record.
        extra = {
            key: value
            for key, value in vars(record).items()
            if key not in _PLAIN_RECORD and not isinstance(value, MethodType)
        }
        extra.pop("color_message", None)  # uvicorn's second form of the same message
        if record.stack_info:
            extra["stack"] = record.stack_info
        fields = {"logger": record.name, "exc_info": record.exc_info}
        fields |= _apart(extra, _RESERVED_IN_EXTRA)
        try:
            _write_record(record.levelno, record.getMessage(), fields)
        except structlog.DropEvent:
            return
        except Exception:  # noqa: BLE001 - a line that can't be written must not end a request
            self.handleError(record)


def _write_record(level: int, event: str, fields: dict[str, Any]) -> None:
    """Write a record without the loggers and processors by which agents would export it again."""
    found = structlog.get_config()
    processors = found["processors"]
    if any(map(_is_of_opentelemetry, logging.getLogger().handlers)):
        processors = [item for item in processors if not _is_of_opentelemetry(item)]
    lowest = getattr(found["wrapper_class"], "lowest", None)
    if found["logger_factory"] is not _StandardOutput or lowest is None:
        structlog.wrap_logger(None, processors=processors).log(level, event, **fields)
    elif (number := _nearest(level)) >= lowest:
        output = _StandardOutput()
        line: Any = {"event": event, **_named(level), **fields}
        for process in processors:
            line = process(output, _LEVELS[number], line)
        output.msg(line)


def _apart(fields: Mapping[str, object], reserved: frozenset[str] = _RESERVED) -> dict[str, Any]:
    """Return `fields` with an underscore after each name that is reserved."""
    return {f"{key}_" if key in reserved else key: value for key, value in fields.items()}


def _complete(logger: Any, level: str, event: EventDict) -> EventDict:
    line: EventDict = {**begin_line(level, event.pop("event", None)), **_apart(event)}
    if "stack_info" in line:
        line = _render_stack(logger, level, line)
    return format_exc_info(logger, level, line) if "exc_info" in line else line


def _timestamp() -> str:
    seconds, milliseconds = divmod(int(time() * 1000), 1000)
    return _second(seconds) + _MILLISECONDS[milliseconds]


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _bounded(render: Render) -> Render:
    """Return `render` that shortens long values, since clients choose some, such as the path."""

    def render_bounded(logger: Any, name: str, event: EventDict) -> bytes:
        line = render(logger, name, event)
        if len(line) <= _LONGEST_TEXT:
            return line
        return render(logger, name, {key: _cut(key, value) for key, value in event.items()})

    return render_bounded


def _cut(key: str, value: object) -> object:
    most = _LONGEST_TRACEBACK if key in _OF_SEVERAL_LINES else _LONGEST_TEXT
    text = value if isinstance(value, str) else _text(value, str)
    return value if len(text) <= most else text[:most] + "…"


def _text(value: object, of: Callable[[object], str] = repr) -> str:
    """Return a text in any case, since a line must not end what it is about."""
    try:
        return of(value)
    except Exception:  # noqa: BLE001 - the code of a value can raise anything
        return object.__repr__(value)


class _Renderer:
    """Renders lines as text for loggers of structlog: agents export bytes by their `repr`."""

    def __init__(self, render: Render) -> None:
        self.render = render

    def __call__(self, logger: Any, name: str, event: EventDict) -> str:
        return self.render(logger, name, event).decode()


def _json_line(_: object, __: str, event: EventDict) -> bytes:
    # JSON escapes line breaks and control characters, so a value can't forge a line.
    try:
        # Each request writes a line: pydantic takes three times as long for one.
        return orjson.dumps(event, option=_OF_PYDANTIC)
    except Exception:  # noqa: BLE001 - one field is to blame; the others stay what they are
        fields = (_quoted(key) + b":" + _field(value) for key, value in event.items())
        return b"{" + b",".join(fields) + b"}"


def _field(value: object) -> bytes:
    try:
        return to_json(value, fallback=str, inf_nan_mode="null")
    except Exception:  # noqa: BLE001 - such as bytes or a lone surrogate, which UTF-8 can't hold
        return _quoted(value if isinstance(value, str) else _text(value))


def _quoted(text: str) -> bytes:
    """Return a string of JSON, with the names of lone surrogates, which many readers refuse."""
    return json.dumps(text.encode(errors="backslashreplace").decode()).encode()


def _console_line() -> Render:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    renderer = structlog.dev.ConsoleRenderer(colors=_is_terminal() and not plain)

    def render(logger: Any, name: str, event: EventDict) -> bytes:
        shown = {str(_escaped(key)): _escaped(value) for key, value in event.items()}
        for key in _OF_SEVERAL_LINES:
            if key in event:
                # Indented, so that a message of several lines can't look like log lines.
                lines = _text(event[key], str).splitlines()
                shown[key] = "\n".join(f"    {_escaped(line)}" for line in lines)
        line: Any = renderer(logger, name, shown)
        return str(line).encode("utf-8", "backslashreplace")

    return render


def _escaped(value: object) -> object:
    """Escape control characters, so that a path can't forge a line or control a terminal."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:  # noqa: BLE001 - the renderer would call it again
        return object.__repr__(value)
    return value if text.isprintable() else text.encode("unicode_escape").decode("ascii")
