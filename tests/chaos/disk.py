"""A small disk for one agent's workspaces, which can be filled."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

_SIZE_MB = 16
_PIECE = bytes(2**20)


class SmallDisk:
    """A tmpfs that is mounted at ``folder`` for the duration of a block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    @staticmethod
    def possible() -> bool:
        """Whether we may mount one, as root outside of a strict container may."""
        if os.getuid() != 0:
            return False
        with tempfile.TemporaryDirectory() as folder:
            tried = subprocess.run(_mount(Path(folder)), capture_output=True)
            if tried.returncode == 0:
                subprocess.run(["umount", folder], check=True)
            return tried.returncode == 0

    def __enter__(self) -> SmallDisk:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        subprocess.run(_mount(self.folder), check=True)
        self.folder.chmod(0o700)
        return self

    def __exit__(self, *_: object) -> None:
        # Lazily: a process that is being killed may still have its working directory there.
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def fill(self) -> None:
        """Fill the disk."""
        with self._filler.open("ab", buffering=0) as filler:
            try:
                while True:
                    filler.write(_PIECE)
            except OSError:
                return  # full

    def clear(self) -> None:
        """Free the space again."""
        self._filler.unlink(missing_ok=True)


def _mount(folder: Path) -> list[str]:
    return ["mount", "-t", "tmpfs", "-o", f"size={_SIZE_MB}m", "tmpfs", str(folder)]
