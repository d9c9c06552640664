"""Authentication and roles: one table says which roles may use a route.

It is read in one place, before each request. A route that is missing from it is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from flask import Flask, Response, g, redirect, request, url_for

from taskyard.addresses import is_loopback
from taskyard.context import Platform
from taskyard.errors import Forbidden, Unauthenticated
from taskyard.store.failures import is_unavailable
from taskyard.store.tokens import Role

COOKIE = "taskyard_token"

_READ = frozenset({Role.VIEWER, Role.OPERATOR})
_ACT = frozenset({Role.OPERATOR})
_WORK = frozenset({Role.AGENT, Role.OPERATOR})
_ANY = _READ | _WORK

#: Routes that need no token: health, the sign-in page, its assets, and the choice of theme.
OPEN = frozenset(
    {
        *("health.healthz", "health.readyz"),
        *("dashboard.sign_in", "dashboard.static", "dashboard.choose_theme"),
    }
)

#: All other routes, each with the roles that may use it. Nobody may use a route that is missing.
ROLES: dict[str, frozenset[Role]] = {
    "jobs.create": _ACT,
    "jobs.list_jobs": _READ,
    "jobs.counts": _READ,
    "jobs.status": _READ,
    "jobs.output": _READ,
    "jobs.cancel": _ACT,
    "bulk.act": _ACT,
    "bulk.results": _READ,
    "jobs.retry": _ACT,
    "events.follow_job": _READ,
    "execute.execute": _ACT,
    "execute.stop": _ACT,
    "workers.get_job": _WORK,
    "workers.poll_job": _WORK,
    "workers.stream_output": _WORK,
    "workers.submit_result": _WORK,
    "workers.report_failure": _WORK,
    "workers.check_cancel": _WORK,
    "workers.register": _WORK,
    "workers.registered": _ANY,
    "workers.heartbeat": _WORK,
    "workers.list_workers": _READ,
    "workers.delete": _ACT,
    "workers.drain": _ACT,
    "workers.resume": _ACT,
    "files.upload": _WORK,
    "files.download": _ANY,
    "metrics.show": _READ,
    "overview.show": _READ,
    "system.show": _READ,
    "system.dead_letters": _READ,
    "system.requeue": _ACT,
    "system.drop": _ACT,
    "docs.page": _ANY,
    "docs.asset": _ANY,
    "docs.script": _ANY,
    "api-docs.openapi_json": _ANY,
    "dashboard.jobs": _READ,
    "dashboard.job": _READ,
    "dashboard.live": _READ,
    "dashboard.show_overview": _READ,
    "dashboard.show_system": _READ,
    "dashboard.act_on_letters": _ACT,
    "dashboard.workers": _READ,
    "dashboard.worker": _READ,
    "dashboard.cancel": _ACT,
    "dashboard.retry": _ACT,
    "dashboard.edit": _ACT,
    "dashboard.retry_edited": _ACT,
    "dashboard.act_on_jobs": _ACT,
    "dashboard.act_on_matching": _ACT,
    "dashboard.worker_action": _ACT,
    "dashboard.sign_out": _ANY,
}

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

_MISSING = "Send a token: Authorization: Bearer tyk_…"
_UNKNOWN = "This token is not known here: it was revoked, or is another platform's."

_NOT_FROM_HERE = "This request did not come from a page of this site."


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The caller of a request, and what it may do."""

    name: str
    roles: frozenset[Role]
    #: The one worker that an agent's token may write for; None if the token is not bound.
    worker_id: str | None = None

    def speak_for(self, worker_id: str) -> None:
        """Raise Forbidden unless the caller may write in the name of this worker."""
        if self.worker_id is not None and self.worker_id != worker_id:
            raise Forbidden(f"This token is for worker {self.worker_id!r} alone.")


