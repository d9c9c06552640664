"""The page with the overview: the platform's figures over a span of time, and its state now."""

from __future__ import annotations

from flask import json, render_template, request

from taskyard.api.base import platform
from taskyard.dashboard import charts
from taskyard.dashboard.blueprint import blueprint
from taskyard.errors import NotFound
from taskyard.jobs.states import LIVE
from taskyard.overview import SPANS, overview
from taskyard.stats.histogram import percentiles

_DEFAULT = "1h"


@blueprint.get("/overview")
def show_overview() -> str:
    """Show alarms, figures, charts, and the commonest errors with searches for their jobs."""
    chosen = request.args.get("range") or _DEFAULT
    if chosen not in SPANS:
        raise NotFound("range", chosen)
    found = overview(platform(), SPANS[chosen], counted=LIVE)
    counted_at = platform().store.locks.ticks().get("statistics")
    drawn = charts.of(found.points, counted_at=counted_at)
    return render_template(
        "overview.html",
        overview=found,
        chosen=chosen,
        spans=list(SPANS),
        charts=drawn,
        series=json.dumps(charts.data(drawn, found.points)),
        wait=percentiles(found.total.wait),
        run=percentiles(found.total.run),
    )
