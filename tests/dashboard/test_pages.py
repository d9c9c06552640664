"""The pages of jobs and workers, and their forms, as a browser gets them."""

from __future__ import annotations

import html
import re
from datetime import timedelta
from urllib.parse import urlencode

import pytest
from flask.testing import FlaskClient
from pymongo.errors import AutoReconnect

from taskyard import bulk
from taskyard.api.app import create_app
from taskyard.context import Platform
from taskyard.dashboard import matching
from taskyard.jobs.model import lease_of
from taskyard.jobs.refusal import Write
from taskyard.jobs.states import LIVE, JobStatus
from taskyard.store import queries
from taskyard.store.chunks import Chunk
from taskyard.store.sign_in import VALID_FOR
from tests import factories
from tests.conftest import TestClock
from tests.factories import stored

OWN_SITE = {"Origin": "http://localhost"}
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def browser(platform: Platform, role: str) -> FlaskClient:
    """Return a browser that is signed in."""
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


@pytest.fixture
def anonymous(platform: Platform) -> FlaskClient:
    """A browser that is not signed in."""
    return create_app(platform).test_client()


@pytest.mark.parametrize("status", JobStatus)
def test_a_job_in_any_state_has_a_page_and_a_line(
    operator: FlaskClient, platform: Platform, status: JobStatus
) -> None:
    job = stored(platform, status)
    page, listing = operator.get(f"/jobs/{job.job_id}"), operator.get("/")
    assert page.status_code == listing.status_code == 200
    assert str(status).capitalize() in page.text
    assert job.job_id in listing.text
    assert ("Run again" in page.text) == job.is_terminal
    assert ("/cancel" in page.text) == (not job.is_terminal)


def test_a_waiting_job_says_why_on_both_pages(operator: FlaskClient, platform: Platform) -> None:
    job = stored(platform, JobStatus.QUEUED)
    for path in ("/", f"/jobs/{job.job_id}"):
        assert "no worker is registered" in operator.get(path).text


def test_a_result_that_was_not_kept_is_on_the_page_of_its_job(
    operator: FlaskClient, platform: Platform
) -> None:
    job = stored(platform, JobStatus.COMPLETED, left={"resultTruncated": True})
    assert "not kept: larger than the limit" in operator.get(f"/jobs/{job.job_id}").text
    job = stored(platform, JobStatus.COMPLETED)
    assert "not kept" not in operator.get(f"/jobs/{job.job_id}").text


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
        "/worker?" + urlencode({"id": HOSTILE}),
        "/overview",
        "/system",
        f"/?q={HOSTILE}",
        "/?" + urlencode({"q": f'"{HOSTILE}"'}),
        f"/sign-in?next={HOSTILE}",
    ):
        text = operator.get(path).text
        assert "<script>alert" not in text, path
        assert "<img src=x" not in text, path
        assert "\x1b" not in text
        assert "\u202e" not in text


def test_pages_carry_no_inline_script_or_style(operator: FlaskClient, platform: Platform) -> None:
    job = stored(platform, JobStatus.RUNNING)
    for path in ("/", f"/jobs/{job.job_id}", "/workers", "/overview", "/system", "/sign-in"):
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
    first = operator.get("/?q=label:gpu&status=QUEUED").text
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


def test_many_jobs_are_acted_on_after_a_look_at_what_would_be_done(
    operator: FlaskClient, platform: Platform
) -> None:
    waits, ended = stored(platform, JobStatus.QUEUED), stored(platform, JobStatus.COMPLETED)
    form = {"action": "cancel", "job": [waits.job_id, ended.job_id], "back": "/?status=QUEUED"}
    asked = operator.post("/jobs/act", data=form, headers=OWN_SITE)
    assert "Cancel 1 job?" in asked.text
    assert "1 of the selected has ended already" in asked.text
    assert platform.store.jobs.get(waits.job_id).status is JobStatus.QUEUED
    answer = operator.post("/jobs/act", data={**form, "sure": "yes"}, headers=OWN_SITE)
    assert platform.store.jobs.get(waits.job_id).status is JobStatus.CANCELLED
    told = operator.get(answer.headers["Location"]).text
    assert "1 job cancelled" in told
    assert "1 had moved on" in told


