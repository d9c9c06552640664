"""A minimal virtual environment for each job, made of a few small files.

What a job installs lands in it and goes with the workspace; what the agent's host has installed
can be imported behind it (``docs/decisions/0004-job-python.md``).
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

_PIP = '#!/bin/sh\nexec "$(dirname "$0")/python" -m pip "$@"\n'


def lay_out(base: Path) -> None:
    """Put an environment below ``base``; nothing in it tells where that is."""
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


def _agent_packages() -> list[str]:
    """Where the agent's own packages are: behind the job's, so that the job's come first."""
    return list(dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]))


def _without_agent(path: str) -> list[str]:
    """PATH without the agent's own virtual environment: its scripts run its interpreter."""
    own = f"{sys.prefix}/bin" if sys.prefix != sys.base_prefix else None
    return [part for part in path.split(os.pathsep) if part and part != own]
