"""Log lines: one place renders events, as text on a terminal and as JSON elsewhere."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(level: str = "INFO", line_format: str = "") -> None:
    """Send events to stderr, one line each: ``json`` or ``text``, as fits stderr if neither."""
    on_terminal = sys.stderr.isatty()
    as_text = line_format == "text" or (not line_format and on_terminal)
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=on_terminal)
        if as_text
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
