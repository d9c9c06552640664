"""Where workspaces are, and what is removed of what is found there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from taskyard.agent.agent import Agent
from taskyard.agent.workspace import WorkspaceRoot, root_of
from taskyard.context import Platform


@pytest.mark.parametrize("below", [None, Path("/w")])
def test_agents_have_workspaces_of_their_own_though_they_share_id_or_folder(
    below: Path | None,
) -> None:
    agents = [("one@host", "a:1/x"), ("one@host", "b:2/x"), ("two@host", "a:1/x")]
    assert len({root_of(*agent, below=below) for agent in agents}) == 3
    assert root_of(*agents[0], below=below) == root_of(*agents[0], below=below)


def test_an_agent_that_starts_removes_its_own_leftovers_and_nothing_else(
    platform: Platform, tmp_path: Path
) -> None:
    shared = dataclasses.replace(
        platform, settings=dataclasses.replace(platform.settings, workspace_dir=tmp_path)
    )
    roots = [root_of(name, platform.store.identity, below=tmp_path) for name in ("w1", "w2")]
    leftover, others = (WorkspaceRoot(root).create("job-1-a", 1) for root in roots)
    kept = [tmp_path / "photos", roots[0] / "photos", others.base]
    for folder in kept:
        folder.mkdir(exist_ok=True)
    Agent(shared, "w1").runner.drain(0)
    assert not leftover.base.exists()
    assert [folder for folder in kept if not folder.exists()] == []
