"""The WSGI application that gunicorn serves: ``taskyard.wsgi:app``."""

from __future__ import annotations

from taskyard import logs, wiring
from taskyard.api import create_app

_settings = wiring.platform().settings
logs.configure(_settings.log_level, _settings.log_format)
app = create_app(wiring.platform())
