"""The listing as an engineer's browser gets it."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from flask.testing import FlaskClient

from taskyard.api.app import create_app
from taskyard.context import Platform
from taskyard.jobs.model import Job, lease_of
from taskyard.jobs.refusal import Write
from taskyard.jobs.states import JobStatus
from taskyard.store.output import Chunk
from tests import factories

OWN_SITE = {"Origin": "http://localhost"}
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def browser(platform: Platform, role: str) -> FlaskClient:
    """A browser that is signed in."""
    token = platform.store.tokens.create(role=role, name=f"a {role}")
    client = create_app(platform).test_client()
    client.set_cookie("taskyard_token", token)
    return client


@pytest.fixture
def operator(platform: Platform) -> FlaskClient:
    return browser(platform, "operator")


@pytest.fixture
def viewer(platform: Platform) -> FlaskClient:
    return browser(platform, "viewer")


def stored(platform: Platform, status: JobStatus, **fields: object) -> Job:
    job = factories.job_in(status, now=platform.store.clock.now(), **fields)
    platform.store.jobs.submit([job])
    return job


@pytest.mark.parametrize("status", JobStatus)
def test_a_job_in_any_state_has_a_page_and_a_line(
    operator: FlaskClient, platform: Platform, status: JobStatus
) -> None:
    job = stored(platform, status)
    page, listing = operator.get(f"/jobs/{job.job_id}"), operator.get("/")
    assert page.status_code == listing.status_code == 200
    assert str(status) in page.text
    assert job.job_id in listing.text
    assert ("Run again" in page.text) == job.is_terminal
    assert ("/cancel" in page.text) == (not job.is_terminal)


def test_a_waiting_job_says_why_on_both_pages(operator: FlaskClient, platform: Platform) -> None:
    job = stored(platform, JobStatus.QUEUED)
    for path in ("/", f"/jobs/{job.job_id}"):
        assert "no worker is registered" in operator.get(path).text


def test_a_refused_late_write_is_on_the_page_of_the_job_and_its_absence_is_not(
    operator: FlaskClient, platform: Platform
) -> None:
    job = stored(platform, JobStatus.COMPLETED)
    path = f"/jobs/{job.job_id}"
    assert "refused" not in operator.get(path).text
    platform.store.refusals.note(lease_of(job), Write.OUTPUT, now=platform.store.clock.now())
    page = operator.get(path).text
    assert "1 late write refused" in page
    assert "output refused: the attempt is over" in page


def test_the_timeline_and_the_output_are_shown(operator: FlaskClient, platform: Platform) -> None:
    job = stored(platform, JobStatus.FAILED)
    chunks = [
        Chunk(seq=0, stream="stdout", data="fine\n"),
        Chunk(seq=1, stream="stderr", data="oops\n"),
    ]
    platform.store.output.store(job.job_id, job.attempts, chunks, now=platform.store.clock.now())
    text = operator.get(f"/jobs/{job.job_id}").text
    assert re.search(r"fine.*oops", text, re.DOTALL)
    assert re.search(r"assign.*start.*fail.*exit code 1", text, re.DOTALL)


def test_what_strangers_wrote_is_shown_and_never_run(
    operator: FlaskClient, platform: Platform
) -> None:
    job = stored(platform, JobStatus.FAILED, command=HOSTILE, filename=HOSTILE)
    chunk = Chunk(seq=0, stream="stdout", data=f"</pre>{HOSTILE}\x1b]0;title\x07\u202e")
    platform.store.output.store(job.job_id, job.attempts, [chunk], now=platform.store.clock.now())
    now = platform.store.clock.now()
    platform.store.workers.register(HOSTILE, {"hostname": HOSTILE, "os": HOSTILE}, now=now)
    for path in (
        "/",
        f"/jobs/{job.job_id}",
        "/workers",
        f"/?text={HOSTILE}",
        f"/sign-in?next={HOSTILE}",
    ):
        text = operator.get(path).text
        assert "<script>alert" not in text, path
        assert "<img src=x" not in text, path
        assert "\x1b" not in text
        assert "\u202e" not in text


def test_pages_carry_no_inline_script_or_style(operator: FlaskClient, platform: Platform) -> None:
    job = stored(platform, JobStatus.RUNNING)
    for path in ("/", f"/jobs/{job.job_id}", "/workers", "/sign-in"):
        text = operator.get(path).text
        assert not re.search(r"<script(?![^>]*\bsrc=)", text), path
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=", text), path
        assert "//" not in re.sub(r"https?://localhost", "", text.split("</head>")[0])


def test_pages_follow_each_other_by_key_and_keep_the_filter(
    operator: FlaskClient, platform: Platform
) -> None:
    now = platform.store.clock.now()
    jobs = [factories.queued_job(now=now - timedelta(seconds=n), labels=["gpu"]) for n in range(60)]
    platform.store.jobs.submit([*jobs, factories.queued_job(now=now)])
    first = operator.get("/?label=gpu&status=QUEUED").text
    link = re.search(r'href="([^"]*after=[^"]*)"', first)
    assert link
    second = operator.get(link[1].replace("&amp;", "&")).text
    shown = [re.findall(r'title="(job-[^"]+)"', text) for text in (first, second)]
    assert [len(ids) for ids in shown] == [50, 10]
    assert {*shown[0], *shown[1]} == {job.job_id for job in jobs}


def test_an_empty_listing_says_how_to_begin(operator: FlaskClient) -> None:
    assert "taskyard run" in operator.get("/").text
    assert "celery -A taskyard.celery_app worker" in operator.get("/workers").text


def test_cancel_and_retry_act_and_go_back_to_a_page(
    operator: FlaskClient, platform: Platform
) -> None:
    job = stored(platform, JobStatus.QUEUED)
    answer = operator.post(f"/jobs/{job.job_id}/cancel", headers=OWN_SITE)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/jobs/{job.job_id}")
    assert platform.store.jobs.get(job.job_id).status is JobStatus.CANCELLED
    answer = operator.post(f"/jobs/{job.job_id}/retry", headers=OWN_SITE)
    fresh = platform.store.jobs.get(answer.headers["Location"].removeprefix("/jobs/"))
    assert fresh.retry_of == job.job_id


@pytest.mark.parametrize(("action", "shown"), [("drain", "Resume"), ("delete", "No worker")])
def test_workers_are_managed_from_their_page(
    operator: FlaskClient, platform: Platform, action: str, shown: str
) -> None:
    facts = {"hostname": "h", "cpuCount": 4, "ramTotalMb": 8192}
    platform.store.workers.register("w1", facts, now=platform.store.clock.now())
    answer = operator.post(f"/workers/w1/{action}", headers=OWN_SITE, follow_redirects=True)
    assert answer.status_code == 200
    assert shown in answer.text


def test_a_viewer_sees_no_buttons_and_may_press_none(
    viewer: FlaskClient, platform: Platform
) -> None:
    job = stored(platform, JobStatus.QUEUED)
    assert "/cancel" not in viewer.get(f"/jobs/{job.job_id}").text
    assert viewer.post(f"/jobs/{job.job_id}/cancel", headers=OWN_SITE).status_code == 403
    assert platform.store.jobs.get(job.job_id).status is JobStatus.QUEUED


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_foreign_page_changes_nothing(
    operator: FlaskClient, platform: Platform, headers: dict[str, str]
) -> None:
    job = stored(platform, JobStatus.QUEUED)
    answer = operator.post(f"/jobs/{job.job_id}/cancel", headers=headers)
    assert answer.status_code == 403
    assert platform.store.jobs.get(job.job_id).status is JobStatus.QUEUED


def test_signing_in_keeps_the_token_from_scripts_and_goes_back(platform: Platform) -> None:
    client = create_app(platform).test_client()
    sent = client.get("/workers")
    assert sent.status_code == 302
    assert "next=/workers" in sent.headers["Location"]
    wrong = client.post("/sign-in", data={"token": "tyk_no_no", "next": "/workers"})
    assert wrong.status_code == 401
    assert "Set-Cookie" not in wrong.headers
    token = platform.store.tokens.create(role="viewer", name="v")
    right = client.post("/sign-in", data={"token": f" {token}\n", "next": "/workers"})
    assert right.headers["Location"] == "/workers"
    cookie = right.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert client.get("/workers").status_code == 200
    client.post("/sign-out", headers=OWN_SITE)
    assert client.get("/workers").status_code == 302


@pytest.mark.parametrize(
    "target",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "evil"],
)
def test_signing_in_never_leads_to_another_site(platform: Platform, target: str) -> None:
    token = platform.store.tokens.create(role="viewer", name="v")
    client = create_app(platform).test_client()
    answer = client.post("/sign-in", data={"token": token, "next": target})
    assert answer.headers["Location"] == "/"


@pytest.mark.parametrize(
    ("path", "status"), [("/jobs/gone", 404), ("/?after=made-up", 422), ("/?status=GONE", 404)]
)
def test_what_is_not_there_is_a_page_too(operator: FlaskClient, path: str, status: int) -> None:
    answer = operator.get(path)
    assert answer.status_code == status
    assert answer.mimetype == "text/html"
