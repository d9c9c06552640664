"""All sides by name; entering one starts the system with a server of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from bench.ours import taskyard
from bench.side import Side
from bench.theirs import (
    celery_redis,
    dramatiq_redis,
    flask_celery_mongodb,
    flask_celery_redis,
)

SIDES: dict[str, Callable[[Path], AbstractContextManager[Side]]] = {
    "taskyard": taskyard,
    "flask+celery+redis": flask_celery_redis,
    "flask+celery+mongodb": flask_celery_mongodb,
    "celery+redis": celery_redis,
    "dramatiq+redis": dramatiq_redis,
}
