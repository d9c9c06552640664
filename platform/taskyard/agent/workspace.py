"""Workspaces: each attempt gets a fresh folder, and nothing of it stays."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskyard import events
from taskyard.errors import ConfigurationError


def default_root(worker_id: str) -> Path:
    """Where an agent keeps its workspaces: below the system's temporary folder, per user."""
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", worker_id)
    return Path(tempfile.gettempdir()) / f"taskyard-{os.getuid()}" / safe


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The folders of one attempt."""

    base: Path

    @property
    def folder(self) -> Path:
        """Where the job runs and its archive is unpacked; what it leaves here is its result."""
        return self.base / "work"

    @property
    def home(self) -> Path:
        """The job's HOME."""
        return self.base / "home"

    @property
    def tmp(self) -> Path:
        """The job's TMPDIR."""
        return self.base / "tmp"

    def remove(self) -> bool:
        """Remove all of it, whatever the job did to it; False when something is left."""
        # Twice, because a process that is being killed may still write while we remove.
        for _ in range(2):
            shutil.rmtree(self.base, onerror=_open_up)
            if not self.base.exists():
                return True
        events.warn("agent.workspace_left", folder=self.base.name)
        return False


class WorkspaceRoot:
    """The folder that holds the workspaces of one agent."""

    def __init__(self, root: Path) -> None:
        self._root = root
        for folder in (root.parent, root):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_ours(root)

    def create(self, job_id: str, attempt: int) -> Workspace:
        """A fresh workspace for one attempt."""
        base = Path(tempfile.mkdtemp(prefix=f"{job_id}.{attempt}.", dir=self._root))
        workspace = Workspace(base=base)
        for folder in (workspace.folder, workspace.home, workspace.tmp):
            folder.mkdir(mode=0o700)
        return workspace

    def clean_leftovers(self) -> int:
        """Remove what earlier boots of this agent left; returns how many there were."""
        leftovers = [Workspace(base=entry) for entry in self._root.iterdir()]
        for workspace in leftovers:
            workspace.remove()
        return len(leftovers)


def _require_ours(root: Path) -> None:
    """A folder in a shared place that somebody else made first is a trap."""
    for folder in (root.parent, root):
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise ConfigurationError(
                f"The workspace folder {folder} is not this user's own; "
                "set TASKYARD_WORKSPACE_DIR to one that is."
            )


def _open_up(remove: Callable[..., Any], name: str, _: object) -> None:
    """A job may take away its own folders' permissions: give them back, and try once more."""
    path = Path(name)
    try:
        if not path.parent.is_symlink():
            path.parent.chmod(0o700)
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
            shutil.rmtree(path, ignore_errors=True)
        else:
            remove(name)
    except OSError:
        return  # seen afterwards: the workspace is still there
