"""What the driver's errors mean: MongoDB is away and the outcome unknown, or it is a defect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    CursorNotFound,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
)

from taskyard.errors import StoreUnavailable

#: What is raised while there is no primary, no network or no majority: for web a 503, for agents
#: a reason to try again. A write that raised one of these may have been made or not.
UNAVAILABLE = (
    ConnectionFailure,
    WriteConcernError,
    ExecutionTimeout,
    CursorNotFound,
    StoreUnavailable,
)

DUPLICATE_KEY = 11000
INDEX_NOT_FOUND = 27
NAMESPACE_EXISTS = 48

#: The server's codes for "not now": a member that steps down, shuts down or cannot reach
#: another, a conflict or a time limit. (The driver has classes for some of them only.)
_NOT_NOW = frozenset(
    {6, 7, 43, 50, 64, 89, 91, 100, 112, 133, 134, 189, 262, 9001}
    | {10107, 11600, 11602, 13435, 13436}
)


#: Those for a user that may not: Unauthorized, AuthenticationFailed, and Atlas's own.
_NOT_ALLOWED = frozenset({13, 18, 8000})


def is_unavailable(error: BaseException) -> bool:
    """Whether the same may succeed later: MongoDB is away, and what was asked for is sound."""
    if isinstance(error, BulkWriteError):
        return not _defects(error)
    if isinstance(error, OperationFailure) and error.code in _NOT_NOW:
        return True
    return isinstance(error, UNAVAILABLE)


def is_not_allowed(error: BaseException) -> bool:
    """Whether MongoDB does not let its user in, or not do what was asked."""
    return isinstance(error, OperationFailure) and error.code in _NOT_ALLOWED


@contextmanager
def done_by_another(code: int) -> Iterator[None]:
    """Take for done what the server refuses with this code: another process was faster."""
    try:
        yield
    except OperationFailure as error:
        if error.code != code:
            raise


def accept_duplicates(error: BulkWriteError) -> None:
    """Return if all that failed in a batch is that some ids were there already.

    Raises StoreUnavailable when it is not known whether a majority has the batch, and the error
    itself when it is a defect.
    """
    if _defects(error):
        raise error
    codes = {failed["code"] for failed in error.details["writeErrors"]}
    if error.details.get("writeConcernErrors") or codes - {DUPLICATE_KEY}:
        raise unconfirmed() from error


def unconfirmed() -> StoreUnavailable:
    """It is not known whether a majority has what was written."""
    return StoreUnavailable("MongoDB has not confirmed the writes; try again.")


def first_sentence(error: PyMongoError | ValueError | OSError) -> str:
    """What the driver says, without the whole topologies that it appends."""
    return str(error).split(", Timeout:")[0].split(", full error")[0][:300]


def _defects(error: BulkWriteError) -> bool:
    """Whether something failed that will fail again."""
    expected = _NOT_NOW | {DUPLICATE_KEY}
    return any(failed["code"] not in expected for failed in error.details["writeErrors"])