def test_all_that_match_are_counted_and_then_acted_on(
    operator: FlaskClient, platform: Platform
) -> None:
    meant = [stored(platform, JobStatus.QUEUED, labels=["gpu"]) for _ in range(3)]
    other = stored(platform, JobStatus.QUEUED)
    assert "All that match" in operator.get("/?q=label:gpu").text
    form = {"action": "cancel", "q": "label:gpu"}
    asked = operator.post("/jobs/act-on-all", data=form, headers=OWN_SITE).text
    assert "Cancel 3 jobs?" in asked
    found = re.search(r'name="as_of" value="(\d+)"', asked)
    assert found
    late = stored(platform, JobStatus.QUEUED, labels=["gpu"])
    sure = {**form, "as_of": found[1], "sure": "yes", "reason": "wrong card"}
    answer = operator.post("/jobs/act-on-all", data=sure, headers=OWN_SITE)
    assert "3 jobs cancelled" in operator.get(answer.headers["Location"]).text
    states = [platform.store.jobs.get(job.job_id).status for job in (*meant, other, late)]
    assert states == [*[JobStatus.CANCELLED] * 3, JobStatus.QUEUED, JobStatus.QUEUED]


@pytest.mark.parametrize(
    ("status", "offered"),
    [("", {"retry", "cancel"}), ("QUEUED", {"cancel"}), ("FAILED", {"retry"})],
)
def test_only_what_can_be_done_to_all_is_offered(
    operator: FlaskClient, platform: Platform, status: str, offered: set[str]
) -> None:
    stored(platform, JobStatus(status or "QUEUED"), labels=["gpu"])
    text = operator.get(f"/?q=label:gpu&status={status}").text
    form = text.split('class="matching"')[1].split("</form>")[0]
    assert {*re.findall(r'name="action" value="(\w+)"', form)} == offered


def test_the_rows_alone_are_a_page_that_counts_what_is_on_its_way(
    operator: FlaskClient, platform: Platform
) -> None:
    """Rows come at each change, with the counts of live states; the others every few seconds."""
    for status in JobStatus:
        job = stored(platform, status)
    page = operator.get("/", headers={"Taskyard-Part": "rows"}).text
    assert job.job_id in page.split('id="rows"')[1]
    counts = dict(re.findall(r'id="count-(\w+)">(\d+)<', page))
    assert counts == {status: "1" if status in LIVE else "0" for status in JobStatus}


def test_the_rows_of_a_search_are_a_page_that_counts_nothing(
    operator: FlaskClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = stored(platform, JobStatus.QUEUED)
    monkeypatch.setattr(type(platform.store.queries), "tally", None)
    page = operator.get("/?q=true", headers={"Taskyard-Part": "rows"}).text
    assert job.job_id in page.split('id="rows"')[1]
    assert "#count-" not in page, "what was not counted is not shown"


def test_the_list_counts_no_more_of_a_state_than_a_page_may_take_and_says_so(
    operator: FlaskClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        stored(platform, JobStatus.QUEUED)
    monkeypatch.setattr(queries, "COUNTED", 2)
    tabs = operator.get("/").text.split('class="tabs"')[1].split("</nav>")[0]
    assert '<b id="count-QUEUED">2+</b>' in tabs


def test_long_work_on_all_that_match_says_how_far_it_is_and_goes_on(
    operator: FlaskClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        stored(platform, JobStatus.QUEUED, labels=["gpu"])
    monkeypatch.setattr(matching, "WORK_SECONDS", -1)
    monkeypatch.setattr(bulk, "BATCH", 2)
    form = {"action": "cancel", "q": "label:gpu"}
    asked = operator.post("/jobs/act-on-all", data=form, headers=OWN_SITE).text
    assert "data-goes-on" not in asked, "nothing is done before the reader is sure"
    page = operator.post("/jobs/act-on-all", data=_hidden(asked), headers=OWN_SITE).text
    assert "2 of 3 done, more to go" in page
    assert "data-goes-on" in page
    fields = _hidden(page)
    answer = operator.post("/jobs/act-on-all", data=fields, headers=OWN_SITE)
    assert "3 jobs cancelled" in operator.get(answer.headers["Location"]).text


def _hidden(page: str) -> dict[str, str]:
    """Return the hidden fields of the page's form, but for ``next``."""
    fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))
    fields.pop("next", None)
    return fields


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"action": "cancel", "q": " "}, 422),
        ({"action": "cancel", "q": "status:queued", "as_of": "soon"}, 422),
        ({"action": "cancel", "q": "status:queued", "as_of": "32503680000000"}, 422),
        ({"action": "cancel", "q": "no:thing"}, 422),
        ({"action": "explode", "q": "status:queued"}, 404),
    ],
)
def test_nothing_is_never_taken_for_everything(
    operator: FlaskClient, platform: Platform, form: dict[str, str], status: int
) -> None:
    job = stored(platform, JobStatus.QUEUED)
    sure = {**form, "sure": "yes"}
    assert operator.post("/jobs/act-on-all", data=sure, headers=OWN_SITE).status_code == status
    assert platform.store.jobs.get(job.job_id).status is JobStatus.QUEUED


