"""Each hard case with the rule in the code that decides it, and a test that fails without the rule.

``python -m tests.hard_cases`` removes the rules, one at a time in a copy of the source, and runs
their tests: it fails if a test still passes. ``test_docs.py`` checks that each rule is where this
table says.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class HardCase:
    """A rule: its module, its text, the text that replaces it, and the test that fails then."""

    name: str
    module: str
    rule: str
    without: str
    test: str


HARD_CASES = (
    HardCase(
        name="an agent that is cut off kills its jobs before their leases end",
        module="agent/keeper.py",
        rule="if now >= line.until and not line.lapsed:",
        without="if False:",
        test="agent/test_presence.py::test_an_agent_that_is_cut_off_ends_its_jobs_before_their_leases",
    ),
    HardCase(
        name="the keeper of an agent that is frozen kills its jobs in time, by its own clock",
        module="agent/keeper.py",
        rule="due = [line.until for line in self._lines.values() if not line.lapsed]",
        without="due: list[float] = []",
        test="agent/test_keeper.py::test_nothing_outlives_its_lease_while_the_agent_is_stopped",
    ),
    HardCase(
        name="an agent that finds no primary lets its jobs go on",
        module="agent/bridge.py",
        rule="is not Reach.ELECTION:",
        without="is not None:",
        test="agent/test_bridge.py::test_jobs_are_extended_while_nobody_can_write",
    ),
    HardCase(
        name="after an outage nothing is expired for one full lease",
        module="scheduler/timeouts.py",
        rule="return held_until is None or held_until <= now",
        without="return True",
        test="scheduler/test_outages.py::test_after_an_outage_nothing_is_expired_for_one_full_lease",
    ),
    HardCase(
        name="a renewal names the leases that it renews",
        module="store/leases.py",
        rule="**_named(leases),",
        without="",
        test="store/test_leases.py::test_renewal_moves_the_lease_of_what_is_named_and_held",
    ),
    HardCase(
        name="a heartbeat that names no jobs renews those that have shown life",
        module="store/leases.py",
        rule='seen = {**mine, "lastSeenAt": {"$exists": True}}',
        without="seen = mine",
        test="store/test_leases.py::test_an_http_agent_renews_what_has_shown_life",
    ),
    HardCase(
        name="a poll whose answer was lost gets the same lease again",
        module="scheduler/polling.py",
        rule="for job in store.live.unheard_of(worker):",
        without="for job in ():",
        test="api/test_worker_half.py::test_a_repeated_poll_after_a_lost_answer_gives_the_same_job_and_lease",
    ),
    HardCase(
        name="a worker that has registered anew does not get that lease again",
        module="store/live.py",
        rule='"agentBoot": worker.boot,',
        without="",
        test="api/test_worker_half.py::test_a_lost_answer_is_not_given_again_to_another_life_of_the_worker",
    ),
    HardCase(
        name="a repeated result is confirmed only when a majority has it",
        module="worker_half.py",
        rule="job = platform.store.jobs.confirmed(lease.job_id) or job",
        without="pass",
        test="api/test_worker_half.py::test_what_is_told_again_is_told_when_a_majority_has_it",
    ),
    HardCase(
        name="an attempt that never showed life is not counted",
        module="jobs/lifecycle.py",
        rule='if job.agent_kind == "http" and job.last_seen_at is None and not _silences(job):',
        without="if False:",
        test="jobs/test_lifecycle.py::test_an_attempt_that_never_started_costs_nothing",
    ),
    HardCase(
        name="an agent that sends no attempt does not get back a job that it lost",
        module="workers/places.py",
        rule='if worker.kind == "http" and not worker.fenced and worker.boot in job.lost_on:',
        without="if False:",
        test="api/test_worker_half.py::test_an_old_result_never_passes_for_a_new_attempts",
    ),
    HardCase(
        name="a write of an old attempt is refused",
        module="jobs/model.py",
        rule="and self.lease_id in (None, job.lease_id)",
        without="",
        test="jobs/test_lifecycle.py::test_a_lease_covers_its_own_attempt_alone",
    ),
    HardCase(
        name="output that was stored for an attempt that is over is removed again",
        module="agent/reporting.py",
        rule="self._store.output.take_back(job.job_id, job.attempts, chunks)",
        without="pass",
        test="agent/test_refused_writes.py::test_output_of_an_agent_that_was_stopped_while_it_stored_it_is_taken_back",
    ),
    HardCase(
        name="output that was counted before its attempt was over is kept",
        module="agent/reporting.py",
        rule="if not self._counts(printed):",
        without="if True:",
        test="agent/test_refused_writes.py::test_output_that_was_counted_before_its_attempt_was_over_is_kept",
    ),
    HardCase(
        name="the last output of an attempt that is over is removed again",
        module="agent/reporting.py",
        rule="output.take_back(lease.job_id, lease.attempt, printed)",
        without="pass",
        test="agent/test_results.py::test_the_last_output_of_an_attempt_that_was_lost_is_removed",
    ),
    HardCase(
        name="an end whose answer was lost does not cost the job its output",
        module="agent/results.py",
        rule="tried=True,",
        without="tried=False,",
        test="agent/test_results.py::test_what_was_ended_before_its_answer_was_lost_keeps_its_output",
    ),
    HardCase(
        name="a worker that has registered anew renews no lease from before",
        module="store/leases.py",
        rule='"agentBoot": worker.boot,',
        without='"agentKind": "http",',
        test="api/test_worker_half.py::test_a_registration_gives_up_what_the_worker_ran_in_its_earlier_life",
    ),
    HardCase(
        name="an agent that was started anew elsewhere stops its jobs and gives them back",
        module="agent/presence.py",
        rule='self._give_up("was started anew")',
        without="pass",
        test="agent/test_presence.py::test_an_agent_that_was_started_anew_elsewhere_gives_up_what_it_ran",
    ),
    HardCase(
        name="a deleted worker is not brought back by its heartbeat",
        module="store/workers.py",
        rule='alive: dict[str, Any] = {"_id": worker_id, "softDeleted": False}',
        without='alive: dict[str, Any] = {"_id": worker_id}',
        test="api/test_worker_half.py::test_a_deleted_worker_stays_away_until_it_registers_again",
    ),
    HardCase(
        name="the holder of the pass lock sees the flag that others raise on it",
        module="store/locks.py",
        rule='if self._locks.update_one({**mine, "again": False}, ended).matched_count:',
        without="if self._locks.update_one(mine, ended).matched_count:",
        test="store/test_others.py::test_a_holder_whose_flag_was_raised_goes_once_more",
    ),
    HardCase(
        name="a worker is kept free for a large job that has waited long",
        module="workers/placement.py",
        rule="floor.reserve(job)",
        without="pass",
        test="workers/test_placement.py::test_a_large_job_that_waited_long_keeps_a_worker_free_for_itself",
    ),
    HardCase(
        name="jobs that one more loss would make poison jobs do not share a worker",
        module="workers/placement.py",
        rule="return not spot.suspects and _has_room(spot, needed)",
        without="return _has_room(spot, needed)",
        test="scheduler/test_losses.py::test_three_losses_in_a_row_make_a_poison_job_and_its_neighbours_do_not_suffer",
    ),
    HardCase(
        name="the whole text of a result becomes the output with the finishing write",
        module="worker_half.py",
        rule='"outputGeneration": generation,',
        without="",
        test="api/test_worker_half.py::test_the_text_of_the_result_replaces_what_was_streamed",
    ),
    HardCase(
        name="retention removes the output of a job before the job",
        module="scheduler/retention.py",
        rule="store.output.delete(job_ids)",
        without="pass",
        test="scheduler/test_retention.py::test_the_output_goes_before_its_job_so_that_a_crash_leaves_no_orphan",
    ),
    HardCase(
        name="a job that does not succeed after a cancel was asked for ends CANCELLED",
        module="jobs/lifecycle.py",
        rule="return _end(verb, job, JobStatus.CANCELLED, at, changes, words, guard)",
        without="return _end(verb, job, JobStatus.FAILED, at, changes, words, guard)",
        test="jobs/test_lifecycle.py::test_a_job_that_was_asked_to_cancel_ends_cancelled",
    ),
    HardCase(
        name="a submit is acknowledged only when a majority has it",
        module="store/failures.py",
        rule='if error.details.get("writeConcernErrors") or codes - {DUPLICATE_KEY}:',
        without="if codes - {DUPLICATE_KEY}:",
        test="failover/test_store.py::test_a_batch_that_failed_is_a_duplicate_an_unknown_or_a_defect",
    ),
    HardCase(
        name="a process that called setsid ends with its job",
        module="agent/keeper.py",
        rule="(pid not in shells and is_orphan_of_it(pid))",
        without="False",
        test="agent/test_keeper.py::test_a_daemon_without_environment_ends_with_its_job_and_spares_others",
    ),
)


def main() -> int:
    """Remove each rule and run its test; returns 1 if a test still passes."""
    unnoticed = []
    for case in HARD_CASES:
        noticed = _is_red_without(case)
        print(f"{'red' if noticed else 'GREEN':>6}  {case.name}", flush=True)
        if not noticed:
            unnoticed.append(case.name)
    print(
        f"{len(HARD_CASES) - len(unnoticed)} of {len(HARD_CASES)} rules are missed when taken out"
    )
    return int(bool(unnoticed))


def _is_red_without(case: HardCase) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(shutil.copytree(ROOT / "platform", Path(folder) / "platform"))
        module = source / "taskyard" / case.module
        module.write_text(module.read_text().replace(case.rule, case.without))
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", f"tests/{case.test}"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(source)},
            capture_output=True,
            text=True,
        )
    # pytest's exit code 1: tests ran and some failed. Other codes say nothing about the rule.
    return ended.returncode == 1


if __name__ == "__main__":
    sys.exit(main())
