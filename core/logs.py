"""Logging as every certctl daemon does it: structlog events in snake_case, text on a terminal, JSON otherwise."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(level: str, fmt: str) -> None:
    """Send log lines of ``level`` and above to standard error.

    ``fmt`` is ``text``, ``json`` or empty for "text on a terminal, json otherwise".
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    text = fmt == "text" or (not fmt and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        # Plain, since the traceback of rich, wherever that is installed, shows the values of variables: secrets, too.
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if text
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if text else [structlog.processors.format_exc_info]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        level=max(number, logging.WARNING), stream=sys.stderr, format="%(levelname)s %(name)s %(message)s"
    )
