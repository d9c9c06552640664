"""Downloads a job's file from a web server, which may be slow, wrong, or away."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, BinaryIO

import httpx2

from taskyard.agent.fetch import Fetch, Unreachable
from taskyard.errors import BadArchive

#: How long the server may be silent.
SILENCE_SECONDS = 30.0

#: Pauses before the second and the third try.
PAUSES_SECONDS = (1.0, 3.0)

#: Client errors that may be over soon; any other is the answer to what the job asked for.
_NOT_NOW = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)

_NO_ADDRESS = (
    httpx2.InvalidURL,
    httpx2.UnsupportedProtocol,
    httpx2.LocalProtocolError,
    UnicodeError,
)


def download(url: str, target: BinaryIO, fetch: Fetch, *, cap_bytes: int) -> None:
    """Fetch a file into ``target``, bounded in size and silence.

    The job itself can reach whatever this host can, so the address is not restricted here;
    ``docs/security.md`` says so. Raises BadArchive if the address or the file is wrong, Unreachable
    when every try has failed, Unwanted.
    """
    for seconds in PAUSES_SECONDS:
        try:
            return _download(url, target, fetch, cap_bytes)
        except Unreachable:
            fetch.pause(seconds)
    return _download(url, target, fetch, cap_bytes)


def _download(url: str, target: BinaryIO, fetch: Fetch, cap_bytes: int) -> None:
    target.seek(0)
    target.truncate()
    with _client() as client, _judged(fetch):
        extensions = {"trace": lambda event, info: _note(event, info, fetch)}
        with client.stream("GET", url, extensions=extensions) as response:
            response.raise_for_status()
            for piece in response.iter_bytes():
                fetch.check()
                target.write(piece)
                if target.tell() > cap_bytes:
                    raise _wrong(f"is over {cap_bytes} bytes")


def _client() -> httpx2.Client:
    return httpx2.Client(follow_redirects=True, timeout=SILENCE_SECONDS)


def _note(event: str, info: dict[str, Any], fetch: Fetch) -> None:
    """Pass each connection to the fetch, so that it can be stopped while the server is silent."""
    if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
        connection = info["return_value"].get_extra_info("socket")
        if isinstance(connection, socket.socket):
            fetch.reads_from(connection)


@contextmanager
def _judged(fetch: Fetch) -> Iterator[None]:
    """Raise BadArchive where a failure is the job's fault, Unreachable where it is the server's."""
    try:
        yield
    except _NO_ADDRESS as error:
        raise _wrong(f"is no address that can be asked: {error}") from None
    except httpx2.TooManyRedirects:
        raise _wrong("leads through too many redirects") from None
    except httpx2.HTTPStatusError as error:
        status = error.response.status_code
        answer = f"answered {status} {error.response.reason_phrase}".strip()
        if status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _NOT_NOW:
            raise _wrong(answer) from None
        raise Unreachable(f"fileUrl {answer}") from None
    except httpx2.HTTPError as error:
        fetch.check()
        raise Unreachable(f"fileUrl cannot be fetched: {type(error).__name__}") from error


def _wrong(problem: str) -> BadArchive:
    return BadArchive(f"fileUrl {problem}", field="fileUrl")
