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


def _names(record: type[Any]) -> dict[str, str]:
    """Each stored name of ``record`` with its field; the first field is the identity."""
    if record not in _NAMES:
        names = [field.name for field in fields(record)]
        _NAMES[record] = {"_id": names[0]} | {camel(name): name for name in names[1:]}
    return _NAMES[record]


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
    document = {}
    for stored, name in _names(type(record)).items():
        value = getattr(record, name)
        if value is not None:
            document[stored] = list(value) if isinstance(value, tuple) else value
    return document


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
