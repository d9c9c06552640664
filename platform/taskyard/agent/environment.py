"""The environment of a job's processes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from taskyard.agent import job_python, tree
from taskyard.agent.workspace import Workspace


def inherited(passed: Sequence[str]) -> dict[str, str]:
    """Return the variables of the agent's own environment that jobs may see."""
    return {name: os.environ[name] for name in passed if name in os.environ}


def clean_environment(
    kept: Mapping[str, str],
    workspace: Workspace,
    wanted: Mapping[str, str],
    job_id: str,
    attempt: int,
) -> dict[str, str]:
    """Return a job's environment: what it inherits, its own folders, and what it asked for.

    The platform's settings and secrets are not in it. A PATH that the job asks for replaces ours.
    """
    return {
        **kept,
        **job_python.variables(workspace.base, kept.get("PATH", os.defpath)),
        "HOME": str(workspace.home),
        "TMPDIR": str(workspace.tmp),
        "PYTHONUNBUFFERED": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        tree.JOB_VARIABLE: job_id,
        "TASKYARD_ATTEMPT": str(attempt),
        **wanted,
    }
