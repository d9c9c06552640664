"""What this host is, and what its control group lets us have of it."""

from __future__ import annotations

import os
import platform
import secrets
import socket
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


class Host:
    """Facts of the host, measured once, and its load, measured when asked."""

    def __init__(self, cgroup: Path = _CGROUP) -> None:
        self.hostname = socket.gethostname()
        self.os = f"{platform.system()} {platform.release()}"
        #: This life of the agent: another boot is another holder of leases.
        self.boot_id = secrets.token_hex(8)
        self.cpu_count = _cpu_count(cgroup)
        self.ram_total_mb = _ram_total_mb(cgroup)
        psutil.cpu_percent()  # the first call only begins the measurement

    def cpu_usage_percent(self) -> float:
        """CPU use since the last call, over all CPUs."""
        return float(psutil.cpu_percent())

    def ram_free_mb(self) -> int:
        """Memory that could be had now."""
        return min(self.ram_total_mb, psutil.virtual_memory().available // 2**20)


def _cpu_count(cgroup: Path) -> float:
    """The CPUs that affinity and the control group's quota leave us; may be a fraction."""
    available = float(len(os.sched_getaffinity(0)))
    quota = _quota(cgroup)
    return round(min(available, quota), 2) if quota else available


def _quota(cgroup: Path) -> float | None:
    """CPUs by quota, of cgroup v2 (``cpu.max``) or v1 (``cpu.cfs_quota_us``)."""
    try:
        allowed, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            allowed = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return int(allowed) / int(period) if allowed.isdigit() and int(period) else None


def _ram_total_mb(cgroup: Path) -> int:
    """The memory that the control group allows, at most what there is."""
    physical = psutil.virtual_memory().total
    for limit in (cgroup / "memory.max", cgroup / "memory" / "memory.limit_in_bytes"):
        try:
            allowed = limit.read_text().strip()
        except OSError:
            continue
        if allowed.isdigit():
            return int(min(physical, int(allowed)) // 2**20)
    return int(physical // 2**20)
