"""What the driver's errors mean: MongoDB is unavailable and the outcome unknown, or a defect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pymongo.collection import Collection
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

#: Raised while there is no primary, no network or no majority: web answers 503, agents try again.
#: A write that raised one of these may or may not have been made.
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
#: another, a conflict or a time limit. (The driver has classes for only some of them.)
_NOT_NOW = frozenset(
    {6, 7, 43, 50, 64, 89, 91, 100, 112, 133, 134, 189, 262, 9001}
    | {10107, 11600, 11602, 13435, 13436}
)


#: The codes for a missing permission: Unauthorized, AuthenticationFailed, and Atlas's own.
_NOT_ALLOWED = frozenset({13, 18, 8000})


def is_unavailable(error: BaseException) -> bool:
    """Whether the same request may succeed later: it is sound, and MongoDB is unavailable."""
    if isinstance(error, BulkWriteError):
        return not _defects(error)
    if isinstance(error, OperationFailure) and error.code in _NOT_NOW:
        return True
    return isinstance(error, UNAVAILABLE)


def is_not_allowed(error: BaseException) -> bool:
    """Whether MongoDB refuses its user, or does not allow this user the request."""
    return isinstance(error, OperationFailure) and error.code in _NOT_ALLOWED


@contextmanager
def done_by_another(code: int) -> Iterator[None]:
    """Ignore a refusal with this code: another process has already done the same."""
    try:
        yield
    except OperationFailure as error:
        if error.code != code:
            raise


def accept_duplicates(error: BulkWriteError) -> None:
    """Return if the only failures of a batch are ids that existed already.

    Raises StoreUnavailable when it is not known whether a majority has the batch, and ``error``
    itself when it is a defect.
    """
    if _defects(error):
        raise error
    codes = {failed["code"] for failed in error.details["writeErrors"]}
    if error.details.get("writeConcernErrors") or codes - {DUPLICATE_KEY}:
        raise unconfirmed() from error


def insert_missing(
    collection: Collection[dict[str, Any]], documents: Sequence[dict[str, Any]]
) -> None:
    """Insert documents; those whose id exists already are left as they are. Raises StoreUnavailable
    when it is not known whether a majority has them all.
    """
    if not documents:
        return
    try:
        collection.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        accept_duplicates(error)


def unconfirmed() -> StoreUnavailable:
    """The error for a write that a majority may or may not have."""
    return StoreUnavailable("MongoDB has not confirmed the writes; try again.")


def first_sentence(error: PyMongoError | ValueError | OSError) -> str:
    """The driver's message without the topology that it appends, at most 300 characters."""
    return str(error).split(", Timeout:")[0].split(", full error")[0][:300]


def _defects(error: BulkWriteError) -> bool:
    """Whether some write of the batch would fail again if it were repeated."""
    expected = _NOT_NOW | {DUPLICATE_KEY}
    return any(failed["code"] not in expected for failed in error.details["writeErrors"])
