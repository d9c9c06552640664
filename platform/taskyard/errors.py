"""Every error that Taskyard raises on purpose, in one tree.

TaskyardError
├── ConfigurationError          a setting that cannot work                 exit 2
│   └── EmbeddedServerError     our own mongod could not be started        exit 3
├── StoreUnavailable            MongoDB does not answer                    503, exit 4
├── NoRoom                      web's host has no room for what is sent    507, exit 1
├── ServerUnreachable           Taskyard's API does not answer                  exit 4
├── RequestFailed               the API refused what the client asked      by its status
├── InvalidRequest              can be read, but makes no sense            422, exit 2
│   ├── UnreadableRequest       cannot be read at all                      400, exit 2
│   ├── BadSearch               a search with an invalid term              422, exit 2
│   ├── BadArchive              a file that is no ZIP, or an unsafe one    400 or 422, exit 2
│   └── TooLarge                over a documented bound                    413, exit 2
├── NotFound                    no such job, worker, file or token         404, exit 6
├── Forbidden                   the caller may not do that                 403, exit 5
├── Unauthenticated             no token, or none that we know             401, exit 5
├── Conflict                    the state does not allow it                409, exit 7
│   └── StaleAttempt            the attempt or its lease is over           409, exit 7
└── Gone                        it was there, and will not come back       410, exit 6

``api/errors.py`` maps ``status`` and ``errors`` to a problem document, ``cli`` maps
``exit_code`` to the process: nothing else turns an error into an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class TaskyardError(Exception):
    """Base of all; its text is written for the person who reads it."""

    status = 500
    exit_code = 1


class ConfigurationError(TaskyardError):
    """A setting that cannot work, found before anything is started."""

    exit_code = 2


class EmbeddedServerError(ConfigurationError):
    """Our own mongod could not be found, started or reached."""

    exit_code = 3


class StoreUnavailable(TaskyardError):
    """MongoDB does not answer, or has no primary at the moment."""

    status = 503
    exit_code = 4


class NoRoom(TaskyardError):
    """The host of web has no room to receive what is sent."""

    status = 507


class ServerUnreachable(TaskyardError):
    """Taskyard's API does not answer."""

    exit_code = 4


class RequestFailed(TaskyardError):
    """The API's answer to a client whose request failed."""

    def __init__(self, status: int, detail: str, *, request_id: str = "") -> None:
        super().__init__(detail)
        self.status = status
        self.request_id = request_id
        self.exit_code = _EXIT_CODES.get(status, 1)


class InvalidRequest(TaskyardError):
    """A request that can be read, but makes no sense; ``field`` names the part at fault."""

    status = 422
    exit_code = 2

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field

    @property
    def errors(self) -> Sequence[Mapping[str, str]]:
        """The problem document's ``errors``: one entry per field at fault."""
        return [{"field": self.field, "message": str(self)}] if self.field else []


class UnreadableRequest(InvalidRequest):
    """A request that cannot be parsed."""

    status = 400


class BadSearch(InvalidRequest):
    """A search with a term that makes no sense; ``position`` counts characters from 1."""

    def __init__(self, term: str, position: int, problem: str) -> None:
        words = f"at {position}, {term}: {problem}" if term else f"at {position}: {problem}"
        super().__init__(words, field="q")
        self.position = position


class BadArchive(InvalidRequest):
    """A ZIP that cannot be read (400) or that must not be unpacked (422)."""

    def __init__(self, message: str, *, field: str | None = "file", readable: bool = True) -> None:
        super().__init__(message, field=field)
        self.status = 422 if readable else 400


class TooLarge(InvalidRequest):
    """A request over a documented bound."""

    status = 413


class NotFound(TaskyardError):
    """There is no job, worker, file or token of this id."""

    status = 404
    exit_code = 6

    def __init__(self, kind: str, identity: str) -> None:
        super().__init__(f"There is no {kind} {identity!r}.")


class Forbidden(TaskyardError):
    """The caller is known, but may not do that."""

    status = 403
    exit_code = 5


class Unauthenticated(TaskyardError):
    """No token was sent, or none that we know."""

    status = 401
    exit_code = 5


class Conflict(TaskyardError):
    """The thing exists in a state that does not allow the request."""

    status = 409
    exit_code = 7


class StaleAttempt(Conflict):
    """A write of an attempt that is over, or whose lease another holds."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"This attempt of {job_id} is over; nothing was changed.")


class Gone(TaskyardError):
    """What was asked for was there, and will not come back by itself."""

    status = 410
    exit_code = 6


#: The exit code of a client's process by the status of the API's answer.
_EXIT_CODES = {
    400: InvalidRequest.exit_code,
    401: Unauthenticated.exit_code,
    403: Forbidden.exit_code,
    404: NotFound.exit_code,
    409: Conflict.exit_code,
    410: Gone.exit_code,
    413: InvalidRequest.exit_code,
    422: InvalidRequest.exit_code,
    # What a proxy answers for an API that does not.
    **dict.fromkeys((502, 504), ServerUnreachable.exit_code),
    503: StoreUnavailable.exit_code,
}
