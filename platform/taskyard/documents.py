"""Records and documents: snake_case fields here, camelCase in MongoDB and in the API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

Record = TypeVar("Record")


def camel(name: str) -> str:
    """``lease_until`` -> ``leaseUntil``."""
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


_NAMES: dict[type, dict[str, str]] = {}
_STORED: dict[type, dict[str, str]] = {}


def _names(record: type[Any]) -> dict[str, str]:
    """Each stored name of ``record`` with its field; the first field is the identity."""
    if record not in _NAMES:
        names = [field.name for field in fields(record)]
        _NAMES[record] = {"_id": names[0]} | {camel(name): name for name in names[1:]}
    return _NAMES[record]


def _stored(record: type[Any]) -> dict[str, str]:
    """Each field of ``record`` with its stored name."""
    if record not in _STORED:
        _STORED[record] = {name: stored for stored, name in _names(record).items()}
    return _STORED[record]


def to_record(record: type[Record], document: Mapping[str, Any]) -> Record:
    """Build ``record`` from a stored document; fields it does not know are left out."""
    names = _names(record)
    values: dict[str, Any] = {}
    for stored, value in document.items():
        if name := names.get(stored):
            values[name] = tuple(value) if isinstance(value, list) else value
    return record(**values)


def to_document(record: Any) -> dict[str, Any]:
    """The document of ``record``: absent values (None) are left out."""
    stored = _stored(type(record))
    return {
        stored[name]: list(value) if isinstance(value, tuple) else value
        for name, value in vars(record).items()
        if value is not None
    }


def with_values(record: Record, **values: Any) -> Record:
    """``record`` with some fields as given: what ``replace`` does, without building all anew.

    For values that are what the record itself would make of them.
    """
    other = object.__new__(type(record))
    vars(other).update(vars(record), **values)
    return other


def changed(record: Record, changes: Mapping[str, Any], cleared: Iterable[str] = ()) -> Record:
    """``record`` with some stored fields set anew, and some gone."""
    names = _names(type(record))
    values = {
        names[stored]: tuple(value) if isinstance(value, list) else value
        for stored, value in changes.items()
        if stored in names
    }
    values |= {names[stored]: None for stored in cleared if stored in names}
    return replace(record, **values)  # type: ignore[type-var] # every record is a dataclass
