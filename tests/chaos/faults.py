"""The faults by name; each is a function that strikes and returns how to heal the fault."""

from __future__ import annotations

import signal
from collections.abc import Callable

import psutil
from pymongo.errors import PyMongoError

from tests.chaos.cluster import Cluster, Program
from tests.chaos.plan import Fault
from tests.chaos.proxy import Mode
from tests.replica_set import Member, fail_command, heal_commands

Heal = Callable[[], None]

#: The ``appName`` of the platform's two MongoDB clients, store and broker.
APP_NAMES = ("taskyard", "taskyard-broker-work")

#: How many commands of a client fail in a row.
_REFUSED = 6
_COMMANDS = ["find", "aggregate", "insert", "update", "findAndModify", "delete"]
KEEPER = "taskyard.agent.keeper"

_WRITES = ["insert", "update", "findAndModify", "delete"]


def strike(cluster: Cluster, fault: Fault) -> Heal | None:
    """Inject the fault; returns how to heal it, or None if there is nothing to heal.

    Raises Impossible if this machine or topology cannot have this fault, or not now.
    """
    return FAULTS[fault.kind](cluster, fault)


class Impossible(Exception):
    """The fault cannot be injected here and now; the message is the reason."""


def _pick(cluster: Cluster, role: str, which: int) -> Program:
    programs = cluster.of(role)
    return programs[which % len(programs)]


def _kill(role: str, *, group: bool) -> Callable[[Cluster, Fault], None]:
    def kill(cluster: Cluster, fault: Fault) -> None:
        _pick(cluster, role, fault.which).send(signal.SIGKILL, group=group)

    return kill


def _pause(role: str) -> Callable[[Cluster, Fault], Heal]:
    """SIGSTOP the main process alone; the processes that it has started run on."""

    def pause(cluster: Cluster, fault: Fault) -> Heal:
        paused = _pick(cluster, role, fault.which)
        pid = paused.pid
        paused.send(signal.SIGSTOP)

        def go_on() -> None:
            if paused.pid == pid:
                paused.send(signal.SIGCONT)

        return go_on

    return pause


def _keeper_kill(cluster: Cluster, fault: Fault) -> None:
    """Kill the keeper, which starts and ends the agent's jobs; the agent must cope at once."""
    agent = _pick(cluster, "agent", fault.which)
    try:
        for child in psutil.Process(agent.pid).children():
            if KEEPER in child.cmdline():
                child.kill()
    except psutil.NoSuchProcess:
        raise Impossible(f"{agent.name} is down now") from None


def _network(mode: Mode) -> Callable[[Cluster, Fault], Heal]:
    def cut(cluster: Cluster, _fault: Fault) -> Heal:
        proxy = cluster.proxy
        if proxy is None:
            raise Impossible("an agent's network can be cut where there is one mongod")
        proxy.set(mode)
        return lambda: proxy.set(Mode.PASS)

    return cut


def _commands(commands: list[str], **data: object) -> Callable[[Cluster, Fault], Heal]:
    """Have the next commands of one of the platform's clients fail in the given way."""

    def refuse(cluster: Cluster, fault: Fault) -> Heal:
        client = cluster.database.client
        app_name = APP_NAMES[fault.which % len(APP_NAMES)]
        try:
            fail_command(client, commands=commands, times=_REFUSED, appName=app_name, **data)
        except PyMongoError as error:
            raise Impossible(f"no primary to tell: {type(error).__name__}") from None

        def heal() -> None:
            try:
                heal_commands(client)
            except PyMongoError:
                return  # a new primary has no such fail point

        return heal

    return refuse


def _step_down(cluster: Cluster, _fault: Fault) -> None:
    if cluster.mongods.primary():
        cluster.mongods.step_down()


def _primary_kill(cluster: Cluster, _fault: Fault) -> Heal:
    return _strike_primary(cluster, signal.SIGKILL, Member.start)


def _primary_pause(cluster: Cluster, _fault: Fault) -> Heal:
    return _strike_primary(cluster, signal.SIGSTOP, lambda m: m.signal(signal.SIGCONT))


def _strike_primary(cluster: Cluster, number: int, mend: Callable[[Member], None]) -> Heal:
    primary = cluster.mongods.primary()
    if primary is None:
        raise Impossible("there is no primary now")
    primary.signal(number)
    return lambda: mend(primary)


def _broker_wipe(cluster: Cluster, _fault: Fault) -> None:
    """Delete all messages of the broker: that may cost time, never a job."""
    try:
        cluster.database["broker.messages"].delete_many({})
    except PyMongoError as error:
        raise Impossible(f"no primary: {type(error).__name__}") from None


def _disk_full(cluster: Cluster, _fault: Fault) -> Heal:
    disk = cluster.disk
    if disk is None:
        raise Impossible("a small disk can be mounted by root alone")
    disk.fill()
    return disk.clear


FAULTS: dict[str, Callable[[Cluster, Fault], Heal | None]] = {
    "web-kill": _kill("web", group=True),
    "beat-kill": _kill("beat", group=True),
    "scheduler-kill": _kill("scheduler", group=True),
    "scheduler-pause": _pause("scheduler"),
    "agent-kill": _kill("agent", group=False),
    "agent-group-kill": _kill("agent", group=True),
    "keeper-kill": _keeper_kill,
    "agent-pause": _pause("agent"),
    "agent-cut-off": _network(Mode.DROP),
    "agent-refused": _network(Mode.REFUSE),
    "not-primary": _commands(_COMMANDS, errorCode=10107),
    "reset": _commands(_COMMANDS, closeConnection=True),
    "no-majority": _commands(
        _WRITES, writeConcernError={"code": 91, "errmsg": "made up by the chaos harness"}
    ),
    "step-down": _step_down,
    "primary-kill": _primary_kill,
    "primary-pause": _primary_pause,
    "broker-wipe": _broker_wipe,
    "disk-full": _disk_full,
}
