"""Logs as events with fields: `decision k=10 user=ann`, or one JSON object a line."""

import asyncio
import json
import logging
import sys
from types import TracebackType
from typing import Any

from aiokafka.errors import KafkaError

from stream.errors import LogError

_OWN = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message", "data"}


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What `extra=` added to a record."""
    return {key: value for key, value in record.__dict__.items() if key not in _OWN}


class TextFormatter(logging.Formatter):
    """For people: time, level, event, fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return " ".join([line, *(f"{key}={value}" for key, value in fields(record).items())])


class JsonFormatter(logging.Formatter):
    """For machines: one object a line; what JSON does not know is written as text."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": round(record.created, 3),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line | fields(record), default=str)


class OneLineErrors(logging.Filter):
    """One line for what a broker or a stop does to a library; our mistakes keep their traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == "faust.worker" and record.levelno == logging.CRITICAL:
            return False  # "Reraising": who catches it says it
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, RuntimeError) and str(error) == "Event loop is closed":
            return False  # Faust stops a thread that has ended, as it was to
        if isinstance(error, (KafkaError, LogError, asyncio.CancelledError)):
            record.exc_info = record.exc_text = None
            said = record.getMessage().split("\n", 1)[0]
            record.msg, record.args = said if repr(error) in said else f"{said} ({error!r})", ()
        return True


class RepeatFilter(logging.Filter):
    """aiokafka says the same a hundred times a second while a broker is away: here, every 10 s.

    What it says is told by its format, of which there are some dozens: memory is bounded.

    >>> record = logging.LogRecord("aiokafka", logging.ERROR, "", 0, "no broker", (), None)
    >>> seldom = RepeatFilter()
    >>> seldom.filter(record), seldom.filter(record)
    (True, False)
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("aiokafka"):
            return True
        what = record.name, str(record.msg)
        if record.created < self._said.get(what, -10) + 10:
            return False
        self._said[what] = record.created
        return True


def _log_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        logging.getLogger("stream").critical("ended by an error", exc_info=(kind, error, trace))


def configure(level: str, as_json: bool) -> None:
    """Log to stderr; the libraries' own news from WARNING up."""
    handler = logging.StreamHandler(sys.stderr)
    text = TextFormatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler.addFilter(RepeatFilter())  # before Brief, which writes its own words
    handler.addFilter(OneLineErrors())
    handler.setFormatter(JsonFormatter() if as_json else text)
    logging.basicConfig(level="WARNING", handlers=[handler], force=True)
    if as_json:  # what Python itself would write between the lines, too
        logging.captureWarnings(True)
        sys.excepthook = _log_exception
    for name in ("stream", "agents", "policies", "models"):
        logging.getLogger(name).setLevel(level)
