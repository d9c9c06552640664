"""A job's page in a real browser: its output as it arrives, whatever it contains."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.conftest import Opens
from tests.browser.scene import Scene
from tests.browser.test_lists import is_marked, mark, turn

ROWS = "#viewer .row"


def open_job(opens: Opens, scene: Scene, name: str, hash_: str = "", **options: object) -> Page:
    page = opens(f"/jobs/{scene.jobs[name]}{hash_}", **options)
    expect(page.locator(ROWS).first).to_be_visible()
    return page


def test_who_comes_late_gets_all_and_follows(opens: Opens, scene: Scene) -> None:
    page = open_job(opens, scene, "runs")
    mark(page)
    count = page.locator(ROWS).last.inner_text()
    expect(page.locator(ROWS).last).not_to_have_text(count)
    page.keyboard.press("g")
    expect(page.locator(ROWS).first).to_contain_text("line 1")
    expect(page.get_by_role("button", name="Follow")).to_have_attribute("aria-pressed", "false")
    assert is_marked(page)


def test_a_cancel_ends_it_on_the_page_without_a_reload(opens: Opens, scene: Scene) -> None:
    scene.submit("stopped", "echo begun; sleep 600")
    page = open_job(opens, scene, "stopped")
    page.get_by_text("Cancel…").click()
    page.get_by_label("Reason").fill("enough <b>of it</b>")
    page.get_by_role("button", name="Cancel this job").click()
    page.wait_for_load_state()
    mark(page)
    expect(page.locator("#facts .head .badge")).to_have_text("Cancelled")
    assert is_marked(page)
    expect(page.get_by_role("button", name="Run again")).to_be_visible()
    expect(page.locator("#facts")).to_contain_text("to be cancelled: enough <b>of it</b>")


def test_a_stranger_prints_and_nothing_obeys(opens: Opens, scene: Scene) -> None:
    page = open_job(opens, scene, "hostile")
    lines = page.locator(f"{ROWS} .t")
    expect(lines.nth(0)).to_contain_text("<script>document.title='owned'</script><img src=x")
    expect(lines.nth(1)).to_have_text("link")
    expect(lines.nth(2)).to_have_text("red green plain concealed")
    expect(page.locator(".c1")).to_have_text("red ")
    expect(page.locator(".c2.a-bold")).to_have_text("green")
    expect(page.locator("#viewer .row", has_text="nimda")).to_contain_text(r"user \x202enimda")
    assert page.locator("main img, main script, #viewer a[href^='http://evil']").count() == 0
    assert "owned" not in page.title()


def test_no_script_runs_that_is_not_a_file_of_ours(opens: Opens, complaints: list[str]) -> None:
    page = opens("/sign-in")
    answer = page.evaluate(
        """() => new Promise((done) => {
          document.addEventListener("securitypolicyviolation", (e) => done(e.violatedDirective));
          const made = document.createElement("div");
          made.setAttribute("onclick", "document.title = 'owned'");
          document.body.append(made);
          made.click();
          setTimeout(() => done("nothing was refused"), 5000);
        })"""
    )
    assert answer == "script-src-attr"
    assert "Content Security Policy" in complaints.pop()
    assert page.title() == "Sign in · Taskyard"


def test_streams_are_told_apart(opens: Opens, scene: Scene) -> None:
    page = open_job(opens, scene, "failed")
    expect(page.locator(f"{ROWS}.stderr")).to_contain_text("no such part")
    page.get_by_role("button", name="stderr").click()
    expect(page.locator(ROWS)).to_have_count(1)
    expect(page.locator(ROWS)).to_contain_text("no such part")
    page.get_by_role("button", name="stdout").click()
    expect(page.locator(ROWS)).to_contain_text("looking")


def test_a_bar_that_redraws_itself_is_one_line_however_often(opens: Opens, scene: Scene) -> None:
    bar = "for n in $(seq 400); do printf '\\r%3d of 400 ####################' $n; done"
    scene.submit("bar", f"{bar}; printf '\\ndone'")
    scene.client.wait(scene.jobs["bar"])
    page = open_job(opens, scene, "bar")
    expect(page.locator(f"{ROWS} .t")).to_have_text(["400 of 400 ####################", "done"])


def test_megabytes_are_a_window_of_lines(opens: Opens, scene: Scene) -> None:
    """Twelve megabytes in a million and a half lines, then one line of two megabytes."""
    scene.submit("flood", "seq 1 1500000; head -c 2000001 /dev/zero | tr '\\0' x; echo end")
    scene.client.wait(scene.jobs["flood"])
    page = open_job(opens, scene, "flood")
    page.keyboard.press("G")
    expect(page.locator(ROWS).last).to_contain_text("xend")
    assert page.locator(ROWS).count() < 120
    page.keyboard.press("/")
    page.keyboard.type("xx")
    expect(page.locator("#found")).to_have_text("1 of 1,000")
    expect(page.locator("mark").first).to_be_visible()
    assert page.locator(f"{ROWS}.found mark").count() == 100, "the first of a thousand"
    page.locator("#needle").fill("")
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("1234567")
    expect(page.locator("#found")).to_have_text("1 of 1")
    expect(page.locator(f"{ROWS}.found")).to_contain_text("1234567")
    found = page.locator(f"{ROWS}.found .n")
    expect(found).to_have_attribute("href", "#L1234567")
    found.click()
    page.reload()
    expect(page.locator(f"{ROWS}.chosen .t")).to_have_text("1234567")


def test_what_was_missed_in_the_background_comes_then(opens: Opens, scene: Scene) -> None:
    page = open_job(opens, scene, "runs")
    turn(page, hidden_now=True)
    count = page.locator(ROWS).last.inner_text()
    turn(page, hidden_now=False)
    expect(page.locator(ROWS).last).not_to_have_text(count)
    page.keyboard.press("g")
    expect(page.locator(ROWS).nth(1)).to_contain_text("line 2")


def test_a_page_that_lost_its_stream_says_so_until_it_has_it_again(
    opens: Opens, scene: Scene, complaints: list[str]
) -> None:
    job_id = scene.client.submit("echo first; sleep 600")
    page = opens()
    page.route("**/api/jobs/events?*", lambda route: route.abort())
    page.goto(f"{scene.url}/jobs/{job_id}")
    expect(page.locator("#line")).to_have_text("Connection lost, trying again")
    page.unroute_all()
    expect(page.locator(".row.stdout")).to_contain_text("first")
    expect(page.locator("#line")).to_be_hidden()
    page.route("**/api/jobs/events?*", lambda route: route.fulfill(status=404))
    page.reload()
    expect(page.locator("#line")).to_have_text("Not followed any more: load the page again")
    complaints.clear()
    scene.client.cancel(job_id)


def test_why_it_waits_is_said_for_each_worker(opens: Opens, scene: Scene) -> None:
    page = opens(f"/jobs/{scene.jobs['waits']}")
    expect(page.locator(".reason")).to_contain_text("no healthy worker has label gpu")
    page.get_by_text("What each worker says").click()
    expect(page.locator(".reason table")).to_contain_text("has no label gpu")


def test_all_attempts_are_drawn(opens: Opens, scene: Scene) -> None:
    page = open_job(opens, scene, "retried")
    expect(page.locator(".rails svg")).to_have_count(3)
    expect(page.locator(".rails .bar.running")).to_have_count(3)


def test_the_text_of_an_attempt_leaves_with_it_though_the_next_prints_nothing(
    opens: Opens, scene: Scene, tmp_path: Path
) -> None:
    go, end = tmp_path / "go", tmp_path / "end"
    first = f"echo first; until [ -e {go} ]; do sleep 0.1; done; exit 3"
    second = f"until [ -e {end} ]; do sleep 0.1; done"
    command = f'if [ "$TASKYARD_ATTEMPT" = 1 ]; then {first}; else {second}; fi'
    scene.submit("silent", command, retryOnExit=True)
    page = open_job(opens, scene, "silent")
    expect(page.locator(ROWS)).to_contain_text(["first"])
    go.touch()
    expect(page.locator(ROWS)).to_have_count(0)
    end.touch()
    expect(page.locator("#facts .head .badge")).to_have_text("Completed")


def test_the_output_of_an_earlier_attempt_is_looked_at_like_the_last(
    opens: Opens, scene: Scene
) -> None:
    page = open_job(opens, scene, "retried")
    attempts = page.get_by_role("navigation", name="Output of attempt")
    expect(page.locator(ROWS).first).to_contain_text("try 3")
    attempts.get_by_role("link", name="1").click()
    expect(page.locator(ROWS).first).to_contain_text("try 1")
    expect(attempts.locator("[aria-current]")).to_have_text("Attempt 1")
    page.get_by_role("button", name="stderr").click()
    expect(page.locator(ROWS)).to_have_count(1)
    expect(page.locator(ROWS)).to_contain_text("no")
    expect(page.get_by_role("link", name="As text")).to_have_attribute(
        "href", re.compile("attempt=1")
    )
    page.go_back()
    expect(page.locator(ROWS).first).to_contain_text("try 3")


def test_it_is_edited_and_run_again_and_both_know_of_it(
    opens: Opens, scene: Scene, complaints: list[str]
) -> None:
    page = open_job(opens, scene, "failed")
    page.get_by_role("link", name="Edit and run…").click()
    page.get_by_label("Priority").fill("99")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("alert")).to_be_visible()
    assert "422" in complaints.pop()
    page.get_by_label("Priority").fill("7")
    page.get_by_label("Command").fill("echo edited")
    page.get_by_role("button", name="Run").click()
    expect(page.locator("#facts .head .badge")).to_have_text("Completed")
    expect(page.locator(ROWS)).to_contain_text("edited")
    page.get_by_role("link", name=re.compile(scene.jobs["failed"][-12:])).click()
    expect(page.locator("#facts")).to_contain_text("Run again as")


def test_its_line_is_copied(opens: Opens, scene: Scene) -> None:
    page = open_job(opens, scene, "build", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_text("As a line for the command line").click()
    box = page.locator(".copy", has=page.get_by_label("Command line"))
    box.get_by_role("button").click()
    expect(box.get_by_role("button")).to_have_text("Copied")
    assert "taskyard run --cpu 0.1" in page.evaluate("navigator.clipboard.readText()")
