"""Serves the application on a port of this process, for tests that need real connections."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from werkzeug.serving import make_server

from taskyard.api.app import create_app
from taskyard.context import Platform


@contextmanager
def served(platform: Platform) -> Iterator[str]:
    """Serve the application while the block runs; yields its address."""
    server = make_server("127.0.0.1", 0, _closing(create_app(platform)), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _closing(app: Any) -> Any:
    """Close every answer, if need be when it is collected: werkzeug's server leaves it open if the
    client resets the connection while the rest of the request is read, as a browser does that goes
    to another page. The file of the answer would be a ResourceWarning in some later test.
    """

    def serve(environ: Any, start_response: Any) -> Iterator[bytes]:
        answer = app(environ, start_response)
        try:
            yield from answer
        finally:
            getattr(answer, "close", lambda: None)()

    return serve
