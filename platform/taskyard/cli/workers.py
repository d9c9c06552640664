"""Commands on workers."""

from __future__ import annotations

import click

from taskyard.cli import show
from taskyard.cli.values import roughly_ago
from taskyard.client import Client
from taskyard.errors import NotFound


@click.group("workers", invoke_without_command=True)
@show.output_option
@click.pass_context
def workers_command(ctx: click.Context, output: str) -> None:
    """List workers; drain, resume or delete one."""
    if ctx.invoked_subcommand:
        return
    with Client() as client:
        listed = client.workers()
    if output == "json":
        show.as_json(listed)
        return
    rows = [
        (
            worker["workerId"],
            worker["status"],
            worker["kind"],
            f"{worker['reservedCpu']:g}/{worker['cpuCount']:g}",
            f"{worker['reservedRamMb']}/{worker['ramTotalMb']} MB",
            len(worker["currentJobIds"]),
            roughly_ago(worker["lastHeartbeat"]),
            "draining" if worker["draining"] else worker["healthReason"],
        )
        for worker in listed["workers"]
    ]
    show.table(["WORKER", "STATUS", "KIND", "CPU", "RAM", "JOBS", "SEEN", "WHY"], rows)


def _add(action: str, text: str) -> None:
    @workers_command.command(action, help=text)
    @click.argument("worker_id")
    @show.output_option
    def act(worker_id: str, output: str) -> None:
        with Client() as client:
            answer = client.act_on_worker(worker_id, action)
        if answer.get("existed") is False:
            raise NotFound("worker", worker_id)
        if output == "json":
            show.as_json(answer)
        else:
            print(answer.get("message", f"Worker {worker_id} deleted"))


_add("drain", "Give it nothing new; what it runs goes on.")
_add("resume", "Give it work again.")
_add("delete", "Take it out until it registers again.")
