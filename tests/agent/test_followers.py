"""Lines that follow others: each begins once, in the place of the one before it, or not at all."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from taskyard.agent import line as lines
from taskyard.agent import turns
from taskyard.agent.line import Line
from taskyard.agent.loop import Loop
from taskyard.agent.processes import Processes
from taskyard.context import Platform
from tests.agent.conftest import Bench, keepers, until
from tests.helpers import eventually


class Kept:
    """An agent's end of a keeper, which reads no message of the keeper until the test says so."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.processes = Processes(self.loop, self)
        self._listens = False
        self.said: list[tuple[str, str]] = []
        self.opened_pipes: dict[str, Sequence[int]] = {}
        self.processes.start()

    def opened(self, key: str, pipes: Sequence[int]) -> None:
        self.opened_pipes[key] = pipes

    def exited(self, key: str, code: int, printed: Sequence[bytes]) -> None:
        self.said.append((key, f"{code} {b''.join(printed).decode().strip()}".strip()))

    def failed(self, key: str, reason: str, *, is_full: bool = False) -> None:
        self.said.append((key, reason))

    def lapsed(self, key: str) -> None:
        self.said.append((key, "lapsed"))

    def spawn(self, key: str, line: str, *, after: str = "", lives_seconds: float = 60) -> None:
        until = time.monotonic() + lives_seconds
        self.processes.spawn(
            key, line, cwd=Path("/"), env=dict(os.environ), until=until, after=after
        )

    def hear(self, count: int) -> list[tuple[str, str]]:
        """Listen; return all ends so far as (key, what was said), once there are ``count``."""
        self.listen()
        eventually(lambda: len(self.said) >= count)
        return self.said

    def listen(self) -> None:
        """Read the keeper's messages from now on."""
        if not self._listens:
            self.loop.start(lambda: None, lambda: None)
        self._listens = True

    def end(self) -> None:
        self.processes.stop()
        self.loop.stop()
        for pipes in self.opened_pipes.values():
            for fd in pipes:
                os.close(fd)


@pytest.fixture
def kept() -> Iterator[Kept]:
    made = Kept()
    yield made
    made.end()


def test_it_begins_when_the_other_is_over_though_the_agent_does_not_listen(
    kept: Kept, tmp_path: Path
) -> None:
    first, second, go = (tmp_path / name for name in ("first", "second", "go"))
    kept.spawn("a", f"{until(go)}; touch {first}")
    kept.spawn("b", f"test -e {first} && touch {second}", after="a")
    go.touch()
    eventually(second.exists)
    assert kept.hear(2) == [("a", "0"), ("b", "0")]


def test_it_begins_at_once_where_the_other_is_over_already(kept: Kept) -> None:
    kept.spawn("b", "true", after="a")
    assert kept.hear(1) == [("b", "0")]


def test_it_follows_a_line_that_failed_or_was_killed(kept: Kept) -> None:
    kept.spawn("a", "sleep 60")
    kept.spawn("b", "exit 3", after="a")
    kept.processes.signal("a", 9)
    assert kept.hear(2) == [("a", "137"), ("b", "3")]


def test_it_begins_before_that_when_it_is_told_to_and_never_twice(
    kept: Kept, tmp_path: Path
) -> None:
    ran, go = tmp_path / "ran", tmp_path / "go"
    kept.spawn("a", until(go))
    kept.spawn("b", f"echo ran >> {ran}", after="a")
    for _ in range(2):
        kept.processes.start_now("b")
    kept.hear(1)
    go.touch()
    assert kept.hear(2) == [("b", "0"), ("a", "0")]
    kept.processes.start_now("b")
    kept.spawn("c", "true", after="a")
    assert kept.hear(3)[-1] == ("c", "0")
    assert ran.read_text() == "ran\n"


def test_what_is_withdrawn_does_not_begin_and_what_has_begun_is_not_withdrawn(
    kept: Kept, tmp_path: Path
) -> None:
    ran, go = tmp_path / "ran", tmp_path / "go"
    kept.spawn("a", until(go))
    kept.spawn("b", f"touch {ran}", after="a")
    kept.processes.withdraw("b")
    go.touch()
    assert kept.hear(2) == [("b", "it was withdrawn"), ("a", "0")]
    kept.spawn("c", "sleep 0.2; echo c", after="a")
    kept.processes.withdraw("c")
    eventually(lambda: len(kept.said) == 3)
    assert kept.said[-1][1].startswith("0")
    assert not ran.exists()


