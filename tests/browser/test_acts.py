"""The actions of an engineer on the pages, in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Dialog, Page, Route, expect

from tests.browser.chromium import NAMED
from tests.browser.conftest import Opens
from tests.browser.scene import HOSTILE, Scene
from tests.browser.test_job import ROWS, open_job
from tests.browser.test_lists import is_marked, mark, row


def test_over_plain_http_under_a_name_of_the_network_forms_still_act(
    opens: Opens, scene: Scene
) -> None:
    """There a browser sends less information about a form's origin."""
    named = scene.url.replace("127.0.0.1", NAMED)
    page = opens("/sign-in", token=None)
    page.goto(f"{named}/workers")
    page.get_by_label("Token").fill(scene.token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("h1")).to_have_text("Workers")
    scene.submit("by name", "true", labels=["nowhere"])
    page.goto(f"{named}/jobs/{scene.jobs['by name']}")
    page.get_by_text("Cancel…").click()
    page.get_by_role("button", name="Cancel this job").click()
    expect(page.locator("#facts .head .badge")).to_have_text("Cancelled")


def test_a_wrong_token_is_said_and_a_right_one_leads_where_one_was_going(
    opens: Opens, scene: Scene, complaints: list[str]
) -> None:
    page = opens("/overview?range=6h", token=None)
    page.get_by_label("Token").fill("tyk_wrong_one")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("This token is not known.")
    assert "401" in complaints.pop()
    page.get_by_label("Token").fill(scene.token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("h1")).to_have_text("Overview")
    expect(page).to_have_url(re.compile("range=6h"))


def test_the_token_of_an_agent_is_said_to_be_one(
    opens: Opens, scene: Scene, complaints: list[str]
) -> None:
    made = scene.up.taskyard("tokens", "create", "--role", "agent", "--name", "an agent")
    token = re.search(r"tyk_\w+", made.stdout)
    assert token, made.stderr
    page = opens("/sign-in", token=None)
    page.get_by_label("Token").fill(token[0])
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("This token is an agent's.")
    assert "403" in complaints.pop()


def test_the_list_shows_all_that_is_promised_of_a_job(page: Page, scene: Scene) -> None:
    heads = page.locator("thead th:visible").all_inner_texts()
    wanted = ["Job", "Command", "Status", "Worker", "Queued", "Wait", "Run", "Attempts", "Exit"]
    assert [head.strip() for head in heads if head.strip()] == wanted
    cells = row(page, scene, "retried").locator("td").all_inner_texts()
    assert cells[3] == "Failed"
    assert cells[4].startswith("agent@")
    assert cells[-2:] == ["3", "1"]
    queued = row(page, scene, "retried").locator("time")
    expect(queued).to_have_attribute("title", re.compile(r"\d{4}-\d\d-\d\d .* UTC"))
    expect(queued).to_contain_text("ago")


def test_all_that_match_are_counted_first_and_then_run_again(opens: Opens, scene: Scene) -> None:
    for number in range(2):
        scene.submit(f"again {number}", "echo once more; exit 7", maxRetries=0)
    for number in range(2):
        scene.client.wait(scene.jobs.pop(f"again {number}"))
    page = opens("/?q=exit:7")
    page.locator("form.matching").get_by_role("button", name="Run again…").click()
    expect(page.locator("h1")).to_have_text("Run again 2 jobs?")
    page.get_by_role("button", name="Run again all").click()
    expect(page.locator(".said")).to_contain_text("2 jobs submitted anew")


