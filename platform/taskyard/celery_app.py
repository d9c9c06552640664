"""The Celery app: ``celery -A taskyard.celery_app worker|beat|inspect|status|result``.

A worker that consumes the queue ``scheduler`` runs the ticks; any other worker is an agent.
"""

from __future__ import annotations

import importlib.util
from functools import cached_property
from pathlib import Path
from typing import Any

from celery import Celery, signals

from taskyard import logs, wiring
from taskyard.agent.bootstep import AgentStep
from taskyard.scheduler.bootstep import SchedulerStep
from taskyard.settings import CELERYCONFIG, load


def _settings_module() -> str:
    """The module with Celery's settings: the checkout's ``celeryconfig.py`` if that is what Python
    finds under this name, and never another project's.
    """
    found = importlib.util.find_spec("celeryconfig")
    ours = found and found.origin and Path(found.origin).resolve() == CELERYCONFIG
    return "celeryconfig" if ours else "taskyard.celery_settings"


class _Quiet(Celery):  # type: ignore[misc] # Celery publishes no types
    """An app whose programs print no banner, as with ``-q``: on a full disk, or to a reader that
    has gone, printing it would end them.
    """

    @cached_property
    def Worker(self) -> Any:  # noqa: N802 - Celery's name
        """The program of agents and schedulers."""
        return self._quiet("celery.apps.worker:Worker")

    @cached_property
    def Beat(self) -> Any:  # noqa: N802 - Celery's name
        """The program of beat."""
        return self._quiet("celery.apps.beat:Beat")

    def _quiet(self, program: str) -> Any:
        is_quiet = property(lambda _: True, lambda _, _given: None)
        return self.subclass_with_self(program, quiet=is_quiet)


app = _Quiet("taskyard", include=["taskyard.tasks"])
# Celery does not load a ``celeryconfig`` by itself.
app.config_from_object(_settings_module())
app.steps["worker"].update([AgentStep, SchedulerStep])
app.platform = wiring.platform


# Before the first line of a worker, and before that of beat.
@signals.celeryd_init.connect
@signals.after_setup_logger.connect
def configure_logs(**_: Any) -> None:
    """Send our events to stderr, beside Celery's own lines."""
    logs.never_wait_for_readers()
    settings = load()
    logs.configure(settings.log_level, settings.log_format)