@pytest.mark.parametrize("is_renewed", [False, True])
def test_it_begins_only_under_a_lease_that_lasts(
    kept: Kept, is_renewed: bool, tmp_path: Path
) -> None:
    go, until_when = tmp_path / "go", time.monotonic() + 0.2
    kept.spawn("a", until(go))
    kept.spawn("b", "true", after="a", lives_seconds=0.2)
    if is_renewed:
        kept.processes.extend(["b"], time.monotonic() + 60)
    eventually(lambda: time.monotonic() > until_when + 0.2)
    go.touch()
    said = kept.hear(2)
    assert said[1] == ("b", "0" if is_renewed else "its lease was over before it began")


def test_it_is_the_first_to_fail_when_the_keeper_dies(kept: Kept) -> None:
    kept.spawn("a", "sleep 60")
    kept.spawn("b", "sleep 60", after="a")
    (keeper,) = eventually(keepers)
    keeper.kill()
    assert kept.hear(2) == [("b", "its keeper process died"), ("a", "its keeper process died")]


# --- followers of followers


def test_a_line_follows_one_that_waits_itself(kept: Kept, tmp_path: Path) -> None:
    order, go = tmp_path / "order", tmp_path / "go"
    kept.spawn("a", f"{until(go)}; echo a >> {order}")
    kept.spawn("b", f"sleep 0.1; echo b >> {order}", after="a")
    kept.spawn("c", f"echo c >> {order}", after="b")
    go.touch()
    assert kept.hear(3) == [("a", "0"), ("b", "0"), ("c", "0")]
    assert order.read_text() == "a\nb\nc\n"


def test_what_follows_a_line_that_is_withdrawn_comes_in_its_stead(
    kept: Kept, tmp_path: Path
) -> None:
    first, go = tmp_path / "first", tmp_path / "go"
    kept.spawn("a", f"{until(go)}; touch {first}")
    kept.spawn("b", "sleep 60", after="a")
    kept.spawn("c", f"test -e {first}", after="b")
    kept.processes.withdraw("b")
    go.touch()
    assert kept.hear(3) == [("b", "it was withdrawn"), ("a", "0"), ("c", "0")]


def test_what_follows_a_line_that_cannot_begin_begins_at_once(kept: Kept) -> None:
    kept.spawn("a", "sleep 0.3")
    kept.spawn("b", "true", after="a", lives_seconds=0.1)
    kept.spawn("c", "true", after="b")
    assert kept.hear(3) == [
        ("a", "0"),
        ("b", "its lease was over before it began"),
        ("c", "0"),
    ]


def test_what_follows_a_line_that_begins_before_stays_behind_it(kept: Kept, tmp_path: Path) -> None:
    second, go = tmp_path / "second", tmp_path / "go"
    kept.spawn("a", until(go))
    kept.spawn("b", f"sleep 0.2; touch {second}", after="a")
    kept.spawn("c", f"test -e {second}", after="b")
    kept.processes.start_now("b")
    kept.hear(2)
    go.touch()
    assert kept.hear(3) == [("b", "0"), ("c", "0"), ("a", "0")]


def test_the_last_is_the_first_to_fail_when_the_keeper_dies(kept: Kept) -> None:
    for key, after in (("a", ""), ("b", "a"), ("c", "b")):
        kept.spawn(key, "sleep 60", after=after)
    (keeper,) = eventually(keepers)
    keeper.kill()
    assert [key for key, _ in kept.hear(3)] == ["c", "b", "a"]


# --- whether the keeper or the agent reads a line's pipes


@pytest.mark.parametrize(
    ("printed", "is_held", "is_little"),
    [
        (b"", False, True),
        (b"hi", False, True),
        (b"x" * lines.LITTLE_BYTES, False, True),
        (b"x" * (lines.LITTLE_BYTES + 1), False, False),
        (b"hi", True, False),
    ],
)
def test_little_is_what_is_complete_and_fits_a_message(
    printed: bytes, is_held: bool, is_little: bool
) -> None:
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    line = Line(job="", key="a", tag=0, began=0, pid=0, until=0, pipes=(out, err), shown_at=0)
    os.write(out_end, printed)
    os.close(out_end)
    if not is_held:
        os.close(err_end)
    assert line.has_printed_little() is is_little
    if is_little:
        assert line.take_printed() == [printed, b""]
    else:
        for fd in [*line.give_pipes(), *([err_end] if is_held else [])]:
            os.close(fd)
    assert not line.pipes


