"""Gunicorn's configuration: ``gunicorn -c python:taskyard.gunicorn_config taskyard.wsgi:app``.

Refuses an address that other machines can reach while tokens are off or none exists.
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

# Here, because gunicorn writes its first lines before it calls ``on_starting``.
logs.never_wait_for_readers()

try:
    _loaded = _settings.load()
except TaskyardError as error:
    sys.exit(f"taskyard: {error}")

bind = _loaded.bind
worker_class = "taskyard.gunicorn_worker.LingeringWorker"
# One process: its threads wait (long polls, streams, MongoDB), they do not compute. They start when
# they are needed; each client that follows a job holds one, which costs about 0.1 MB.
workers = 1
threads = 400
keepalive = 30
# Streams and long polls hold their connection: a stop does not wait for them.
graceful_timeout = 2
timeout = 60
# The worker's sign of life is not in the temporary folder, so web starts though that is full.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
# The most that gunicorn allows: its default of 4,094 is too short for a long search in non-ASCII.
limit_request_line = 8190
accesslog = None
control_socket_disable = True
preload_app = False


def on_starting(server: Any) -> None:
    """Refuse to listen where strangers could act; called in the master before it forks. The
    addresses are the server's: its own options and ``GUNICORN_CMD_ARGS`` override this module.
    """
    try:
        for address in server.cfg.bind:
            _settings.check(replace(_loaded, bind=address))
        _require_tokens(server.cfg.bind)
    except TaskyardError as error:
        sys.exit(f"taskyard: {error}")


def _require_tokens(addresses: Sequence[str]) -> None:
    """Require that tokens exist if an address is not loopback. Raises ConfigurationError,
    StoreUnavailable.
    """
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
