"""Where workspaces are, which of them other jobs may use, and what is removed."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from taskyard.agent import job_python
from taskyard.agent.agent import Agent
from taskyard.agent.workspace import SURE_SECONDS, WorkspaceRoot, root_of
from taskyard.context import Platform
from taskyard.errors import ConfigurationError
from tests.helpers import eventually


@pytest.mark.parametrize("below", [None, Path("/w")])
def test_agents_have_workspaces_of_their_own_though_they_share_id_or_folder(
    below: Path | None,
) -> None:
    agents = [("one@host", "a:1/x"), ("one@host", "b:2/x"), ("two@host", "a:1/x")]
    assert len({root_of(*agent, below=below) for agent in agents}) == 3
    assert root_of(*agents[0], below=below) == root_of(*agents[0], below=below)


def test_a_host_without_a_temporary_folder_is_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/dev/null/tmp"])
    with pytest.raises(ConfigurationError, match=r"/dev/null/tmp.*TASKYARD_WORKSPACE_DIR"):
        root_of("one@host", "a:1/x")


def test_a_folder_that_is_a_link_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    root = root_of("agent@host", "platform", below=tmp_path / "link")
    with pytest.raises(ConfigurationError, match=r"link is a link.*TASKYARD_WORKSPACE_DIR"):
        WorkspaceRoot(root)


@pytest.mark.parametrize(
    "left", ["work/f", "home/f", "tmp/f", "f", "venv/bin/f", "venv/bin/pip", "venv/pyvenv.cfg"]
)
@pytest.mark.parametrize("is_spare", [False, True])
def test_a_workspace_is_no_other_jobs_though_what_a_job_did_is_hidden_by_its_time(
    left: str, is_spare: bool, tmp_path: Path
) -> None:
    root = WorkspaceRoot(tmp_path / "root")
    workspace = root.create("job-1-a", 1)
    if is_spare:
        assert root.keep(workspace)
        workspace = root.create("job-1-b", 1)
    assert workspace.is_fresh()
    path = workspace.base / left
    # A change within the same tick of the file system's clock could not be seen.
    eventually(lambda: _now(tmp_path) > workspace.base.stat().st_ctime_ns)
    path.write_text("x")
    for changed in (path, path.parent):
        os.utime(changed, (1, 1))
    assert not root.keep(workspace)
    assert workspace.is_empty() == (left != "work/f")


def _now(folder: Path) -> int:
    """Return the time by the file system's clock."""
    with tempfile.NamedTemporaryFile(dir=folder) as probe:
        return Path(probe.name).stat().st_ctime_ns


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


@pytest.mark.parametrize(
    ("is_spare", "taken"), [(False, ""), (True, ""), (True, "venv/pyvenv.cfg"), (True, "tmp")]
)
def test_a_workspace_is_whole_though_what_was_old_has_been_cleared_away(
    taken: str, is_spare: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = WorkspaceRoot(tmp_path / "shared" / "root")
    one = root.create("job-1-a", 1)
    assert not is_spare or root.keep(one)
    _clear(one.base / taken if taken else tmp_path / "shared")
    later = time.monotonic() + SURE_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: later)
    other = root.create("job-1-b", 1)
    assert other.is_fresh()
    assert (tmp_path / "shared" / "root").stat().st_mode & 0o777 == 0o700


def _clear(path: Path) -> None:
    """Remove a path, as programs that clear temporary folders do."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def test_none_is_kept_for_a_next_job_where_there_is_none(tmp_path: Path) -> None:
    root = WorkspaceRoot(tmp_path / "root")
    one, other, late = (root.create(f"job-1-{name}", 1) for name in "abc")
    assert root.keep(one)
    assert root.keep(other)
    root.close()
    assert list((tmp_path / "root").iterdir()) == [late.base]
    assert not root.keep(late)


def test_nothing_is_left_of_a_workspace_that_cannot_be_laid_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = WorkspaceRoot(tmp_path / "root")

    def full(_base: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(job_python, "lay_out", full)
    with pytest.raises(OSError, match="No space left"):
        root.create("job-1-a", 1)
    assert list((tmp_path / "root").iterdir()) == []


def _deep(folder: Path, depth: int) -> None:
    """Create ``depth`` nested folders, with a file in the innermost."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("f", os.O_CREAT, dir_fd=here))
    os.close(here)


def test_an_agent_starts_where_a_job_of_its_earlier_life_left_the_deepest_tree(
    platform: Platform, tmp_path: Path
) -> None:
    own = dataclasses.replace(
        platform, settings=dataclasses.replace(platform.settings, workspace_dir=tmp_path)
    )
    root = root_of("w1", platform.store.identity, below=tmp_path)
    leftover = WorkspaceRoot(root).create("job-1-a", 1)
    _deep(leftover.folder, 5000)
    Agent(own, "w1").runner.drain(0)
    assert not leftover.base.exists()


def test_what_is_mounted_in_a_workspace_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = WorkspaceRoot(tmp_path / "root").create("job-1-a", 1)
    mounted = workspace.folder / "mounted"
    mounted.mkdir()
    (mounted / "precious").touch()
    rename = os.rename

    def refuse(name: str, *arguments: Any, **options: Any) -> None:
        if name == mounted.name:
            # As the kernel does for a mount point.
            raise OSError(errno.EBUSY, "Device or resource busy")
        rename(name, *arguments, **options)

    monkeypatch.setattr(os, "rename", refuse)
    workspace.remove()
    assert [path.name for path in workspace.base.rglob("*") if path.is_file()] == ["precious"]
    assert "agent.workspace_left" in capsys.readouterr().err


def test_a_workspace_is_another_jobs_once_it_is_rid_of_what_was_left_where_the_job_ran(
    tmp_path: Path,
) -> None:
    root = WorkspaceRoot(tmp_path / "root")
    workspace = root.create("job-1-a", 1)
    _deep(workspace.folder, 3)
    workspace.folder.chmod(0)
    assert not root.keep(workspace)
    assert root.keep(workspace.emptied())
    other = root.create("job-1-b", 1)
    assert other.fresh.keys() == workspace.fresh.keys()
    assert other.is_fresh()
    assert list((tmp_path / "root").iterdir()) == [other.base]


@pytest.mark.parametrize("left", ["home/f", "tmp/f", "f", "venv/bin/f", "venv/bin/pip"])
def test_a_workspace_is_no_other_jobs_if_more_than_where_the_job_ran_was_changed(
    left: str, tmp_path: Path
) -> None:
    root = WorkspaceRoot(tmp_path / "root")
    workspace = root.create("job-1-a", 1)
    eventually(lambda: _now(tmp_path) > workspace.base.stat().st_ctime_ns)
    (workspace.folder / "f").touch()
    (workspace.base / left).write_text("x")
    assert not root.keep(workspace.emptied())


def test_where_a_job_ran_is_no_other_jobs_if_something_of_it_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = WorkspaceRoot(tmp_path / "root")
    workspace = root.create("job-1-a", 1)
    (workspace.folder / "f").touch()

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "unlink", refuse)
    assert not root.keep(workspace.emptied())
