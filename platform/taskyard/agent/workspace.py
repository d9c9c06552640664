"""Workspaces: each attempt gets a folder with nothing of an earlier one in it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, cast

from taskyard import events
from taskyard.agent import job_python, removal
from taskyard.errors import ConfigurationError


def root_of(worker_id: str, platform_id: str, *, below: Path | None = None) -> Path:
    """Return the folder for an agent's workspaces, ``below`` the configured folder.

    Without that it is below the system's temporary folder, per user. Two platforms on one host may
    both have an agent of that id: each has a folder of its own, and clears its own leftovers.
    Raises ConfigurationError.
    """
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", worker_id)
    digest = hashlib.sha256(platform_id.encode()).hexdigest()[:8]
    try:
        shared = below or Path(tempfile.gettempdir()) / f"taskyard-{os.getuid()}"
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{error.strerror}: each is full, or cannot be written to; "
            "set TASKYARD_WORKSPACE_DIR to one that can."
        ) from None
    return shared / f"{safe}-{digest}"


#: Times of last access and last write (seconds since 1970) of all in a fresh workspace. No clock
#: will show them again, so what a job wrote, added or removed shows by its time, even within one
#: tick of the clock. A job may set that time back, but not the time of that change itself.
_LAID_OUT_AT = (1, 1)

#: The names of workspaces: job, attempt, and a random part.
_NAME = re.compile(r"job-.+\.\d+\.[0-9a-f]{8}")

#: Where a job runs, and all that it is given to write to.
_WORK = "work"
_FOLDERS = (_WORK, "home", "tmp")

#: Unused workspaces that are kept for the next jobs: as many as one claim may bring.
_SPARES = 64

#: A spare that was kept for longer is checked again before it is used: a program that clears old
#: files from temporary folders may have been there.
SURE_SECONDS = 60.0


#: Mode, time of the last write and of the last change of any kind, in nanoseconds.
_Mark = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The folders of one attempt."""

    base: Path
    #: The paths in it when it is fresh, each with its mark.
    fresh: Mapping[str, _Mark] = field(default_factory=dict)

    @cached_property
    def folder(self) -> Path:
        """Where the job runs and its archive is unpacked; what it leaves here is its result."""
        return self.base / _WORK

    @cached_property
    def home(self) -> Path:
        """The job's HOME."""
        return self.base / "home"

    @cached_property
    def tmp(self) -> Path:
        """The job's TMPDIR."""
        return self.base / "tmp"

    def is_empty(self) -> bool:
        """Whether the job left nothing where it ran."""
        return _is_empty(str(self.folder))

    def is_fresh(self, *, but: str = "") -> bool:
        """Whether the job has changed nothing in it, or nothing ``but`` one of its folders."""
        base = f"{self.base}/"
        try:
            for name, mark in self.fresh.items():
                if name != but and _mark(base + name) != mark:
                    return False
        except OSError:
            return False
        # This also finds what was written within one tick of the clock, with the times set back.
        return bool(self.fresh) and all(_is_empty(base + name) for name in _FOLDERS if name != but)

    def emptied(self) -> Workspace:
        """Make the folder where the job ran anew, if that is all that the job changed; return the
        workspace, which is fresh then. Takes long if the job left very much.
        """
        with contextlib.suppress(OSError):
            if self.is_fresh(but=_WORK) and removal.remove(self.folder):
                self.folder.mkdir(mode=0o700)
                renewed = _freshly_marked(self.base, (self.folder, self.base))
                return replace(self, fresh={**self.fresh, **renewed})
        return self

    def under(self, base: Path) -> Workspace:
        """Rename the workspace; return it under its new name. Raises OSError."""
        self.base.rename(base)
        return Workspace(base=base, fresh={**self.fresh, ".": _mark(base)})

    def remove(self) -> None:
        """Remove all of it, whatever the job did to it."""
        if not removal.remove(self.base):
            events.warn("agent.workspace_left", folder=self.base.name)


