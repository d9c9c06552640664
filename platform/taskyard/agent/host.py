"""Facts of this host, and the share of it that our control group allows us."""

from __future__ import annotations

import os
import platform
import secrets
import socket
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


class Host:
    """Facts of the host, measured once, and its load, measured when asked."""

    def __init__(self, cgroup: Path = _CGROUP, own: Path = _OWN_CGROUP) -> None:
        groups = _groups(cgroup, own)
        self.hostname = socket.gethostname()
        self.os = f"{platform.system()} {platform.release()}"
        #: Names this boot of the agent; another boot is another holder of leases.
        self.boot_id = secrets.token_hex(8)
        self.cpu_count = _cpu_count(groups)
        self.ram_total_mb = _ram_total_mb(groups)
        psutil.cpu_percent()  # the first call only begins the measurement

    def cpu_usage_percent(self) -> float:
        """CPU use since the last call, over all CPUs."""
        return float(psutil.cpu_percent())

    def ram_free_mb(self) -> int:
        """Memory that is available now."""
        return min(self.ram_total_mb, psutil.virtual_memory().available // 2**20)


def _groups(root: Path, own: Path) -> list[Path]:
    """Our control group and its ancestors, each of which may limit us; in a container, the root.

    ``/proc/self/cgroup`` has one line ``0::/path`` for cgroup v2.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    inside = root / path if ".." not in path.split("/") else root
    return [inside, *(above for above in inside.parents if above.is_relative_to(root))]


def _cpu_count(groups: list[Path]) -> float:
    """The CPUs that affinity and the control groups' quotas allow us; may be a fraction."""
    available = float(len(os.sched_getaffinity(0)))
    return round(min([available, *filter(None, map(_quota, groups))]), 2)


def _quota(group: Path) -> float | None:
    """CPUs that the quota allows, of cgroup v2 (``cpu.max``) or v1 (``cpu.cfs_quota_us``)."""
    try:
        allowed, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            allowed = (group / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return int(allowed) / int(period) if allowed.isdigit() and int(period) else None


def _ram_total_mb(groups: list[Path]) -> int:
    """The memory that the control groups allow, at most the host's."""
    limits = [psutil.virtual_memory().total, *filter(None, map(_memory_limit, groups))]
    return int(min(limits) // 2**20)


def _memory_limit(group: Path) -> int | None:
    """Bytes, of cgroup v2 (``memory.max``) or v1 (``memory.limit_in_bytes``)."""
    for limit in (group / "memory.max", group / "memory" / "memory.limit_in_bytes"):
        try:
            allowed = limit.read_text().strip()
        except OSError:
            continue
        return int(allowed) if allowed.isdigit() else None
    return None
