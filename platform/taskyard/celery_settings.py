"""Celery's configuration as the platform needs it; ``celeryconfig.py`` re-exports it to edit.

Names are Celery's own. Task results are ignored: the job document is the truth.
"""

from __future__ import annotations

import sys
from typing import Any

from taskyard import settings as _settings
from taskyard.broker import SCHEME as _BROKER_SCHEME
from taskyard.celery_names import SCHEDULER_QUEUE
from taskyard.errors import TaskyardError as _TaskyardError
from taskyard.scheduler.schedule import beat_schedule as _beat_schedule
from taskyard.store.uri import resolve_uri as _resolve_uri

try:
    _loaded = _settings.load()
    _uri = _resolve_uri(_loaded)
except _TaskyardError as error:
    # Celery would show a traceback where one line says all.
    print(f"taskyard: {error}", file=sys.stderr)
    sys.exit(error.exit_code)

# A semicolon is the driver's to read: in a password, or between options. To kombu it begins the
# URL of another broker.
_address, _mark, _options = _uri.partition("?")
broker_url = f"{_BROKER_SCHEME}+{_address.replace(';', '%3B')}{_mark}{_options.replace(';', '&')}"
broker_connection_retry_on_startup = True
# An outage is over when it is over: nobody has to start a process again.
broker_connection_max_retries = None
broker_transport_options: dict[str, Any] = {
    "database": _loaded.database,
    # A tick that was under way when its scheduler died is run by another after this long.
    "lease_seconds": 15,
    # All are hints or ticks: whoever publishes one does not wait for an election to end.
    "publish_seconds": 5,
}
result_backend = f"taskyard.results:JobBackend+{_uri}"
mongodb_backend_settings = {
    "database": _loaded.database,
    "taskmeta_collection": "celery_taskmeta",
    "groupmeta_collection": "celery_groupmeta",
}
result_expires = 24 * 3600

task_serializer = "json"
result_serializer = "json"
accept_content = ["json"]
task_ignore_result = True
task_default_queue = "agents"
task_routes = {
    "taskyard.tick": {"queue": SCHEDULER_QUEUE},
    "celery.backend_cleanup": {"queue": SCHEDULER_QUEUE},
}

# One process holds everything: a job is an operating-system process of its own, and a tick is
# short. A pool of processes would keep neither the agent's runner nor a connection.
worker_pool = "solo"
worker_prefetch_multiplier = 1
# Remote control's queues are kept by their workers a few times in so long: five minutes instead
# of Celery's ten seconds, or an idle worker would write for them every three.
control_queue_expires = 300
# Standard error is where events go; Celery must not wrap it into log records of its own.
worker_redirect_stdouts = False

# It keeps its table in memory: no shelve file.
beat_scheduler = "taskyard.scheduler.beat:Scheduler"
beat_schedule = _beat_schedule(_loaded)
