"""MongoDB as a broker for Celery: ``broker_url = "taskyard+mongodb://host/database"``.

Importing this package makes the scheme known to kombu. ``docs/broker.md`` says what it promises.
"""

from __future__ import annotations

from kombu.transport import TRANSPORT_ALIASES

SCHEME = "taskyard"

TRANSPORT_ALIASES[SCHEME] = "taskyard.broker.transport:Transport"
