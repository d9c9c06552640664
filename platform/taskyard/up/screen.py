"""What ``up`` shows: its own steps, a welcome with lines to copy, then everybody's logs."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from taskyard.up.access import Access

_COLOURS = {"web": "34", "beat": "35", "scheduler": "33", "agent": "32"}


class _Console(Console):
    """A console whose reader may go: then it shows nothing more, and the platform goes on."""

    def print(self, *objects: object, **options: Any) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        """Be quiet from here on; rich would end the program."""
        self.quiet = True


class Screen:
    """Steps and logs on stderr; the URL and the lines to copy on stdout."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._stderr = _Console(stderr=True, highlight=False, soft_wrap=True)
        self._stdout = _Console(highlight=False, soft_wrap=True)
        for console in (self._stderr, self._stdout):
            # With COLUMNS=0 nothing would be shown, and the token is shown once.
            console.width = max(1, console.width)
        self._show_logs = False

    def step(self, text: str) -> None:
        """Show a step of ``up``, with the time since its start."""
        elapsed = time.monotonic() - self._began
        self._stderr.print(Text.assemble((f"{elapsed:6.1f} s  ", "dim"), text))

    def logs(self, name: str, lines: Sequence[str]) -> None:
        """Show lines of a child's log, unless the platform still starts. One write shows them all,
        since one job logs several.
        """
        if not self._show_logs:
            return
        prefix = f"{name:>9} | "
        if self._stderr.color_system:
            prefix = f"\x1b[{_COLOURS.get(name, '0')}m{prefix}\x1b[0m"
        # Our reader may go; the child's pipe must be read all the same, or the child blocks.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write("".join([f"{prefix}{_safe(line)}\n" for line in lines]))
            sys.stderr.flush()

    def welcome(self, granted: Access) -> None:
        """Show where the platform is and how to use it; from here on the logs are shown."""
        url = granted.connection.url
        token = granted.connection.token
        secret = "$(taskyard tokens show)" if granted.saved_to else token
        self._stdout.print()
        self._say("Taskyard is up", url)
        self._say("sign in, once", granted.sign_in_link)
        if granted.is_new:
            self._say("operator token", f"{token}  (shown once; sign in with it)")
        if granted.saved_to:
            self._say("kept for the CLI", str(granted.saved_to))
        else:
            self._say("for the CLI", f"export TASKYARD_URL={url} TASKYARD_TOKEN={token}")
        self._say("run a command", "taskyard run -- 'echo hello; python3 --version'")
        self._say(
            "or over HTTP",
            f'curl -H "Authorization: Bearer {secret}" '
            f"""--json '{{"command": "echo hello"}}' {url}/api/jobs/create""",
        )
        self._say("stop", "Ctrl-C")
        self._stdout.print()
        self._show_logs = True

    def _say(self, name: str, text: str) -> None:
        self._stdout.print(Text.assemble((f"{name:>17}  ", "bold"), text))


def _safe(line: str) -> str:
    """Return the line without characters that would control a terminal."""
    return line if line.isprintable() else "".join(c if c.isprintable() else " " for c in line)
