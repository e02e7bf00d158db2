"""Log lines for machines: one JSON object each, with the ids of the run and of the image that they concern."""

import json
import logging
from datetime import UTC, datetime

_IDS = ("flow_run_id", "flow_run_name", "flow_name", "task_run_id", "task_name", "image", "operation", "outcome")


class JsonLines(logging.Formatter):
    """Time in UTC, level, logger, message, those ids that the line has, and the error that it tells of."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: str(getattr(record, name)) for name in _IDS if getattr(record, name, None)},
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)
