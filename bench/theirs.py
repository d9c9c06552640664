"""The other sides: the applications in ``bench/peers``, each on a server of its own."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psutil
from bench.clients import CeleryClient, DramatiqClient, FlaskClient, counted
from bench.common import Caller, family, redis_server, started, wait_until
from bench.side import Side
from pymongo import MongoClient

from taskyard.addresses import free_port
from taskyard.embedded import EmbeddedServer


@contextlib.contextmanager
def flask_celery_redis(folder: Path) -> Iterator[Side]:
    """Run Flask + Celery with broker and results on Redis."""
    with _celery_redis(folder) as (env, processes, is_drained), _peers_web(folder, env) as web:
        yield Side(
            connect=lambda: FlaskClient(web[0]),
            is_drained=is_drained,
            processes={"web": web[1], **processes},
            workers=("worker",),
        )


@contextlib.contextmanager
def celery_redis(folder: Path) -> Iterator[Side]:
    """Run Celery on Redis, called directly."""
    with _celery_redis(folder) as (env, processes, is_drained):
        from celery import Celery

        app = Celery(broker=env["PEERS_BROKER"], backend=env["PEERS_BACKEND"], set_as_current=False)
        yield Side(
            connect=lambda: CeleryClient(app),
            is_drained=is_drained,
            processes=processes,
            workers=("worker",),
        )
        app.close()


@contextlib.contextmanager
def flask_celery_mongodb(folder: Path) -> Iterator[Side]:
    """Run Flask + Celery with broker and results on stock MongoDB."""
    with EmbeddedServer(folder / "db") as server:
        parts = urlsplit(server.uri)
        uri = urlunsplit(parts._replace(path="/peers"))
        env = {**os.environ, "PEERS_BROKER": uri, "PEERS_BACKEND": uri}
        with (
            MongoClient[dict[str, Any]](server.uri) as client,
            _celery_worker(folder, env) as worker,
            _peers_web(folder, env) as web,
        ):
            # The stock transport deletes a message when it delivers it, so only stored results
            # show that tasks have ended.
            messages, results = client["peers"]["messages"], client["peers"]["celery_taskmeta"]
            connected, submitted = counted(lambda: FlaskClient(web[0]))
            assert server.pid is not None
            yield Side(
                connect=connected,
                is_drained=lambda: (
                    messages.find_one() is None
                    and results.estimated_document_count() >= submitted()
                ),
                processes={"web": web[1], "worker": worker, "mongod": family(server.pid)},
                workers=("worker",),
            )


@contextlib.contextmanager
def dramatiq_redis(folder: Path) -> Iterator[Side]:
    """Run Dramatiq on Redis, called directly."""
    import redis

    with redis_server(folder) as (port, pid):
        url = f"redis://127.0.0.1:{port}/0"
        os.environ["PEERS_BROKER"] = url
        actor = _fresh_actor()
        command = [sys.executable, "-m", "dramatiq", "bench.peers.dramatiq_app"]
        server = redis.Redis(port=port)
        with started(command, dict(os.environ), folder / "worker.log") as worker:
            wait_until(lambda: len(family(worker.pid)) >= 3, "dramatiq has its processes")
            client = DramatiqClient(actor)
            client.output(client.submit())
            yield Side(
                connect=lambda: DramatiqClient(actor),
                is_drained=lambda: server.hlen("dramatiq:default.msgs") == 0,
                processes={"worker": family(worker.pid), "redis": family(pid)},
                workers=("worker",),
            )
        server.close()


def _fresh_actor() -> Any:
    """Import the actor anew, so that it uses the broker that PEERS_BROKER names now."""
    # ``from bench.peers import`` would return the package's attribute: an earlier round's module.
    sys.modules.pop("bench.peers.dramatiq_app", None)
    return importlib.import_module("bench.peers.dramatiq_app").run


@contextlib.contextmanager
def _celery_redis(
    folder: Path,
) -> Iterator[tuple[dict[str, str], dict[str, list[psutil.Process]], Callable[[], bool]]]:
    import redis

    with redis_server(folder) as (port, pid):
        url = f"redis://127.0.0.1:{port}/0"
        env = {**os.environ, "PEERS_BROKER": url, "PEERS_BACKEND": url}
        server = redis.Redis(port=port)
        with _celery_worker(folder, env) as worker:
            # Late acknowledgement: a message stays in "unacked" until its result is stored.
            yield (
                env,
                {"worker": worker, "redis": family(pid)},
                lambda: server.llen("celery") + server.hlen("unacked") == 0,
            )
        server.close()


@contextlib.contextmanager
def _celery_worker(folder: Path, env: Mapping[str, str]) -> Iterator[list[psutil.Process]]:
    command = [
        *(
            sys.executable,
            "-m",
            "celery",
            "-A",
            "bench.peers.celery_app",
            "worker",
            "-l",
            "WARNING",
        ),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]
    children = os.cpu_count() or 1
    with started(command, env, folder / "worker.log") as worker:
        wait_until(lambda: len(family(worker.pid)) > children, "celery has its children")
        yield family(worker.pid)


@contextlib.contextmanager
def _peers_web(folder: Path, env: Mapping[str, str]) -> Iterator[tuple[str, list[psutil.Process]]]:
    port, workers = free_port(), 2
    command = [
        *(sys.executable, "-m", "gunicorn", "-k", "gthread", "--keep-alive", "30"),
        *("-w", str(workers), "--threads", "8", "-b", f"127.0.0.1:{port}", "bench.peers.web:app"),
    ]
    url = f"http://127.0.0.1:{port}"
    with started(command, env, folder / "web.log") as web:
        wait_until(lambda: len(family(web.pid)) > workers, "gunicorn has its workers")
        wait_until(lambda: _answers(url), "the peers' web answers")
        yield url, family(web.pid)


def _answers(url: str) -> bool:
    caller = Caller(url)
    try:
        return bool(caller.call("GET", "/jobs/none"))
    except OSError:
        return False
    finally:
        caller.close()
