"""Requests to the API: the token, retries where they are safe, and answers that are errors."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from taskyard import __version__
from taskyard.addresses import is_loopback
from taskyard.client.config import Connection
from taskyard.errors import ConfigurationError, RequestFailed, ServerUnreachable

#: How often a request that may be sent again is tried. A planned election takes 1 to 3 s, an
#: unplanned one up to 12 s; the API answers 503 after 5 s and asks for a pause of 2 s.
TRIES = 4

#: Statuses of an API without its database, and of a proxy without its API, as during a restart.
AWAY = frozenset({502, 503, 504})

#: The pause after a request that got no answer, as while the API is restarted.
_REFUSED_SECONDS = 0.5

#: Longer than the longest long poll of the API, 60 s.
_READ_SECONDS = 75.0


class Transport:
    """One connection pool to one API, in each process that uses it."""

    def __init__(
        self, connection: Connection, transport: httpx2.BaseTransport | None = None
    ) -> None:
        self.url = connection.url
        self._headers = {"User-Agent": f"taskyard/{__version__}"}
        if connection.token:
            if not (connection.token.isascii() and connection.token.isprintable()):
                raise ConfigurationError(
                    "The token is not one: it has characters that no token has. "
                    "It is TASKYARD_TOKEN, else the one that is saved."
                )
            self._headers["Authorization"] = f"Bearer {connection.token}"
        self._transport = transport
        #: Whether the API has answered before, so that it is known to be there.
        self.has_answered = False
        self._pool = self._opened()
        self._process = os.getpid()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(self, method: str, path: str, *, again: bool = False, **request: Any) -> Any:
        """Return the JSON answer to a request. If it may be sent ``again`` it is, while the API or
        its database is away. Raises RequestFailed, ServerUnreachable.
        """
        for left in reversed(range(TRIES if again else 1)):
            try:
                answer = self._http.request(method, path, **request)
                if answer.status_code not in AWAY or not left:
                    break
                time.sleep(_pause(answer))
            except httpx2.RequestError as error:
                if not left:
                    raise self._unreachable(error) from None
                time.sleep(_REFUSED_SECONDS)
        self._check(answer)
        document = self._document(answer)
        self.has_answered = True
        return document

    def probe(self, path: str, *names: str) -> dict[str, Any]:
        """Return the JSON answer whatever its status, with at least these names in it.
        Raises ServerUnreachable.
        """
        try:
            return self._document(self._http.get(path), *names)
        except httpx2.RequestError as error:
            raise self._unreachable(error) from None

    @contextmanager
    def stream(self, path: str, kind: str = "", **request: Any) -> Iterator[httpx2.Response]:
        """Yield an answer of this media type, to be read as it comes. The request is tried again
        until the answer begins. Raises RequestFailed, ServerUnreachable.
        """
        for left in reversed(range(TRIES)):
            begun = False
            try:
                with self._http.stream("GET", path, **request) as answer:
                    if answer.status_code not in AWAY or not left:
                        if answer.is_error:
                            answer.read()
                        self._check(answer)
                        if kind and _kind(answer) != kind:
                            raise self._stranger(answer)
                        begun = True
                        yield answer
                        return
                pause = _pause(answer)
            except httpx2.RequestError as error:
                if begun or not left:
                    raise self._unreachable(error) from None
                pause = _REFUSED_SECONDS
            time.sleep(pause)

    @property
    def _http(self) -> httpx2.Client:
        """The pool of this process: with its parent's, a forked child would read its answers."""
        if self._process != os.getpid():
            self._pool = self._opened()
            self._process = os.getpid()
        return self._pool

    def _opened(self) -> httpx2.Client:
        try:
            if httpx2.URL(self.url).userinfo:
                # Name and password would be sent in place of the token.
                raise ConfigurationError(
                    "The address has a name or a password in it, and Taskyard takes a token alone: "
                    "TASKYARD_URL without them, and TASKYARD_TOKEN."
                )
            return httpx2.Client(
                base_url=self.url,
                headers=self._headers,
                timeout=httpx2.Timeout(_READ_SECONDS, connect=5),
                transport=self._transport or _direct(self.url),
            )
        except (httpx2.InvalidURL, ValueError) as error:
            raise ConfigurationError(f"{self.url!r} is not an address: {error}") from None
        except OSError as error:
            raise ConfigurationError(
                "TLS cannot be set up: what SSL_CERT_FILE, SSL_CERT_DIR or SSLKEYLOGFILE names "
                f"cannot be used: {error.strerror}."
            ) from None
        except ImportError as error:
            raise ConfigurationError(
                f"The proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names cannot be used: {error}"
            ) from None

    def _check(self, answer: httpx2.Response) -> None:
        """Raise RequestFailed, in the words of the problem document, if the answer is an error.
        Raises ServerUnreachable if it is not the API's.
        """
        if answer.is_success:
            return
        if not answer.is_error:
            raise self._stranger(answer)
        problem = _object(answer)
        detail = problem.get("detail") or f"{answer.status_code} {answer.reason_phrase}"
        raise RequestFailed(answer.status_code, detail, request_id=problem.get("requestId", ""))

    def _document(self, answer: httpx2.Response, *names: str) -> dict[str, Any]:
        document = _object(answer)
        # No answer of the API is empty.
        if not document or any(name not in document for name in names):
            raise self._stranger(answer)
        return document

    def _unreachable(self, error: Exception) -> ServerUnreachable:
        return ServerUnreachable(
            f"Taskyard does not answer at {self.url} ({error}). "
            "Start it with `taskyard up`, or set TASKYARD_URL."
        )

    def _stranger(self, answer: httpx2.Response) -> ServerUnreachable:
        what = answer.headers.get("Location") or _kind(answer)
        said = " ".join((str(answer.status_code), answer.reason_phrase, what)).strip()
        return ServerUnreachable(
            f"What answers at {self.url} is not Taskyard ({said}). "
            "TASKYARD_URL says where Taskyard is."
        )


def _direct(url: str) -> httpx2.BaseTransport | None:
    """Return a transport past every proxy if the URL is on loopback: a proxy would connect to its
    own machine, and would get the token. None for a URL elsewhere, for which the environment may
    name a proxy.
    """
    scheme, _, host = url.partition("://")
    if not is_loopback(host):
        return None
    # Loading trusted certificates takes 20 to 60 ms of each command; without TLS none are needed.
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx2.HTTPTransport(verify=nobody if scheme.lower() == "http" else True)


def _pause(answer: httpx2.Response) -> float:
    """Return the seconds to wait before the next try, as the API asks; 5 at most."""
    after = answer.headers.get("Retry-After", "")
    return min(5.0, float(after)) if after.isdecimal() else 1.0


def _object(answer: httpx2.Response) -> dict[str, Any]:
    """Return the answer's JSON object, or an empty one if it is anything else."""
    try:
        document = answer.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _kind(answer: httpx2.Response) -> str:
    """Return the answer's media type without parameters."""
    return str(answer.headers.get("Content-Type", "")).partition(";")[0].strip().lower()
