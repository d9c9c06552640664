"""Celery's configuration as the platform needs it; edit ``celeryconfig.py``, which re-exports it.

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

# For the driver a semicolon may be part of a password, or separate options. For kombu it would
# begin the URL of another broker.
_address, _mark, _options = _uri.partition("?")
broker_url = f"{_BROKER_SCHEME}+{_address.replace(';', '%3B')}{_mark}{_options.replace(';', '&')}"
broker_connection_retry_on_startup = True
# However long an outage takes, nobody has to restart a process after it.
broker_connection_max_retries = None
broker_transport_options: dict[str, Any] = {
    "database": _loaded.database,
    # A tick whose scheduler died while it ran is delivered to another after this long.
    "lease_seconds": 15,
    # All messages are hints or ticks: a publisher does not wait for an election to end.
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

# No pool: a job is an operating-system process of its own, and a tick is short. The processes of a
# pool would have neither the agent's runner nor its connections.
worker_pool = "solo"
worker_prefetch_multiplier = 1
# A worker renews its queues of remote control a few times in this period: five minutes instead of
# Celery's ten seconds, or an idle worker would write for them every three seconds.
control_queue_expires = 300
# Standard error is where events go; Celery must not wrap it into log records of its own.
worker_redirect_stdouts = False

# Our scheduler keeps its table in memory, without a shelve file.
beat_scheduler = "taskyard.scheduler.beat:Scheduler"
beat_schedule = _beat_schedule(_loaded)
