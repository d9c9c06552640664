"""Serves the application on a port of this process, for tests that need real connections."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from werkzeug.serving import make_server

from taskyard.api.app import create_app
from taskyard.context import Platform


@contextmanager
def served(platform: Platform) -> Iterator[str]:
    """Serve the application while the block runs; yields its address."""
    server = make_server("127.0.0.1", 0, create_app(platform), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
