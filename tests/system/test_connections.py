"""Connections that are reused, at once and after a pause, on a real gunicorn."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from urllib.parse import urlencode, urlsplit

from taskyard.gunicorn_worker import LINGER_MS
from tests.helpers import eventually, waiting_step
from tests.system.conftest import Web


def test_a_connection_is_used_again_at_once_and_after_a_pause(
    start_web: Callable[..., Web],
) -> None:
    web = start_web(TASKYARD_AUTH="off")
    connection = http.client.HTTPConnection(urlsplit(web.url).netloc, timeout=20)
    connection.connect()
    socket = connection.sock
    for _ in range(3):
        for _ in range(20):
            assert answered(connection) == 200
        for _ in range(5 * LINGER_MS):
            waiting_step()
    assert connection.sock is socket, "the connection was closed meanwhile"
    connection.close()


def test_a_client_that_leaves_is_let_go(start_web: Callable[..., Web]) -> None:
    web = start_web(TASKYARD_AUTH="off")
    worker = web.worker()
    clients = [http.client.HTTPConnection(urlsplit(web.url).netloc, timeout=20) for _ in range(10)]
    for client in clients:
        client.connect()
    ports = {client.sock.getsockname()[1] for client in clients}

    def held() -> int:
        return sum(bool(c.raddr) and c.raddr[1] in ports for c in worker.net_connections("tcp"))

    for client in clients:
        assert answered(client) == 200
    assert held() == len(clients)
    for client in clients:
        client.close()
    eventually(lambda: held() == 0)


def test_a_search_of_any_letters_is_not_too_long(start_web: Callable[..., Web]) -> None:
    web = start_web(TASKYARD_AUTH="off")
    # A search may have 1,000 characters, and each of these takes six bytes in a URL.
    query = urlencode({"q": "command:" + "\u0436" * 992, "limit": 200})
    connection = http.client.HTTPConnection(urlsplit(web.url).netloc, timeout=20)
    connection.request("GET", f"/api/jobs/list?{query}")
    assert connection.getresponse().status == 200
    connection.close()


def answered(connection: http.client.HTTPConnection) -> int:
    """Send one request and return its HTTP status."""
    connection.request("GET", "/healthz")
    answer = connection.getresponse()
    answer.read()
    return answer.status
