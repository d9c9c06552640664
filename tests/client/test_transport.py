"""Requests of the client to a stand-in for the API."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from taskyard import Client
from taskyard.errors import ConfigurationError

#: A process that sends a request; then a child that it forks sends one, then it sends another.
FORKS = """
import os, sys
from taskyard import Client

with Client(sys.argv[1], "t") as client:
    client.ready()
    if os.fork():
        os.wait()
    client.ready()
"""


class Api(BaseHTTPRequestHandler):
    """Answers every request, and notes by which connection it came."""

    protocol_version = "HTTP/1.1"
    asked_by: list[int]

    def do_GET(self) -> None:
        self.asked_by.append(self.client_address[1])
        answer = json.dumps({"version": "1", "checks": {}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[ThreadingHTTPServer]:
    Api.asked_by = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_forked_process_asks_by_a_connection_of_its_own(api: ThreadingHTTPServer) -> None:
    """Otherwise one would read the answer to the other: another job's status, or its id."""
    url = f"http://127.0.0.1:{api.server_port}"
    subprocess.run([sys.executable, "-c", FORKS, url], check=True)
    parent, child, again = Api.asked_by
    assert parent == again != child


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", "socks5://127.0.0.1:1", "nonsense://x"])
def test_this_machine_is_asked_past_every_proxy(
    api: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("http_proxy", proxy)
    for host in ("127.0.0.1", "localhost"):
        with Client(f"http://{host}:{api.server_port}", "t") as client:
            assert client.ready()["version"] == "1"


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSLKEYLOGFILE"])
@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "https://taskyard.example"])
def test_certificates_that_cannot_be_read_are_told(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str
) -> None:
    monkeypatch.setenv(name, "/nonexistent/file")
    with pytest.raises(ConfigurationError, match=f"{name}.* No such file"):
        Client(url, "t")


def test_this_machine_is_asked_without_certificates_where_there_is_no_tls(
    api: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading the certificates takes 20 to 60 ms of each command."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent/file")
    with Client(f"http://127.0.0.1:{api.server_port}", "t") as client:
        assert client.ready()["version"] == "1"


def test_a_proxy_that_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    # SOCKS needs a package of its own, which is not there.
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="ALL_PROXY"):
        Client("http://taskyard.example", "t")


@pytest.mark.parametrize("user", ["me:secret@", "secret@", ":secret@"])
def test_an_address_with_a_password_is_told_without_saying_it(user: str) -> None:
    """The password would be sent to the API in place of the token, as a wrong one."""
    with pytest.raises(ConfigurationError, match="a token alone") as told:
        Client(f"http://{user}taskyard.example", "t")
    assert "secret" not in str(told.value)
