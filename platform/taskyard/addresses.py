"""Addresses that a process listens on: a host with a port, or a Unix socket."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from urllib.parse import urlsplit


def is_address(bind: str) -> bool:
    """Whether gunicorn could listen on ``bind``; with an empty one it would listen nowhere."""
    if bind.startswith(("unix:", "fd://")):
        return True
    try:
        _ = urlsplit(f"//{bind}").port
    except ValueError:
        return False
    return bool(bind.strip()) and "/" not in bind


def is_loopback(bind: str) -> bool:
    """Whether ``host:port`` (or a Unix socket) can be reached only from this machine."""
    if bind.startswith("unix:"):
        return True
    try:
        host = urlsplit(f"//{bind}").hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
