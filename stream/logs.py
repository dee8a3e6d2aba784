"""Logs as events with fields: `decision k=10 user=ann`, or one JSON object a line."""

import json
import logging
import sys
from typing import Any

_OWN = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message", "data"}


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What `extra=` added to a record."""
    return {key: value for key, value in record.__dict__.items() if key not in _OWN}


class Text(logging.Formatter):
    """For people: time, level, event, fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return " ".join([line, *(f"{key}={value}" for key, value in fields(record).items())])


class Json(logging.Formatter):
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


def configure(level: str, as_json: bool) -> None:
    """Log to stderr; the libraries' own news from WARNING up."""
    handler = logging.StreamHandler(sys.stderr)
    text = Text("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler.setFormatter(Json() if as_json else text)
    logging.basicConfig(level="WARNING", handlers=[handler], force=True)
    for name in ("stream", "agents", "policies", "models"):
        logging.getLogger(name).setLevel(level)