def install(app: Flask, platform: Platform) -> None:
    """Check the token and its role before every request of ``app``."""

    @app.before_request
    def admit() -> Response | None:
        if request.routing_exception is not None or request.endpoint in OPEN:
            return None
        found = _caller(platform)
        if found is None and _is_page():
            return _to_sign_in()
        if found is None:
            raise Unauthenticated(_UNKNOWN if _token()[0] else _MISSING)
        if not found.roles & ROLES.get(request.endpoint or "", frozenset()):
            raise Forbidden("This token's role may not do that.")
        g.caller = found
        return None


def caller() -> Caller:
    """Return the caller of the current request; only for routes that need a token."""
    asking: Caller = g.caller
    return asking


def still_admitted(platform: Platform) -> Callable[[], bool]:
    """Return a check of whether the caller's token is still valid, for long streams."""
    token, _ = _token()

    def holds() -> bool:
        try:
            return not platform.settings.auth or platform.store.tokens.verify(token) is not None
        except Exception as error:
            if not is_unavailable(error):
                raise
            return True  # while the database is away, the stream has nothing to send either

    return holds


def refuse_other_sites() -> None:
    """Raise Forbidden if a page of another site asks for a change.

    A request with neither Sec-Fetch-Site nor Origin does not come from a browser, and passes.
    """
    site = request.headers.get("Sec-Fetch-Site")
    foreign = site not in ("same-origin", "none") if site else _origin_is_ours() is False
    if foreign and request.method not in _SAFE:
        raise Forbidden(_NOT_FROM_HERE)


def _caller(platform: Platform) -> Caller | None:
    if not platform.settings.auth:
        _refuse_rebound()
        refuse_other_sites()
        return Caller(name="anonymous", roles=frozenset(Role))
    token, by_cookie = _token()
    if by_cookie:
        _refuse_cross_site()
    known = platform.store.tokens.verify(token) if token else None
    if known is None:
        return None
    return Caller(name=known.name, roles=frozenset({known.role}), worker_id=known.worker_id)


def _token() -> tuple[str, bool]:
    """Return the token of the request, or "", and whether it came in the cookie."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip(), False
    token = request.cookies.get(COOKIE, "")
    return token.strip(), bool(token)


def _refuse_cross_site() -> None:
    """Raise Forbidden for a change that does not provably come from one of our pages.

    For requests with the cookie, which a browser adds by itself to whatever another site sends.
    """
    if request.method in _SAFE:
        return
    site = request.headers.get("Sec-Fetch-Site")
    if not (site == "same-origin" or (site is None and _origin_is_ours() is True)):
        raise Forbidden(_NOT_FROM_HERE)


def _refuse_rebound() -> None:
    """Raise Forbidden unless the request names a loopback host.

    For platforms without tokens: there another host name that resolves to this machine belongs to
    a page that tries to read from it (DNS rebinding).
    """
    if not is_loopback(request.host):
        raise Forbidden("Without tokens this host is asked as localhost alone.")


def _origin_is_ours() -> bool | None:
    """Return whether Origin names this site; None without that header."""
    origin = request.headers.get("Origin")
    if origin is None:
        return None
    try:
        return urlsplit(origin).netloc == request.host
    except ValueError:
        return False


def _to_sign_in() -> Response:
    """Send the browser to the sign-in page, which leads back to the page that it asked for."""
    there = url_for("dashboard.sign_in", next=request.full_path)
    if "HX-Request" in request.headers:
        # htmx asks for a part of an open page. It would follow a redirect and look for that part in
        # the sign-in page; with this header the browser itself goes there.
        return Response(status=401, headers={"HX-Redirect": there, "WWW-Authenticate": "Bearer"})
    return redirect(there)  # type: ignore[return-value] # werkzeug's base class


def _is_page() -> bool:
    """Return whether the request is a GET of a page for people."""
    endpoint = request.endpoint or ""
    return request.method == "GET" and endpoint.startswith(("dashboard.", "docs."))
