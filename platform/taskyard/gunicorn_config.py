"""Gunicorn's configuration: ``gunicorn -c python:taskyard.gunicorn_config taskyard.wsgi:app``.

Refuses an address that others can reach while nobody would be asked for a token.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from taskyard import logs
from taskyard import settings as _settings
from taskyard.addresses import is_loopback
from taskyard.errors import ConfigurationError, TaskyardError

try:
    _loaded = _settings.load()
except TaskyardError as error:
    sys.exit(f"taskyard: {error}")

bind = _loaded.bind
worker_class = "taskyard.gunicorn_worker.LingeringWorker"
# One process: its threads wait (long polls, streams, MongoDB), they do not compute. They are made
# when they are needed; each that follows a job holds one, and costs about 0.1 MB.
workers = 1
threads = 400
keepalive = 30
# Streams and long polls hold their connection: a stop does not wait for them.
graceful_timeout = 2
timeout = 60
# Its worker's sign of life, not in the temporary folder: web starts though that is full.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
# The most that gunicorn takes: a long search of letters that are not ASCII is more than its 4,094.
limit_request_line = 8190
accesslog = None
control_socket_disable = True
preload_app = False


def on_starting(server: Any) -> None:
    """Refuse to listen where strangers could act (the master, before it forks). It is asked where
    that is: its own options and ``GUNICORN_CMD_ARGS`` go before what is said here.
    """
    logs.wait_for_no_reader()
    try:
        for address in server.cfg.bind:
            _settings.check(replace(_loaded, bind=address))
        _require_tokens(server.cfg.bind)
    except TaskyardError as error:
        sys.exit(f"taskyard: {error}")


def _require_tokens(addresses: Sequence[str]) -> None:
    """Raises ConfigurationError, StoreUnavailable."""
    from taskyard.store.client import connect

    store = connect(_loaded)
    try:
        open_to_others = [one for one in addresses if not is_loopback(one)]
        if open_to_others and not store.tokens.any():
            raise ConfigurationError(
                f"{open_to_others[0]} can be reached from elsewhere, and there are no tokens yet. "
                "Make one first: taskyard tokens create --role operator"
            )
    finally:
        store.close()
