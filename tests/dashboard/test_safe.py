"""Security rules for every page and every action, checked on all existing routes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from taskyard.api.app import create_app
from taskyard.api.auth import OPEN, ROLES
from taskyard.context import Platform
from taskyard.dashboard import live
from taskyard.jobs.model import Job
from taskyard.jobs.states import JobStatus
from taskyard.store.chunks import Chunk
from taskyard.store.tokens import Role
from tests.api.test_auth import routes
from tests.api.test_system import dead as dead
from tests.dashboard.test_pages import HOSTILE, OWN_SITE, browser
from tests.factories import stored

#: Text that tries to control a page or a terminal, or to deceive a reader.
EVIL = f"{HOSTILE}\"'</pre></title>\x1b]8;;http://evil.example\x07\x1b[2J\x9b\u202e\u2066\u200b"
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")

FOREIGN = (
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://["},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
    {"Sec-Fetch-Site": "same-site"},
)


@pytest.fixture(autouse=True)
def _streams_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "OPEN_SECONDS", 0)


@pytest.fixture
def evil(platform: Platform) -> Job:
    """A failed job, a queued job and a worker with hostile text wherever a stranger can write."""
    now = platform.store.clock.now()
    facts = {"hostname": EVIL, "os": EVIL, "version": EVIL, "isolation": EVIL, "labels": [EVIL]}
    platform.store.workers.register(EVIL, facts, now=now)
    written = {
        "command": EVIL,
        "filename": EVIL,
        "labels": [EVIL],
        "env": {"NAME": EVIL},
        "submitted_by": EVIL,
    }
    stored(platform, JobStatus.QUEUED, **written)
    left = {"resultFileId": "f", "resultFilename": EVIL}
    job = stored(platform, JobStatus.FAILED, worker_id=EVIL, left=left, **written)
    chunk = Chunk(seq=0, stream="stdout", data=EVIL)
    platform.store.output.store(job.job_id, job.attempts, [chunk], now=now)
    return job


def pages(job: Job) -> dict[str, str]:
    """Return an address of each page, by its endpoint."""
    return {
        "dashboard.jobs": "/?" + urlencode({"q": "-status:running"}),
        "dashboard.job": f"/jobs/{job.job_id}",
        "dashboard.edit": f"/jobs/{job.job_id}/edit",
        "dashboard.workers": "/workers",
        "dashboard.worker": "/worker?" + urlencode({"id": EVIL}),
        "dashboard.show_overview": "/overview",
        "dashboard.show_system": "/system",
        "dashboard.sign_in": "/sign-in?" + urlencode({"next": f"/?q={EVIL}"}),
        "docs.page": "/api/docs/",
    }


#: Endpoints of the dashboard that are no pages.
NO_PAGES = {"dashboard.live", "dashboard.static"}


def test_every_page_is_known_here(platform: Platform, evil: Job) -> None:
    """A new page must be added to ``pages``."""
    found = {
        endpoint
        for method, _, endpoint in routes(platform)
        if method == "GET" and endpoint.startswith("dashboard.")
    }
    assert found - NO_PAGES == set(pages(evil)) - {"docs.page"}


def assert_is_closed(answer: TestResponse) -> None:
    """Assert headers by which the page runs and loads only our own files."""
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Referrer-Policy"] == "same-origin"


def test_every_answer_that_there_is_closes_the_page(platform: Platform) -> None:
    """Existing and unknown addresses, with and without a token."""
    for client in (browser(platform, "operator"), create_app(platform).test_client()):
        for method, path, _ in [*routes(platform), ("GET", "/nothing/like/this", "")]:
            assert_is_closed(client.open(path, method=method, headers=OWN_SITE, buffered=True))


def test_no_page_runs_or_hides_what_a_stranger_wrote(platform: Platform, evil: Job) -> None:
    operator = browser(platform, "operator")
    for name, path in pages(evil).items():
        answer = operator.get(path, buffered=True)
        assert answer.status_code == 200, (name, answer.text)
        assert_is_closed(answer)
        if name == "docs.page":
            continue
        assert answer.headers["Cache-Control"] == "no-store"
        for tag in ("<script>alert", "<img", "</pre></title>", 'href="http://evil'):
            assert tag not in answer.text, (name, tag)
        # Form fields must keep the raw text, which is hidden or in a field of its own.
        shown = re.sub("<textarea.*?</textarea>|<input[^>]*>", "", answer.text, flags=re.DOTALL)
        assert not HIDDEN.search(shown), name
        if name in ("dashboard.jobs", "dashboard.job", "dashboard.worker", "dashboard.workers"):
            assert "&lt;script&gt;alert" in answer.text, f"{name} shows it"


def acts(platform: Platform) -> Iterator[tuple[str, str, str]]:
    """Yield every route that changes something: its method, path and endpoint."""
    for method, path, endpoint in routes(platform):
        if method != "GET":
            yield method, path, endpoint


def test_a_foreign_page_does_nothing_by_any_road(platform: Platform) -> None:
    operator = browser(platform, "operator")
    tried = 0
    for method, path, endpoint in acts(platform):
        for headers in FOREIGN:
            answer = operator.open(path, method=method, headers=headers)
            assert answer.status_code == 403, (method, path, headers, endpoint)
            tried += 1
    assert tried > 60


@pytest.fixture
def forms(platform: Platform, dead: str) -> dict[str, tuple[str, dict[str, object]]]:
    """For each form of the pages, a path and fields with which it would change something."""
    waits, ended = stored(platform, JobStatus.QUEUED), stored(platform, JobStatus.FAILED)
    now = platform.store.clock.now()
    platform.store.workers.register("w1", {"hostname": "h", "cpuCount": 1}, now=now)
    edited: dict[str, object] = {
        "command": "true",
        "requiredCpu": "1",
        "requiredRamMb": "256",
        "timeoutMs": "1000",
        "maxRetries": "0",
        "priority": "9",
    }
    return {
        "dashboard.cancel": (f"/jobs/{waits.job_id}/cancel", {}),
        "dashboard.retry": (f"/jobs/{ended.job_id}/retry", {}),
        "dashboard.retry_edited": (f"/jobs/{ended.job_id}/edit", edited),
        "dashboard.act_on_jobs": (
            "/jobs/act",
            {"action": "cancel", "job": [waits.job_id], "sure": "yes"},
        ),
        "dashboard.act_on_matching": (
            "/jobs/act-on-all",
            {"action": "cancel", "q": "status:queued", "sure": "yes"},
        ),
        "dashboard.worker_action": ("/worker/delete", {"id": "w1"}),
        "dashboard.act_on_letters": ("/system/dead-letters", {"action": "drop", "letter": [dead]}),
    }


#: Forms that change only this browser's view or sign-in.
OWN_AFFAIRS = {"dashboard.sign_in", "dashboard.sign_out", "dashboard.choose_theme"}


def everything(platform: Platform) -> dict[str, list[object]]:
    """Return all stored documents except tokens, which record when they were last used."""
    database = platform.store.database
    names = set(database.list_collection_names()) - {"tokens"}
    return {name: list(database[name].find()) for name in names}


Forms = dict[str, tuple[str, dict[str, object]]]


def test_a_viewer_acts_by_no_form_there_is(platform: Platform, forms: Forms) -> None:
    """The forms are sent as from our own pages, with a viewer's or an agent's cookie."""
    posts = {e for _, _, e in acts(platform) if e.startswith("dashboard.")}
    assert posts - OWN_AFFAIRS == set(forms), "a form that is new has to be tried here"
    before = everything(platform)
    for role in ("viewer", "agent"):
        client = browser(platform, role)
        for endpoint, (path, form) in forms.items():
            answer = client.post(path, data=form, headers=OWN_SITE)
            assert answer.status_code == 403, (role, endpoint)
    assert everything(platform) == before


def test_the_same_forms_do_something_for_an_operator(platform: Platform, forms: Forms) -> None:
    operator = browser(platform, "operator")
    for endpoint, (path, form) in forms.items():
        answer = operator.post(path, data=form, headers=OWN_SITE)
        # Each form redirects, also the later ones, whose jobs the first has cancelled.
        assert answer.status_code == 303, (endpoint, answer.text)


def test_no_page_offers_a_viewer_what_it_would_refuse(platform: Platform, evil: Job) -> None:
    viewer = browser(platform, "viewer")
    allowed = OWN_AFFAIRS | OPEN
    adapter = create_app(platform).url_map.bind("localhost")
    for name, path in pages(evil).items():
        if Role.VIEWER not in ROLES.get(name, {Role.VIEWER}):
            assert viewer.get(path).status_code == 403
            continue
        for form in re.findall(
            r'<form[^>]*method="post"[^>]*>', viewer.get(path, buffered=True).text
        ):
            action = re.search(r'action="([^"]+)"', form)
            assert action
            endpoint, _ = adapter.match(action[1], method="POST")
            offered = name == "dashboard.jobs" and endpoint == "dashboard.act_on_jobs"
            # The rows of the list are in a form, which has no buttons for a viewer.
            assert endpoint in allowed or offered, (name, form)


@pytest.mark.parametrize("headers", FOREIGN)
def test_a_foreign_page_signs_nobody_in(platform: Platform, headers: dict[str, str]) -> None:
    token = platform.store.tokens.create(role="operator", name="the attacker's")
    client: FlaskClient = create_app(platform).test_client()
    answer = client.post("/sign-in", data={"token": token}, headers=headers)
    assert answer.status_code == 403
    assert "Set-Cookie" not in answer.headers
    assert client.get("/sign-in", headers=headers).status_code == 200


def test_no_hidden_character_comes_with_a_job_that_never_was(platform: Platform) -> None:
    answer = browser(platform, "operator").get("/jobs/" + EVIL.replace("/", ""))
    assert answer.status_code == 404
    assert not HIDDEN.search(answer.text)
    assert "<script>alert" not in answer.text
