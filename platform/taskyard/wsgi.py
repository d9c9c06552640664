"""The WSGI application that gunicorn serves: ``taskyard.wsgi:app``."""

from __future__ import annotations

from taskyard import logs, wiring
from taskyard.api import create_app

logs.configure(wiring.platform().settings.log_level)
app = create_app(wiring.platform())
