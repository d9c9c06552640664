"""A job's environment as lines that a person can edit, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping


def as_lines(env: Mapping[str, str]) -> str:
    """``NAME=value`` a line. A value of several lines goes on in lines that begin with a space."""
    entries = (as_shown(f"{name}={value}") for name, value in env.items())
    return "\n".join(entry.replace("\n", "\n ") for entry in entries)


def as_shown(text: str) -> str:
    """Text as a browser's form has it, which knows one end of a line; it sends CR and LF for it."""
    return re.sub(r"\r\n?", "\n", text)


def from_lines(text: str) -> dict[str, str]:
    """The environment; what is no name in it is left to the API's schema to refuse."""
    entries: list[str] = []
    for line in as_shown(text).split("\n"):
        if entries and line.startswith(" "):
            entries[-1] += f"\n{line[1:]}"
        elif line.strip():
            entries.append(line)
    pairs = [entry.partition("=") for entry in entries]
    return {name.strip(): value for name, _, value in pairs}
