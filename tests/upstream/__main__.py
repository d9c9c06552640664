"""``python -m tests.upstream kombu|celery [pytest's arguments]``: their suites on our broker.

Kombu's is that of its MongoDB transport. Celery's is run on Redis first, and what passes there
has to pass here; both keep results in Redis, which its tests ask directly.
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

#: What is run when no file of theirs is named.
TESTS = {"kombu": "t/integration/test_mongodb.py", "celery": "t/integration"}

#: What their plugin for pytest registers, and what needs Azure and no broker.
CELERY_OPTIONS = ["-p", "celery.contrib.pytest", "--ignore", "t/integration/test_backend.py"]

#: What is meant to be otherwise here, and why.
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
    """Run kombu's suite; returns what failed."""
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
    """Run Celery's suite on Redis and here; returns what failed here alone, unexplained."""
    runs = []
    for scheme in ("redis", SCHEME):
        with redis_server() as port:
            backend = f"redis://127.0.0.1:{port}/0"
            environment = {
                "TEST_BROKER": backend if scheme == "redis" else f"{SCHEME}+{mongodb_uri}",
                "TEST_BACKEND": backend,
                "REDIS_HOST": "127.0.0.1",
                "REDIS_PORT": str(port),
                # As their own runs have it: some tests read the worker's log.
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
    """Run one suite; 1 when something fails here that does not fail on Redis."""
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