def test_many_jobs_are_run_again(operator: FlaskClient, platform: Platform) -> None:
    ended = [stored(platform, JobStatus.FAILED) for _ in range(2)]
    ids = [job.job_id for job in ended]
    form = {"action": "retry", "job": ids, "sure": "yes"}
    assert operator.post("/jobs/act", data=form, headers=OWN_SITE).status_code == 303
    for job_id in ids:
        assert len(platform.store.queries.retries_of(job_id, limit=5)) == 1
        assert "Run again as" in operator.get(f"/jobs/{job_id}").text


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"action": "cancel"}, 422),
        ({"action": "cancel", "job": [f"job-{n}" for n in range(201)]}, 422),
        ({"action": "explode", "job": ["job-1"]}, 404),
        ({"action": "cancel", "job": ["job-1", "\0"], "sure": "yes"}, 303),
    ],
)
def test_a_made_up_selection_changes_nothing(
    operator: FlaskClient, form: dict[str, object], status: int
) -> None:
    assert operator.post("/jobs/act", data=form, headers=OWN_SITE).status_code == status


EDITED = {
    "command": "echo one\r\necho two",
    "requiredCpu": "0.5",
    "requiredRamMb": "512",
    "timeoutMs": "1000",
    "maxRetries": "0",
    "priority": "9",
    "labels": "gpu, big",
    "env": "NAME=a=b\n\nOTHER=",
}


def test_a_job_is_run_again_with_edits(operator: FlaskClient, platform: Platform) -> None:
    job = stored(platform, JobStatus.FAILED, env={"NAME": "value"}, labels=["gpu"])
    form = operator.get(f"/jobs/{job.job_id}/edit").text
    assert "NAME=value" in form
    answer = operator.post(f"/jobs/{job.job_id}/edit", data=EDITED, headers=OWN_SITE)
    fresh = platform.store.jobs.get(answer.headers["Location"].removeprefix("/jobs/"))
    assert (fresh.command, fresh.retry_of) == ("echo one\necho two", job.job_id)
    assert (fresh.required_cpu, fresh.required_ram_mb, fresh.priority) == (0.5, 512, 9)
    assert (fresh.labels, dict(fresh.env)) == (("gpu", "big"), {"NAME": "a=b", "OTHER": ""})
    assert fresh.shape == "0.5/512/big,gpu"
    assert fresh.retry_on_exit is False


def test_a_job_with_a_value_of_several_lines_is_run_again_with_it(
    operator: FlaskClient, platform: Platform
) -> None:
    """Each line of the value was taken for a variable of its own, or refused as one."""
    env = {"DOTENV": "A=1\nB=2", "OTHER": "3"}
    job = stored(platform, JobStatus.FAILED, env=env)
    form = operator.get(f"/jobs/{job.job_id}/edit").text
    (shown,) = re.findall(r'<textarea name="env"[^>]*>\n(.*?)</textarea>', form, re.DOTALL)
    data = {**EDITED, "env": html.unescape(shown).replace("\n", "\r\n")}
    answer = operator.post(f"/jobs/{job.job_id}/edit", data=data, headers=OWN_SITE)
    fresh = platform.store.jobs.get(answer.headers["Location"].removeprefix("/jobs/"))
    assert dict(fresh.env) == env


