"""A TCP proxy between one agent and one mongod, which simulates network faults."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from enum import StrEnum

from tests.helpers import waiting_step

_PIECE = 65536


class Mode(StrEnum):
    """How the network behaves."""

    PASS = "pass"
    #: Half-open: connections stay open, but no data passes.
    DROP = "drop"
    #: Connections are reset, and new ones are closed at once.
    REFUSE = "refuse"


class Proxy:
    """Forwards a loopback port to another, as its mode says."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._mode = Mode.PASS
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._close_all()

    def set(self, mode: Mode) -> None:
        """Change the mode. Dropped data is lost, so ``PASS`` after ``DROP`` closes connections."""
        before, self._mode = self._mode, mode
        if mode is Mode.REFUSE or (mode is Mode.PASS and before is Mode.DROP):
            self._close_all()

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return  # closed
            if self._mode is Mode.REFUSE:
                inner.close()
                continue
            self._keep(inner)
            if self._mode is Mode.DROP:
                continue
            try:
                outer = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            except OSError:
                self._drop(inner)
                continue
            outer.settimeout(None)
            self._keep(outer)
            for source, target in ((inner, outer), (outer, inner)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(_PIECE):
                while self._mode is Mode.DROP:
                    waiting_step()
                    if source not in self._open:
                        return
                target.sendall(piece)
        self._drop(source)
        self._drop(target)

    def _keep(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._open.add(connection)

    def _drop(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    def _close_all(self) -> None:
        for connection in list(self._open):
            self._drop(connection)