class WorkspaceRoot:
    """The folder that holds the workspaces of one agent.

    Most jobs use little of a workspace. One that comes back unchanged, but for what is left where
    the job ran, is handed to the next job under a new name: laying out and removing a workspace
    cost more than many a job.
    """

    def __init__(self, root: Path) -> None:
        """Raises ConfigurationError if the folder cannot be made or is another user's."""
        self._root = root
        #: Unused workspaces, each with the monotonic instant since when it is kept.
        self._spares: deque[tuple[Workspace, float]] = deque()
        self._closed = False
        try:
            _make(root)
        except OSError as error:
            raise ConfigurationError(
                f"The workspace folder {root} cannot be made ({error.strerror}); "
                "set TASKYARD_WORKSPACE_DIR to one that can."
            ) from None

    def create(self, job_id: str, attempt: int) -> Workspace:
        """Return a fresh workspace for one attempt."""
        base = self._root / f"{job_id}.{attempt}.{secrets.token_hex(4)}"
        # Several threads take spares, so the last may be gone at any moment.
        with contextlib.suppress(IndexError):
            while True:
                spare, kept_at = self._spares.popleft()
                is_whole = time.monotonic() - kept_at < SURE_SECONDS or spare.is_fresh()
                with contextlib.suppress(OSError):
                    if is_whole:
                        return spare.under(base)
                spare.remove()
        # The root may have been cleared away too, while no job was in it.
        _make(self._root)
        try:
            return _laid_out(base)
        except OSError:
            # On a full disk, half a workspace would stay until the agent is started anew.
            removal.remove(base)
            raise

    def keep(self, workspace: Workspace) -> bool:
        """Keep the workspace for another job if it is unchanged; return whether it is kept."""
        kept = not self._closed and len(self._spares) < _SPARES and workspace.is_fresh()
        if kept:
            self._spares.append((workspace, time.monotonic()))
        return kept

    def scratch(self) -> BinaryIO:
        """A file for the agent's own use, in none of a job's folders; it goes when it is closed."""
        return cast(BinaryIO, tempfile.TemporaryFile(dir=self._root))

    def close(self) -> None:
        """Remove the unused workspaces, and keep none any more: no further jobs come."""
        self._closed = True
        with contextlib.suppress(IndexError):
            while True:
                self._spares.popleft()[0].remove()

    def clean_leftovers(self) -> None:
        """Remove the workspaces that earlier boots of this agent left, and nothing else."""
        for entry in list(self._root.iterdir()):
            if _NAME.fullmatch(entry.name):
                Workspace(base=entry).remove()


def _make(root: Path) -> None:
    for folder in (root.parent, root):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _require_ours(root)


def _laid_out(base: Path) -> Workspace:
    base.mkdir(mode=0o700)
    workspace = Workspace(base=base)
    for name in _FOLDERS:
        (base / name).mkdir(mode=0o700)
    job_python.lay_out(base)
    return replace(workspace, fresh=_freshly_marked(base, [*base.rglob("*"), base]))


def _freshly_marked(base: Path, paths: Iterable[Path]) -> dict[str, _Mark]:
    """Set the times of these paths back, and return their marks by their name below ``base``."""
    fresh: dict[str, _Mark] = {}
    for path in paths:
        os.utime(path, _LAID_OUT_AT, follow_symlinks=False)
        fresh[str(path.relative_to(base))] = _mark(path)
    return fresh


def _mark(path: str | Path) -> _Mark:
    status = os.lstat(path)
    return status.st_mode, status.st_mtime_ns, status.st_ctime_ns


def _is_empty(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def _require_ours(root: Path) -> None:
    """Raise ConfigurationError for a folder of another user, who may have made it as a trap."""
    for folder in (root.parent, root):
        status = folder.lstat()
        if stat.S_ISLNK(status.st_mode):
            raise ConfigurationError(
                f"The workspace folder {folder} is a link, which somebody else might turn; "
                "set TASKYARD_WORKSPACE_DIR to the folder itself."
            )
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise ConfigurationError(
                f"The workspace folder {folder} is not this user's own; "
                "set TASKYARD_WORKSPACE_DIR to one that is."
            )
