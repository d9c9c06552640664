"""The network between an agent and its database can be cut in each way."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.chaos.proxy import Mode, Proxy
from tests.helpers import eventually


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that echoes what it receives."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection:
            while piece := connection.recv(1000):
                connection.sendall(piece)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=1)


def said(connection: socket.socket, words: bytes) -> bytes:
    connection.sendall(words)
    return connection.recv(1000)


def test_what_is_passed_comes_through_both_ways(echo: int) -> None:
    with Proxy(echo) as proxy, connect(proxy) as connection:
        assert said(connection, b"hello") == b"hello"


def test_what_is_dropped_is_accepted_and_never_answered(echo: int) -> None:
    with Proxy(echo) as proxy, connect(proxy) as old:
        assert said(old, b"before") == b"before"
        proxy.set(Mode.DROP)
        with connect(proxy) as new:
            for connection in (old, new):
                with pytest.raises(TimeoutError):
                    said(connection, b"anybody?")


def test_what_is_refused_is_closed_and_works_again_afterwards(echo: int) -> None:
    with Proxy(echo) as proxy, connect(proxy) as old:
        assert said(old, b"before") == b"before"
        proxy.set(Mode.REFUSE)
        eventually(lambda: old.recv(1000) == b"")
        proxy.set(Mode.PASS)
        with connect(proxy) as new:
            assert said(new, b"after") == b"after"