def test_a_job_is_run_again_as_it_was_and_its_inputs_are_copied_as_curl(
    opens: Opens, scene: Scene
) -> None:
    page = open_job(opens, scene, "build", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_text("As a request with curl").click()
    box = page.locator(".copy", has=page.get_by_label("curl"))
    box.get_by_role("button").click()
    expect(box.get_by_role("button")).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("curl -H")
    assert f"{scene.url}/api/jobs/create" in copied
    page.get_by_role("button", name="Run again").click()
    expect(page).not_to_have_url(re.compile(scene.jobs["build"]))
    expect(page.locator("#facts .head .badge")).to_have_text("Completed")
    expect(page.locator("#facts")).to_contain_text("Runs again")


def test_output_and_what_a_job_left_are_downloaded(
    opens: Opens, scene: Scene, tmp_path: Path
) -> None:
    scene.submit("leaves", "echo printed; echo kept > left.html")
    scene.client.wait(scene.jobs["leaves"])
    page = open_job(opens, scene, "leaves")
    with page.expect_download() as begun:
        page.get_by_role("link", name="Download").click()
    begun.value.save_as(tmp_path / "output.txt")
    assert (tmp_path / "output.txt").read_text() == "printed\n"
    with page.expect_download() as begun:
        page.locator("dt:text-is('Result') + dd a").click()
    begun.value.save_as(tmp_path / "left.zip")
    assert (tmp_path / "left.zip").read_bytes().startswith(b"PK")


def test_keys_lead_through_the_matches_in_the_output(opens: Opens, scene: Scene) -> None:
    page = open_job(opens, scene, "build")
    page.keyboard.press("/")
    page.keyboard.type("compiling")
    expect(page.locator("#found")).to_have_text("1 of 6")
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    expect(page.locator("#found")).to_have_text("2 of 6")
    page.keyboard.press("N")
    expect(page.locator("#found")).to_have_text("1 of 6")
    expect(page.locator(f"{ROWS}.found")).to_contain_text("part 1")


def test_k_goes_back_up_and_capitals_open_the_pages(page: Page) -> None:
    expect(page.locator("#keys-button")).to_be_visible()
    page.keyboard.press("p")
    links = page.locator("tr[data-row] a.id")
    for key, nth in (("j", 0), ("j", 1), ("k", 0)):
        page.keyboard.press(key)
        expect(links.nth(nth)).to_be_focused()
    for key, title in (("O", "Overview"), ("S", "Scheduler and system"), ("J", "Jobs")):
        page.keyboard.press(key)
        expect(page.locator("h1")).to_have_text(title)
        expect(page.locator("#keys-button")).to_be_visible()


def test_two_browsers_follow_one_job_and_see_the_same(opens: Opens, scene: Scene) -> None:
    command = "for n in $(seq 1 100); do echo step $n; sleep 0.1; done"
    scene.submit("followed", command)
    first = open_job(opens, scene, "followed")
    expect(first.locator(ROWS).last).to_contain_text(re.compile(r"step \d\d"))
    late = open_job(opens, scene, "followed")
    for page in (first, late):
        expect(page.locator("#facts .head .badge")).to_have_text("Completed")
        page.keyboard.press("g")
        expect(page.locator(f"{ROWS} .t").first).to_have_text("step 1")
        texts = page.locator(f"{ROWS} .t").all_inner_texts()
        assert texts == [f"step {n}" for n in range(1, len(texts) + 1)]
        page.keyboard.press("G")
        expect(page.locator(f"{ROWS} .t").last).to_have_text("step 100")


def test_a_worker_and_a_job_of_strangers_run_nothing_on_any_page(
    opens: Opens, scene: Scene
) -> None:
    name = HOSTILE + "\u202e"
    facts = {"hostname": name, "os": name, "cpuCount": 1, "ramTotalMb": 256, "labels": []}
    headers = {"Authorization": f"Bearer {scene.token}"}
    register = f"{scene.url}/api/workers/register"
    answer = httpx2.post(register, headers=headers, json={"workerId": HOSTILE, **facts})
    answer.raise_for_status()
    command = f"# {name}\necho '{HOSTILE}'; exit 9"
    scene.submit("stranger", command, maxRetries=0, env={"NAME": name}, labels=["nowhere"])
    page = opens("/workers")
    said: list[str] = []

    def refuse(dialog: Dialog) -> None:
        said.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", refuse)
    page.locator("tr[data-row] a", has_text="<script>").click()
    expect(page.locator("h1")).to_contain_text("<script>document.title='owned'</script>")
    expect(page.get_by_text(HOSTILE + r"\x202e").first).to_be_visible()
    for path in ("/", f"/jobs/{scene.jobs['stranger']}", "/overview", "/system"):
        page.goto(scene.url + path)
        expect(page.locator("h1")).to_be_visible()
        assert page.locator("main img, main script").count() == 0
        assert "owned" not in page.title()
    page.goto(scene.page("stranger"))
    page.get_by_text("What each worker says").click()
    expect(page.locator(".reason table")).to_contain_text("<script>")
    page.get_by_text("Every step", exact=True).click()
    assert said == []
    httpx2.post(
        f"{scene.url}/worker/delete",
        cookies={"taskyard_token": scene.token},
        headers={"Origin": scene.url},
        data={"id": HOSTILE},
    )
    scene.client.cancel(scene.jobs.pop("stranger"))


def test_the_overview_leads_from_an_error_to_its_jobs_and_over_its_spans(
    opens: Opens, scene: Scene
) -> None:
    page = opens("/overview")
    for span in ("15m", "6h", "24h", "7d"):
        page.get_by_role("link", name=span, exact=True).click()
        expect(page).to_have_url(re.compile(f"range={span}"))
        expect(page.locator("#charts canvas")).to_have_count(6)
    page.locator("#errors-list tr[data-row]", has_text="exit code").locator("a").first.click()
    expect(page.get_by_label("Search", exact=True)).to_have_value(re.compile("error:"))
    expect(row(page, scene, "failed")).to_be_visible()


def test_the_system_shows_what_is_behind_the_pages(opens: Opens) -> None:
    page = opens("/system")
    mark(page)
    ticks = page.locator("section", has=page.get_by_role("heading", name="Ticks"))
    for name in ("assignment", "health", "retention", "statistics", "timeouts"):
        expect(ticks.get_by_role("rowheader", name=name)).to_be_visible()
    expect(page.get_by_role("heading", name="Last passes")).to_be_visible()
    queues = page.locator("section", has=page.get_by_role("heading", name="Broker queues"))
    expect(queues.get_by_role("rowheader", name="scheduler", exact=True)).to_be_visible()
    page.get_by_text("Collections").click()
    expect(page.get_by_role("rowheader", name="jobs", exact=True)).to_be_visible()
    assert is_marked(page)


@pytest.mark.parametrize("path", ["/", "/workers", "/overview", "/system"])
def test_a_stream_that_ends_goes_on_without_a_complaint(
    opens: Opens, scene: Scene, path: str
) -> None:
    """The server ends each stream after a while; here the first ends at once."""
    page = opens("/sign-in")
    page.route(
        "**/live",
        lambda route: route.fulfill(
            content_type="text/event-stream", body="event: over\ndata:\n\n"
        ),
        times=1,
    )
    with page.expect_response("**/live"):
        page.goto(scene.url + path)
    expect(page.locator("#live")).to_have_text("Live")


def test_what_a_tool_did_to_a_list_is_not_carried_on(page: Page, scene: Scene) -> None:
    """The content security policy would refuse an old element's inline style on a new one."""
    expect(page.locator("#live")).to_have_text("Live")
    page.evaluate("document.querySelector('#all').style.caretColor = 'transparent'")
    scene.submit("redraws", "true")
    expect(row(page, scene, "redraws")).to_contain_text("Completed")
    assert page.locator("#all").get_attribute("style") is None


def test_who_signs_out_in_one_tab_is_asked_to_sign_in_in_the_others(
    opens: Opens, scene: Scene, complaints: list[str]
) -> None:
    jobs = opens("/")
    job, third = jobs.context.new_page(), jobs.context.new_page()
    job.goto(scene.page("runs"))
    third.goto(f"{scene.url}/workers")
    third.get_by_role("button", name="Sign out").click()
    for tab, here in ((jobs, "/?"), (job, f"/jobs/{scene.jobs['runs']}?")):
        expect(tab.locator("h1")).to_have_text("Sign in")
        expect(tab.locator("main input[name=next]")).to_have_value(here)
    # The browser's console complains about the refused (401) part, as it should.
    assert all("401" in said for said in complaints)
    complaints.clear()


@pytest.mark.parametrize(
    "meanwhile",
    [
        "",
        "dispatchEvent(new PageTransitionEvent('pageshow', {persisted: false}))",
        "document.querySelectorAll('form').forEach(f => f.replaceWith(f.cloneNode(true)))",
    ],
    ids=["nothing", "the page was shown", "the forms were drawn anew"],
)
def test_a_second_click_does_nothing_twice(opens: Opens, scene: Scene, meanwhile: str) -> None:
    page = opens(f"/jobs/{scene.jobs['failed']}")
    sent: list[str] = []

    def leave_the_page_as_it_is(route: Route) -> None:
        sent.append(route.request.url)
        route.fulfill(status=204)

    page.route("**/retry", leave_the_page_as_it_is)
    button = page.get_by_role("button", name="Run again", exact=True)
    button.click()
    page.evaluate(meanwhile)
    button.click()
    assert len(sent) == 1