@pytest.mark.parametrize("line", ["{}; echo hi", "head -c 10000 /dev/zero"])
def test_the_pipes_of_what_runs_on_or_prints_much_come_before_its_end(
    kept: Kept, tmp_path: Path, line: str
) -> None:
    go = tmp_path / "go"
    kept.spawn("a", line.format(until(go)))
    kept.listen()
    eventually(lambda: kept.opened_pipes)
    go.touch()
    assert kept.hear(1) == [("a", "0")]
    out, err = kept.opened_pipes["a"]
    assert len(os.read(out, 20_000)) in (3, 10_000)
    assert os.read(err, 1) == b""


# --- jobs that follow each other


@pytest.fixture
def small(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """An agent with one CPU, whose jobs wait up to a minute for a place before it returns them."""
    monkeypatch.setattr(turns, "TURN_SECONDS", 60.0)
    made = Bench(platform, tmp_path / "workspaces", cpu_count=1)
    yield made
    made.runner.drain(0)


def test_jobs_that_follow_each_other_never_run_at_once(small: Bench, tmp_path: Path) -> None:
    alone = f"mkdir {tmp_path / 'mark'} && sleep 0.01 && rmdir {tmp_path / 'mark'}"
    leases = small.take(*["true", alone] * 10)
    assert {small.ended(lease).status for lease in leases} == {"COMPLETED"}


def test_a_job_of_many_lines_is_followed_when_its_last_is_over(
    small: Bench, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    long, failing, last = small.take(
        f"sleep 0.1\nsleep 0.1\ntouch {mark}", f"test -e {mark}\nfalse\nsleep 9", "echo hi"
    )
    assert small.ended(long).status == "COMPLETED"
    assert small.ended(failing).error_message == "exit code 1"
    assert small.printed(small.ended(last)) == "hi\n"


def test_a_job_with_two_lines_of_its_own_follows_too(small: Bench) -> None:
    _, lease = small.take("sleep 0.1", "echo one\necho two")
    assert small.printed(small.ended(lease)) == "one\ntwo\n"


def test_a_job_that_is_cancelled_before_it_follows_is_given_back(
    small: Bench, tmp_path: Path
) -> None:
    ran, go = tmp_path / "ran", tmp_path / "go"
    first, second = small.take(until(go), f"touch {ran}")
    _await_follower(small)
    small.runner.cancel(second)
    assert small.await_status(second, "QUEUED").history[-1]["reason"] == "stopped on request"
    go.touch()
    small.ended(first)
    assert not ran.exists()


def test_a_job_whose_lease_is_lost_before_it_follows_does_not_begin(
    small: Bench, tmp_path: Path
) -> None:
    ran, go = tmp_path / "ran", tmp_path / "go"
    first, second = small.take(until(go), f"touch {ran}")
    _await_follower(small)
    small.runner.abandon(second)
    eventually(lambda: small.runner.job_ids() == {first.job_id})
    go.touch()
    small.ended(first)
    assert not ran.exists()


def test_a_job_follows_one_whose_lease_is_lost(small: Bench) -> None:
    first, second, third = small.take("sleep 60", "echo hi", "echo hi")
    _await_follower(small)
    small.runner.abandon(first)
    assert small.printed(small.ended(second)) == small.printed(small.ended(third)) == "hi\n"
    eventually(lambda: not small.runner.job_ids())


def test_a_job_does_not_wait_for_a_long_one_to_be_over(
    small: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.3)
    go = tmp_path / "go"
    first, second = small.take(until(go), "echo hi")
    entry = small.await_status(second, "QUEUED").history[-1]
    assert entry["reason"] == "it does not fit beside what runs on its agent"
    go.touch()
    assert small.ended(first).status == "COMPLETED"


def test_a_job_takes_another_place_that_is_free_before(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", 60.0)
    bench = Bench(platform, tmp_path / "w", cpu_count=2)
    long, short, third, fourth = bench.take("sleep 60", "sleep 0.2", "echo hi", "echo hi")
    assert bench.printed(bench.ended(third)) == bench.printed(bench.ended(fourth)) == "hi\n"
    assert bench.ended(short).status == "COMPLETED"
    assert bench.store.jobs.get(long.job_id).status == "RUNNING"
    bench.runner.drain(0)


def test_a_job_between_two_others_is_cancelled_and_they_run_all_the_same(
    small: Bench, tmp_path: Path
) -> None:
    ran, go = tmp_path / "ran", tmp_path / "go"
    first, second, third = small.take(until(go), f"touch {ran}", "echo hi")
    _await_follower(small, 3)
    small.runner.cancel(second)
    assert small.await_status(second, "QUEUED").history[-1]["reason"] == "stopped on request"
    go.touch()
    assert small.printed(small.ended(third)) == "hi\n"
    assert small.ended(first).status == "COMPLETED"
    assert not ran.exists()


def test_a_job_between_two_others_ends_badly_and_the_next_one_follows(
    small: Bench, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    first, second, third = small.take(until(go), "exit 7", "echo hi")
    _await_follower(small, 3)
    go.touch()
    assert small.ended(second).exit_code == 7
    assert small.printed(small.ended(third)) == "hi\n"
    assert small.ended(first).status == "COMPLETED"


def test_jobs_far_behind_a_long_one_are_given_back_and_the_agent_goes_on(
    small: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.3)
    go = tmp_path / "go"
    long, *others = small.take(until(go), *["echo hi"] * 4)
    for other in others:
        entry = small.await_status(other, "QUEUED").history[-1]
        assert entry["reason"] == "it does not fit beside what runs on its agent"
    go.touch()
    assert small.ended(long).status == "COMPLETED"
    (again,) = small.take("echo hi")
    assert small.printed(small.ended(again)) == "hi\n"


def test_an_agent_that_leaves_gives_back_what_follows(small: Bench, tmp_path: Path) -> None:
    ran, go = tmp_path / "ran", tmp_path / "go"
    first, *others = small.take(until(go), *[f"touch {ran}"] * 3)
    _await_follower(small, 3)
    drain = threading.Thread(target=small.runner.drain, args=[20])
    drain.start()
    for other in others:
        small.await_status(other, "QUEUED")
    go.touch()
    drain.join()
    assert small.store.jobs.get(first.job_id).status == "COMPLETED"
    for other in others:
        assert small.store.jobs.get(other.job_id).history[-1]["reason"] == "its agent is stopping"
    assert not ran.exists()


def test_a_job_that_was_to_follow_is_given_back_when_the_keeper_dies(small: Bench) -> None:
    first, second = small.take("sleep 60", "sleep 60")
    _await_follower(small)
    (keeper,) = eventually(keepers)
    keeper.kill()
    assert small.await_status(second, "QUEUED").history[-1]["verb"] == "release"
    assert "keeper" in str(small.await_status(first, "QUEUED").history[-1]["reason"])


def test_a_job_that_was_to_follow_is_given_back_when_the_keeper_is_gone_already(
    small: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen on a busy machine: the keeper was killed before the follower was sent to it."""
    spawn = Processes.spawn

    def without_keeper(processes: Processes, *args: Any, after: str, **options: Any) -> None:
        if after:
            raise BrokenPipeError("the keeper is not there")
        spawn(processes, *args, after=after, **options)

    monkeypatch.setattr(Processes, "spawn", without_keeper)
    first, second = small.take("sleep 60", "sleep 60")
    assert small.await_status(second, "QUEUED").history[-1]["verb"] == "release"
    assert small.store.jobs.get(first.job_id).status == "RUNNING"


@pytest.mark.parametrize(("lines", "verb"), [("echo hi", "release"), ("true\necho two", "fail")])
def test_a_job_is_given_back_when_the_keeper_is_gone_before_its_first_line(
    small: Bench, monkeypatch: pytest.MonkeyPatch, lines: str, verb: str
) -> None:
    """If one of its lines ran, the attempt has failed: it cannot be resumed in the middle."""
    spawn = Processes.spawn

    def without_keeper(processes: Processes, key: str, line: str, **options: Any) -> None:
        if line != "true":
            raise BrokenPipeError("the keeper is not there")
        spawn(processes, key, line, **options)

    monkeypatch.setattr(Processes, "spawn", without_keeper)
    (job,) = small.take(lines)
    assert small.await_status(job, "QUEUED").history[-1]["verb"] == verb
    monkeypatch.undo()
    (again,) = small.take("echo hi")
    assert small.printed(small.ended(again)) == "hi\n"


def _await_follower(bench: Bench, count: int = 2) -> None:
    """Wait until ``count`` jobs have a workspace: the one that runs and those that follow it."""
    eventually(lambda: len(list(bench.folder.iterdir())) >= count)
