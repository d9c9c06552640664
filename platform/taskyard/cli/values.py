"""Values with units on the command line, and how durations and ages are shown."""

from __future__ import annotations

import math
import os
import re
import time
from pathlib import Path
from typing import Any

import click

_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_MEGABYTES = {"mb": 1, "m": 1, "mib": 1, "gb": 1024, "g": 1024, "gib": 1024}


class Cpus(click.ParamType[float]):
    """A number of CPUs: 2, 0.5."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; infinity and NaN, which JSON lacks, are refused."""
        number: float = click.FLOAT.convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number of CPUs", param, ctx)
        return number


class Duration(click.ParamType[int]):
    """A duration with its unit, as milliseconds: 500ms, 30s, 5m, 2h, 1d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return milliseconds."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,15}(?:\.\d+)?)(ms|s|m|h|d)", value)
        if match is None:
            self.fail(f"{value!r} needs a unit: 500ms, 30s, 5m, 2h or 1d", param, ctx)
        return round(float(match[1]) * _MILLISECONDS[match[2]])


class Memory(click.ParamType[int]):
    """Memory with its unit, as megabytes: 512MB, 2GB."""

    name = "memory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return megabytes."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,15}(?:\.\d+)?)([a-z]+)", value.lower())
        if match is None or match[2] not in _MEGABYTES:
            self.fail(f"{value!r} needs a unit: 512MB or 2GB", param, ctx)
        return round(float(match[1]) * _MEGABYTES[match[2]])


class Target(click.Path):
    """A file that can be written, as a path; checked before the command begins."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, writable=True, path_type=Path)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        """Return the path."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not os.path.lexists(path) and not _takes_files(path.parent):
            self.fail(f"{path.parent} is no folder that can be written to", param, ctx)
        return path


class Variable(click.ParamType[tuple[str, str]]):
    """NAME=VALUE, as a pair."""

    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Return the name and the value."""
        name, equals, text = value.partition("=")
        if not equals or not name:
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        return name, text


def _takes_files(folder: Path) -> bool:
    # The slash keeps a file from passing for a folder.
    return os.access(f"{folder}/", os.W_OK | os.X_OK)


def took(milliseconds: float) -> str:
    """A duration for people."""
    seconds = milliseconds / 1000
    if seconds < 1:
        return f"{round(milliseconds)} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def ago(epoch_ms: float) -> str:
    """An age for people."""
    return f"{took_since(epoch_ms)} ago"


def roughly_ago(epoch_ms: float) -> str:
    """An age for people, in the 10 characters of a narrow column."""
    seconds = max(0, int(time.time() - epoch_ms / 1000))
    units = (("d", 86_400), ("h", 3_600), ("min", 60))
    unit, size = next((u for u in units if seconds >= u[1]), ("s", 1))
    return f"{seconds // size} {unit} ago"


def took_since(epoch_ms: float) -> str:
    """The time since then, for people."""
    return took(max(0, time.time() * 1000 - epoch_ms))