def test_what_is_not_edited_runs_again_as_it_was(operator: FlaskClient, platform: Platform) -> None:
    """A browser turns all line ends into CRLF, and the form showed a third as 0.333333."""
    was = {"command": "echo a\r\necho b\rc\n", "env": {"H": "a\rb", "CRLF": "x\r\ny"}}
    job = stored(platform, JobStatus.FAILED, required_cpu=1 / 3, **was)
    form = operator.get(f"/jobs/{job.job_id}/edit").text
    data = {**EDITED, **_as_a_browser_sends(form)}
    answer = operator.post(f"/jobs/{job.job_id}/edit", data=data, headers=OWN_SITE)
    fresh = platform.store.jobs.get(answer.headers["Location"].removeprefix("/jobs/"))
    assert {"command": fresh.command, "env": dict(fresh.env)} == was
    assert fresh.required_cpu == 1 / 3


def _as_a_browser_sends(form: str) -> dict[str, str]:
    """Return a form's text areas and input fields as a browser sends them unedited."""
    areas = re.findall(r'<textarea name="(\w+)"[^>]*>\n(.*?)</textarea>', form, re.DOTALL)
    fields = re.findall(r'<input name="(\w+)"[^>]* value="([^"]*)"', form)
    return {
        name: re.sub(r"\r\n|\r|\n", "\r\n", html.unescape(text)) for name, text in areas + fields
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("command", "  "),
        ("requiredCpu", "nan"),
        ("requiredCpu", "many"),
        ("priority", "10"),
        ("timeoutMs", "1e400"),
        ("labels", HOSTILE),
        ("env", "=nameless"),
        ("env", "no equals sign but \0"),
    ],
)
def test_an_edit_that_cannot_be_is_shown_with_its_field(
    operator: FlaskClient, platform: Platform, field: str, value: str
) -> None:
    job = stored(platform, JobStatus.FAILED)
    data = {**EDITED, field: value}
    answer = operator.post(f"/jobs/{job.job_id}/edit", data=data, headers=OWN_SITE)
    assert answer.status_code == 422
    assert f'id="wrong-{field}"' in answer.text
    assert "<script>alert" not in answer.text


def test_a_job_that_lives_is_not_edited(operator: FlaskClient, platform: Platform) -> None:
    job = stored(platform, JobStatus.RUNNING)
    assert operator.get(f"/jobs/{job.job_id}/edit").status_code == 409
    answer = operator.post(f"/jobs/{job.job_id}/edit", data=EDITED, headers=OWN_SITE)
    assert answer.status_code == 409


def test_a_worker_has_a_page_whatever_it_calls_itself(
    operator: FlaskClient, platform: Platform
) -> None:
    now = platform.store.clock.now()
    for worker_id in ("w1", "../x?y#z/drain", HOSTILE):
        facts = {"hostname": "h", "cpuCount": 4, "ramTotalMb": 8192, "labels": ["gpu"]}
        platform.store.workers.register(worker_id, facts, now=now)
        stored(platform, JobStatus.FAILED, worker_id=worker_id)
        page = operator.get("/worker", query_string={"id": worker_id})
        assert page.status_code == 200
        assert "of the last 1: 1 failed" in page.text
    assert operator.get("/worker?id=gone").status_code == 404


@pytest.mark.parametrize(("action", "shown"), [("drain", "Resume"), ("delete", "No worker")])
def test_workers_are_managed_from_their_page(
    operator: FlaskClient, platform: Platform, action: str, shown: str
) -> None:
    facts = {"hostname": "h", "cpuCount": 4, "ramTotalMb": 8192}
    platform.store.workers.register("w1", facts, now=platform.store.clock.now())
    answer = operator.post(
        f"/worker/{action}", data={"id": "w1"}, headers=OWN_SITE, follow_redirects=True
    )
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


