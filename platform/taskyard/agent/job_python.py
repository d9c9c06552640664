"""A minimal virtual environment for each job, made of a few small files.

Packages that a job installs go into it and are removed with the workspace. The agent's own packages
can be imported too, after the job's (``docs/decisions/0004-job-python.md``).
"""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

_PIP = '#!/bin/sh\nexec "$(dirname "$0")/python" -m pip "$@"\n'


def lay_out(base: Path) -> None:
    """Make an environment below ``base``. No file in it has that path, so it may be renamed."""
    venv = base / "venv"
    binaries = venv / "bin"
    packages = _packages_below(venv)
    binaries.mkdir(parents=True)
    packages.mkdir(parents=True)
    interpreter = Path(sys._base_executable)  # type: ignore[attr-defined] # what venv itself uses
    for name in ("python", "python3"):
        (binaries / name).symlink_to(interpreter)
    for name in ("pip", "pip3"):
        script = binaries / name
        script.write_text(_PIP)
        script.chmod(0o755)
    (venv / "pyvenv.cfg").write_text(
        f"home = {interpreter.parent}\ninclude-system-site-packages = false\n"
    )
    (packages / "agent-host.pth").write_text("\n".join(_agent_packages()) + "\n")


def variables(base: Path, agent_path: str) -> dict[str, str]:
    """The variables that select the environment below ``base``."""
    return {
        "VIRTUAL_ENV": f"{base}/venv",
        "PATH": os.pathsep.join([f"{base}/venv/bin", *_without_agent(agent_path)]),
    }


def _packages_below(venv: Path) -> Path:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return venv / "lib" / version / "site-packages"


@functools.cache  # it takes longer to find out than to write them down
def _agent_packages() -> Sequence[str]:
    """The folders of the agent's own packages, which are searched after the job's."""
    return tuple(dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]))


def _without_agent(path: str) -> list[str]:
    """Return PATH without the agent's virtual environment, whose scripts use its interpreter."""
    own = f"{sys.prefix}/bin" if sys.prefix != sys.base_prefix else None
    return [part for part in path.split(os.pathsep) if part and part != own]
