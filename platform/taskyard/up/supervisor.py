"""Start everything in order, show how it goes, keep it running, stop it all."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from taskyard import settings as settings_module
from taskyard.addresses import free_port
from taskyard.embedded import EmbeddedServer
from taskyard.errors import ConfigurationError, TaskyardError
from taskyard.settings import Settings
from taskyard.store.client import connect
from taskyard.up import access, selfcheck, signals
from taskyard.up.access import Access
from taskyard.up.processes import Child, Children
from taskyard.up.screen import Screen

#: From Ctrl-C to the last child's end. Ten seconds are promised, and mongod needs one or two.
STOP_SECONDS = 7.5

#: How much of ``STOP_SECONDS`` the agent gives to running jobs.
DRAIN_SECONDS = 3

_LOOK_SECONDS = 0.5
_RESTART_PAUSE_SECONDS = 1.0


def run(*, port: int | None, data_dir: Path | None, ephemeral: bool, screen: Screen) -> None:
    """Run the platform until SIGINT or SIGTERM. Raises TaskyardError when it cannot start."""
    with signals.stoppable() as asked_to_stop:
        try:
            settings = _settings(port, data_dir)
            with _data_folder(settings, ephemeral) as here, _database(here, screen) as server:
                uri = server.uri if server else here.mongodb_uri
                here = dataclasses.replace(here, mongodb_uri=uri)
                _run_on(here, server, screen, asked_to_stop)
        except signals.Stopped:
            screen.step("stopped")


def _run_on(
    settings: Settings,
    server: EmbeddedServer | None,
    screen: Screen,
    asked_to_stop: threading.Event,
) -> None:
    with _blaming(server):
        granted = _access(settings)
    children = Children(_environment(settings), screen.logs)
    try:
        children.start()
        with _blaming(server) as check_server:
            _check(granted, children, check_server, screen)
        screen.welcome(granted)
        _watch(children, server, screen, asked_to_stop)
    finally:
        _stop("agent, web, beat and scheduler", partial(children.stop, STOP_SECONDS), screen)


@contextmanager
def _blaming(server: EmbeddedServer | None) -> Iterator[Callable[[], None]]:
    """Report a mongod that has ended, and not the errors that follow from its end. Yields a check
    that does so earlier. Raises EmbeddedServerError.
    """
    check: Callable[[], None] = server.check_alive if server else lambda: None
    try:
        yield check
    except TaskyardError:
        check()
        raise


def _settings(port: int | None, data_dir: Path | None) -> Settings:
    """Return the environment's settings, overridden by the command line's.

    Raises ConfigurationError when the address is invalid or the port is taken.
    """
    settings = settings_module.load()
    host, own_port = _address(settings.bind)
    port = (own_port if port is None else port) or free_port()
    bind = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    _check_port(bind, host, port)
    data_dir = (data_dir or settings.data_dir).absolute()
    return settings_module.check(dataclasses.replace(settings, bind=bind, data_dir=data_dir))


def _address(bind: str) -> tuple[str, int]:
    """Return the host and port of ``bind``: web listens there, and this user's commands go there.
    Raises ConfigurationError.
    """
    try:
        parts = urlsplit(f"//{bind}")
        if parts.hostname and parts.port is not None:
            return parts.hostname, parts.port
    except ValueError:
        pass
    raise ConfigurationError(
        "`taskyard up` listens on a host and a port, such as 127.0.0.1:8000 or [::1]:8000; "
        f"TASKYARD_BIND is {bind!r}."
    )


def _check_port(bind: str, host: str, port: int) -> None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(
            f"Cannot listen on {bind} ({error}). Choose another with --port."
        ) from None


@contextmanager
def _data_folder(settings: Settings, ephemeral: bool) -> Iterator[Settings]:
    if not ephemeral:
        yield settings
        return
    folder = Path(tempfile.mkdtemp(prefix="taskyard-"))
    try:
        yield dataclasses.replace(settings, data_dir=folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _database(settings: Settings, screen: Screen) -> Iterator[EmbeddedServer | None]:
    """Run a MongoDB of our own meanwhile, or yield None if the settings name another one."""
    if settings.mongodb_uri:
        screen.step("using the MongoDB that MONGODB_URI names")
        yield None
        return
    server = EmbeddedServer(settings.data_dir)
    began = time.monotonic()
    server.start(screen.step)
    try:
        screen.step(f"mongod is ready after {time.monotonic() - began:.1f} s")
        yield server
    finally:
        _stop("mongod", server.stop, screen)


def _access(settings: Settings) -> Access:
    """Return an operator's access; connecting also makes the indexes. Raises StoreUnavailable."""
    store = connect(settings)
    try:
        return access.operator_access(store, f"http://{settings.bind}")
    finally:
        store.close()


def _environment(settings: Settings) -> dict[str, str]:
    """Return the children's environment; the user's own token is none of their business."""
    env = {name: value for name, value in os.environ.items() if name != "TASKYARD_TOKEN"}
    env |= {
        "MONGODB_URI": settings.mongodb_uri,
        "TASKYARD_BIND": settings.bind,
        "TASKYARD_DATA_DIR": str(settings.data_dir),
        "PYTHONUNBUFFERED": "1",
    }
    if settings.workspace_dir is not None:
        # The children start in another folder.
        env["TASKYARD_WORKSPACE_DIR"] = str(settings.workspace_dir.absolute())
    env.setdefault("TASKYARD_DRAIN_GRACE_SECONDS", str(DRAIN_SECONDS))
    env.setdefault("TASKYARD_LOG_FORMAT", "text")
    return env


def _check(
    granted: Access, children: Children, check_server: Callable[[], None], screen: Screen
) -> None:
    from taskyard.client import Client

    def check_alive() -> None:
        check_server()
        if dead := children.ended():
            raise _ended_early(dead)

    screen.step("starting web, beat, scheduler and agent")
    with Client(granted.connection.url, granted.connection.token) as client:
        selfcheck.await_parts(client, check_alive, screen.step)
        screen.step(f"running a first job: {selfcheck.COMMAND}")
        try:
            checked = selfcheck.run_first_job(client)
        except selfcheck.AgentBusy as busy:
            screen.step(str(busy))
            return
    screen.step(f"it printed {checked.output!r} and took {checked.milliseconds:.0f} ms")


def _ended_early(dead: Child) -> TaskyardError:
    dead.await_end(time.monotonic())
    lines = "\n".join(f"  {line}" for line in list(dead.kept)[-10:])
    return selfcheck.SelfCheckFailed(
        f"{dead.name} ended with exit code {dead.exit_code} while it started:\n{lines}"
    )


def _watch(
    children: Children,
    server: EmbeddedServer | None,
    screen: Screen,
    asked_to_stop: threading.Event,
) -> None:
    """Restart what ends, until a signal stops us. Raises Stopped, EmbeddedServerError."""
    while not asked_to_stop.wait(_LOOK_SECONDS):
        if server and server.exit_code is not None:
            screen.step(f"mongod ended with exit code {server.exit_code}; starting it again")
            server.restart(screen.step)
        if dead := children.ended():
            screen.step(f"{dead.name} ended with exit code {dead.exit_code}; starting it again")
            asked_to_stop.wait(_RESTART_PAUSE_SECONDS)
            children.restart(dead)
    raise signals.Stopped


def _stop(what: str, stop: Callable[[], None], screen: Screen) -> None:
    """Announce the stop and make it. A second Ctrl-C ends the announcement, which may wait for a
    held terminal, but not the stop, which is bounded in time and leaves nothing behind.
    """
    try:
        screen.step(f"stopping: {what}")
    finally:
        signals.undisturbed(stop)
