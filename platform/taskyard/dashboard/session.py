"""Sign-in with a token or a one-time link, sign-out, and the choice of theme."""

from __future__ import annotations

from typing import Any

from flask import redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from taskyard.api.auth import COOKIE, refuse_other_sites
from taskyard.api.base import platform
from taskyard.dashboard.blueprint import THEME_COOKIE, THEMES, blueprint
from taskyard.store.tokens import Role

#: The name of tokens made for a sign-in link; such a token is revoked when its browser signs out.
LINK_TOKEN = "browser, by link"  # noqa: S105 - a name, no secret

_MONTH_SECONDS = 2_592_000
_YEAR_SECONDS = 31_536_000


@blueprint.route("/sign-in", methods=["GET", "POST"])
def sign_in() -> Any:
    """Sign in with a token, or with the one-time code of a link.

    A button redeems the code, not the link itself, so programs that preview links do not use it up.
    """
    refuse_other_sites()
    target = local(request.values.get("next"))
    code = request.values.get("code", "").strip()
    if request.method != "POST":
        return render_template("sign_in.html", next=target, code=code)
    token = _redeemed(code) if code else request.form.get("token", "").strip()
    known = platform().store.tokens.verify(token) if token else None
    if token is None or known is None:
        return render_template("sign_in.html", next=target, wrong="code" if code else "token"), 401
    if known.role is Role.AGENT:
        return render_template("sign_in.html", next=target, wrong="role"), 403
    response = redirect(target, 303)
    response.set_cookie(
        COOKIE,
        token,
        httponly=True,
        samesite="Strict",
        secure=request.is_secure,
        max_age=_MONTH_SECONDS,
    )
    return response


@blueprint.post("/sign-out")
def sign_out() -> Response:
    """Delete the cookie; a token that was made for this browser's link is revoked."""
    tokens = platform().store.tokens
    known = tokens.verify(request.cookies.get(COOKIE, ""))
    if known is not None and known.name == LINK_TOKEN:
        tokens.revoke(known.id)
    response = redirect(url_for("dashboard.sign_in"), 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="Strict")
    return response


@blueprint.post("/theme")
def choose_theme() -> Response:
    """Set the theme: light, dark, or the browser's preference."""
    refuse_other_sites()
    response = redirect(local(request.form.get("next")), 303)
    chosen = request.form.get("theme")
    if chosen in THEMES:
        response.set_cookie(THEME_COOKIE, chosen, samesite="Lax", max_age=_YEAR_SECONDS)
    else:
        response.delete_cookie(THEME_COOKIE, samesite="Lax")
    return response


def local(target: str | None) -> str:
    """Return ``target`` if it is a path of this site, else that of the list of jobs."""
    path = target or ""
    # Browsers read a backslash as a slash, and remove tabs and newlines before they parse a URL.
    plain = path.isprintable() and "\\" not in path
    ours = path.startswith("/") and not path.startswith("//")
    return path if plain and ours else url_for("dashboard.jobs")


def _redeemed(code: str) -> str | None:
    """Create a token for this browser and use up the code; None for a code that is not valid."""
    store = platform().store
    role = store.sign_in_codes.redeem(code, now=store.clock.now())
    return store.tokens.create(role=role, name=LINK_TOKEN) if role else None
