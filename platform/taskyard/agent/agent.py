"""The agent of one host: makes its parts, starts them together and drains them."""

from __future__ import annotations

from collections.abc import Callable

from taskyard import events
from taskyard.agent.admission import Admission, capacity_of
from taskyard.agent.claims import Claims
from taskyard.agent.host import Host
from taskyard.agent.presence import Presence
from taskyard.agent.reporting import Reporter
from taskyard.agent.runner import Runner
from taskyard.agent.stages import Stages
from taskyard.agent.turns import Turns
from taskyard.agent.workspace import WorkspaceRoot, root_of
from taskyard.context import Platform
from taskyard.errors import ConfigurationError
from taskyard.jobs.model import Lease


class Agent:
    """Runs jobs for one worker id until it is drained."""

    def __init__(self, platform: Platform, worker_id: str) -> None:
        self.worker_id = worker_id
        self._platform = platform
        settings = platform.settings
        root = root_of(worker_id, platform.store.identity, below=settings.workspace_dir)
        self._workspaces = WorkspaceRoot(root)
        self._workspaces.clean_leftovers()
        host = Host()
        capacity = capacity_of(host, settings)
        admission, turns = Admission(capacity), Turns()
        reporter = Reporter(platform)
        stages = Stages(platform, reporter, self._workspaces)
        self.runner = Runner(stages, admission, turns, settings)
        boot = f"{worker_id}/{host.boot_id}"
        self._claims = Claims(platform, boot, admission, turns, self.runner, reporter)
        self._presence = Presence(platform, worker_id, host, capacity, self.runner)
        self._stop_offers: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Register, and begin to claim and run jobs.

        Raises ConfigurationError if the host has no room for the agent, and the driver's error if
        MongoDB is away; nothing has begun then.
        """
        self._presence.register()
        try:
            self._begin()
        except (OSError, RuntimeError) as error:
            # It has registered: without a drain it would be given jobs.
            self.drain(grace_seconds=0)
            raise ConfigurationError(
                f"This host has no process, thread or file left for an agent: {error}"
            ) from None
        events.emit("agent.started", worker=self.worker_id)

    def run_assigned(self, lease: Lease) -> None:
        """Run an assigned job, unless this boot of the agent is over: then it is another boot's."""
        if not (self._presence.is_over or self._claims.is_replaced):
            self.runner.run_assigned(lease)

    def drain(self, grace_seconds: float | None = None) -> None:
        """Take no more jobs, let running ones end within the grace, stop the rest, then leave."""
        settings = self._platform.settings
        grace = settings.drain_grace_seconds if grace_seconds is None else grace_seconds
        events.emit("agent.draining", worker=self.worker_id, grace_seconds=grace)
        self._presence.refuse_work()
        self._stop_offers()
        self._claims.stop()
        self.runner.drain(grace)
        # Other agents are not offered what this one gave back. Now, because the process ends soon.
        self._platform.try_pass("drain")
        self._workspaces.close()
        self._presence.stop()
        events.emit("agent.stopped", worker=self.worker_id)

    def _begin(self) -> None:
        self.runner.start(freed=self._claims.freed, requeued=self._claims.look)
        self._presence.start()
        self._claims.start()
        self._stop_offers = self._platform.store.offers.listen(self.worker_id, self._claims)
