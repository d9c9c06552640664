"""``python -m tests.upstream kombu|celery [pytest's arguments]``: run their suites on our broker.

Kombu's suite is that of its MongoDB transport. Celery's suite runs on Redis first, and what passes
there must pass on our broker; both runs keep results in Redis, which Celery's tests read directly.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pymongo.uri_parser import parse_uri

from taskyard.broker import SCHEME
from taskyard.embedded import EmbeddedServer
from tests.upstream import sources, suite
from tests.upstream.servers import redis_server

#: The tests that run when no file of theirs is named.
TESTS = {"kombu": "t/integration/test_mongodb.py", "celery": "t/integration"}

#: Load Celery's plugin for pytest; leave out the tests that need Azure and no broker.
CELERY_OPTIONS = ["-p", "celery.contrib.pytest", "--ignore", "t/integration/test_backend.py"]

#: Tests whose outcome differs here by design, and why.
EXPLAINED = {
    "t.integration.test_inspect.test_Inspect::test_scheduled": (
        "a task with an eta waits in the broker, so no worker has it to list"
    ),
    "t.integration.test_canvas.test_chain"
    "::test_chord_header_id_duplicated_on_rabbitmq_msg_duplication[redis-group-ids]": (
        "publishes a signal object as a property, which AMQP drops and JSON cannot carry; "
        "the test expects the same failure of Redis, by name"
    ),
}


def kombu(folder: Path, mongodb_uri: str, tests: Sequence[str]) -> set[str]:
    """Run kombu's suite; returns the failed tests."""
    parsed = parse_uri(mongodb_uri)
    [(host, port)] = parsed["nodelist"]
    environment = {
        "MONGODB_HOST": f"{parsed['username']}:{parsed['password']}@{host}",
        "MONGODB_27017_TCP": str(port),
    }
    ours = suite.run(SCHEME, folder, tests, environment)
    print(ours)
    return ours.named("failed")


def celery(folder: Path, mongodb_uri: str, tests: Sequence[str]) -> set[str]:
    """Run Celery's suite on Redis and on our broker; returns the tests that fail here alone and
    are not EXPLAINED.
    """
    runs = []
    for scheme in ("redis", SCHEME):
        with redis_server() as port:
            backend = f"redis://127.0.0.1:{port}/0"
            environment = {
                "TEST_BROKER": backend if scheme == "redis" else f"{SCHEME}+{mongodb_uri}",
                "TEST_BACKEND": backend,
                "REDIS_HOST": "127.0.0.1",
                "REDIS_PORT": str(port),
                # As in Celery's own CI: some tests read the worker's log.
                "WORKER_LOGLEVEL": "INFO",
            }
            runs.append(suite.run(scheme, folder, [*CELERY_OPTIONS, *tests], environment))
    redis, ours = runs
    print(redis, ours, sep="\n")
    for test in sorted(redis.outcomes.keys() | ours.outcomes.keys()):
        became = [one.outcomes.get(test, "not run") for one in runs]
        if became != ["passed", "passed"] and became != ["skipped", "skipped"]:
            print(f"  {test}: {became[0]} on Redis, {became[1]} here")
            if test in EXPLAINED and became[0] != became[1]:
                print(f"    {EXPLAINED[test]}")
    return ours.named("failed") - redis.named("failed") - EXPLAINED.keys()


def main() -> int:
    """Run one suite; returns 1 if it found failures."""
    parser = argparse.ArgumentParser(prog="python -m tests.upstream", description=__doc__)
    parser.add_argument("suite", choices=["kombu", "celery"])
    arguments, tests = parser.parse_known_args()
    if not any(argument.startswith("t/") for argument in tests):
        tests.append(TESTS[arguments.suite])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(arguments.suite, sources.unpack(arguments.suite, folder), flush=True)
        with EmbeddedServer(folder / "mongod") as server:
            run = kombu if arguments.suite == "kombu" else celery
            failed = run(folder, server.uri, tests)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
