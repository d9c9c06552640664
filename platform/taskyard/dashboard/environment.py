"""Turns a job's environment into lines that a person can edit, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping


def as_lines(env: Mapping[str, str]) -> str:
    """Return ``NAME=value`` lines; further lines of a value begin with a space."""
    entries = (as_shown(f"{name}={value}") for name, value in env.items())
    return "\n".join(entry.replace("\n", "\n ") for entry in entries)


def as_shown(text: str) -> str:
    """Return text with LF as the only end of a line, as a text area has it; browsers send CR LF."""
    return re.sub(r"\r\n?", "\n", text)


def from_lines(text: str) -> dict[str, str]:
    """Return the environment; names are not checked here, but by the API's schema."""
    entries: list[str] = []
    for line in as_shown(text).split("\n"):
        if entries and line.startswith(" "):
            entries[-1] += f"\n{line[1:]}"
        elif line.strip():
            entries.append(line)
    pairs = [entry.partition("=") for entry in entries]
    return {name.strip(): value for name, _, value in pairs}