def test_an_open_page_of_who_was_signed_out_is_led_to_sign_in_and_back(
    anonymous: FlaskClient,
) -> None:
    part = anonymous.get("/workers", headers={"HX-Request": "true"})
    assert part.status_code == 401
    assert part.headers["HX-Redirect"] == "/sign-in?next=/workers?"


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [(AutoReconnect("away"), 503, "MongoDB does not answer"), (KeyError("x"), 500, "went wrong")],
)
def test_an_outage_and_a_defect_are_pages_too(
    operator: FlaskClient,
    platform: Platform,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    said: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(platform.store.workers, "listed", fail)
    page = operator.get("/workers")
    assert (page.status_code, page.mimetype) == (status, "text/html")
    assert said in page.text
    assert page.headers.get("Retry-After") == ("2" if status == 503 else None)


@pytest.mark.parametrize("path", ["/theme", "/sign-in"])
@pytest.mark.parametrize(
    "target",
    [
        "//evil",
        "///evil",
        "/\\evil",
        "\\evil",
        "/\t/evil",
        "/\n/evil",
        "http://evil",
        "evil",
        "/\x00",
        "",
    ],
)
def test_nothing_leads_to_another_site(platform: Platform, path: str, target: str) -> None:
    token = platform.store.tokens.create(role="viewer", name="v")
    client = create_app(platform).test_client()
    answer = client.post(path, data={"token": token, "next": target}, headers=OWN_SITE)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")


def test_the_token_of_an_agent_signs_nobody_in(platform: Platform) -> None:
    token = platform.store.tokens.create(role="agent", name="a")
    client = create_app(platform).test_client()
    answer = client.post("/sign-in", data={"token": token})
    assert answer.status_code == 403
    assert "This token is an agent's" in answer.text
    assert "Set-Cookie" not in answer.headers


def test_a_link_signs_one_browser_in_and_its_token_ends_with_the_session(
    platform: Platform,
) -> None:
    store = platform.store
    code = store.sign_in_codes.create(role="operator", now=store.clock.now())
    client = create_app(platform).test_client()
    for _ in range(2):
        assert "signs this browser in, once" in client.get(f"/sign-in?code={code}").text
        assert "Set-Cookie" not in client.head(f"/sign-in?code={code}").headers
    assert client.post("/sign-in", data={"code": code}).status_code == 303
    assert client.get("/workers").status_code == 200
    other = create_app(platform).test_client()
    again = other.post("/sign-in", data={"code": code})
    assert again.status_code == 401
    assert "used already" in again.text
    client.post("/sign-out", headers=OWN_SITE)
    assert store.tokens.list() == []


def test_a_link_grows_old(platform: Platform, clock: TestClock) -> None:
    store = platform.store
    code = store.sign_in_codes.create(role="operator", now=store.clock.now())
    clock.advance(VALID_FOR.total_seconds() + 1)
    answer = create_app(platform).test_client().post("/sign-in", data={"code": code})
    assert answer.status_code == 401


@pytest.mark.parametrize("theme", ["light", "dark", "auto", HOSTILE])
def test_light_and_dark_are_the_readers_choice(platform: Platform, theme: str) -> None:
    client = create_app(platform).test_client()
    answer = client.post("/theme", data={"theme": theme, "next": "/sign-in"})
    assert answer.headers["Location"] == "/sign-in"
    page = client.get("/sign-in").text
    assert (f'data-theme="{theme}"' in page) == (theme in ("light", "dark"))
    assert "<script>alert" not in page


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
    ("path", "status"),
    [
        ("/jobs/gone", 404),
        ("/?after=made-up", 422),
        ("/?status=GONE", 404),
        ("/?q=%00", 422),
        ("/?q=nothing:of-ours", 422),
        ("/?q=" + "w" * 1001, 422),
        ("/worker?id=%00", 404),
        ("/overview?range=year", 404),
    ],
)
def test_what_is_not_there_is_a_page_too(operator: FlaskClient, path: str, status: int) -> None:
    answer = operator.get(path)
    assert answer.status_code == status
    assert answer.mimetype == "text/html"


@pytest.mark.parametrize(
    ("path", "status"), [("/nope", 404), ("/static/nope.css", 404), ("/sign-out", 405)]
)
@pytest.mark.parametrize("signed_in", [True, False])
def test_an_address_where_nothing_is_is_a_page_for_a_browser_alone(
    operator: FlaskClient, platform: Platform, path: str, status: int, signed_in: bool
) -> None:
    client = operator if signed_in else create_app(platform).test_client()
    page = client.get(path, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (page.status_code, page.mimetype) == (status, "text/html")
    assert "To the jobs" in page.text
    assert client.get(path).mimetype == "application/problem+json"
    asked = client.get("/api/nope", headers={"Accept": "text/html"})
    assert (asked.status_code, asked.mimetype) == (404, "application/problem+json")
