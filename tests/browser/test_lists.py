"""Lists in a real browser: they update by themselves, and actions on them take effect."""

from __future__ import annotations

import re

import httpx2
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, Route, expect

from taskyard.dashboard.job_pages import SHOWN_ATTEMPTS
from tests.browser.conftest import Opens
from tests.browser.scene import Scene

PAGES = {
    "jobs": "/",
    "nothing found": "/?q=nothing-like-this",
    "a build": "/jobs/{build}",
    "a job that waits": "/jobs/{waits}",
    "a job that failed": "/jobs/{retried}",
    "edit": "/jobs/{failed}/edit",
    "workers": "/workers",
    "a worker": "/worker?id={worker}",
    "overview": "/overview?range=15m",
    "system": "/system",
    "sign-in": "/sign-in",
}


def address(scene: Scene, name: str) -> str:
    worker = scene.client.workers()["workers"][0]["workerId"]
    return PAGES[name].format(**scene.jobs, worker=worker)


#: Redraws the chart of run times with a value at one step alone; gives the number of inked pixels.
DRAWN = """(value) => {
  const data = document.getElementById("series").dataset;
  const shown = JSON.parse(data.series);
  const chart = shown.charts.find((each) => each.title === "Run time");
  for (const line of chart.lines) line.values = line.values.map(() => null);
  chart.lines[0].values[30] = value;
  chart.lines[1].values = chart.lines[1].values.map((_, i) => i < 2 ? 20 : null);
  data.series = JSON.stringify(shown);
  document.dispatchEvent(new Event("htmx:afterSettle"));
  const canvas = [...document.querySelectorAll(".chart")]
    .find((each) => each.textContent.includes("Run time")).querySelector("canvas");
  return new Promise((done) => requestAnimationFrame(() => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    done(data.filter((each, i) => i % 4 === 3 && each > 0).length);
  }));
}"""


def row(page: Page, scene: Scene, name: str) -> Locator:
    return page.locator(f"tr:has(a[href$='{scene.jobs[name]}'])")


def mark(page: Page) -> None:
    """Mark the page; a reload removes the mark."""
    page.evaluate("window.marked = true")


def is_marked(page: Page) -> bool:
    return bool(page.evaluate("window.marked === true"))


@pytest.mark.parametrize(("colours", "rules"), [("light", None), ("dark", ["color-contrast"])])
def test_no_page_has_a_serious_barrier(
    opens: Opens, scene: Scene, colours: str, rules: list[str] | None
) -> None:
    """Dark pages differ in colours only, and these few pages have all of them."""
    page = opens("/sign-in", color_scheme=colours)
    serious = []
    for name in ("jobs", "a job that waits", "a job that failed", "overview") if rules else PAGES:
        page.goto(scene.url + address(scene, name))
        expect(page.locator("h1")).to_be_visible()
        found = Axe().run(page, options={"runOnly": rules} if rules else {})
        serious += [
            (name, violation["id"], [node["html"][:120] for node in violation["nodes"]])
            for violation in found.response["violations"]
            if violation["impact"] in ("serious", "critical")
        ]
    assert serious == []


def test_every_page_fits_a_phone(opens: Opens, scene: Scene) -> None:
    page = opens("/sign-in", viewport={"width": 390, "height": 800})
    for name in PAGES:
        page.goto(scene.url + address(scene, name))
        expect(page.locator("h1")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name


def test_names_of_any_length_and_what_is_unfolded_fit_a_phone(opens: Opens, scene: Scene) -> None:
    name = "w" * 200
    as_agent = {"Authorization": f"Bearer {scene.token}"}
    facts = {"workerId": name, "hostname": "h" * 255, "cpuCount": 1, "ramTotalMb": 256}
    httpx2.post(
        f"{scene.url}/api/workers/register", headers=as_agent, json=facts
    ).raise_for_status()
    waits = scene.submit("long label", "true", labels=["l" * 64])
    page = opens("/", viewport={"width": 390, "height": 800})
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    for path in ("/overview", "/workers", f"/worker?id={name}", f"/jobs/{waits}"):
        page.goto(scene.url + path)
        page.locator("details").evaluate_all("all => all.forEach((each) => { each.open = true; })")
        expect(page.locator("main")).to_contain_text(re.compile("www|lll"))
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
    page.goto(f"{scene.url}/workers")
    # The cells beside a long name are visible without scrolling sideways.
    expect(page.get_by_role("cell", name="Idle").last).to_be_in_viewport(ratio=1)
    scene.client.cancel(waits)
    httpx2.delete(f"{scene.url}/api/workers/{name}", headers=as_agent).raise_for_status()


def test_as_many_attempts_as_are_linked_to_fit_a_phone(opens: Opens, scene: Scene) -> None:
    again = {"maxRetries": SHOWN_ATTEMPTS, "retryOnExit": True}
    scene.submit("often", "echo $TASKYARD_ATTEMPT; exit 1", **again)
    scene.client.wait(scene.jobs["often"])
    page = opens(f"/jobs/{scene.jobs['often']}", viewport={"width": 360, "height": 800})
    expect(page.locator("#attempts a")).to_have_count(SHOWN_ATTEMPTS)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_labels_beside_long_names_can_be_read(opens: Opens, scene: Scene) -> None:
    name, as_agent = f"agent@{'w' * 100}", {"Authorization": f"Bearer {scene.token}"}
    facts = {"workerId": name, "hostname": "h" * 100, "version": "v" * 64, "labels": ["l" * 20]}
    httpx2.post(
        f"{scene.url}/api/workers/register", headers=as_agent, json=facts
    ).raise_for_status()
    page = opens("/workers", viewport={"width": 1280, "height": 800})
    box = page.locator(".tag", has_text="l" * 20).bounding_box()
    httpx2.delete(f"{scene.url}/api/workers/{name}", headers=as_agent).raise_for_status()
    assert box is not None
    assert box["width"] > 2 * box["height"]


def test_a_new_job_comes_and_changes_without_a_reload(page: Page, scene: Scene) -> None:
    expect(page.locator("#live")).to_have_text("Live")
    mark(page)
    scene.submit("comes", "sleep 1; echo done")
    expect(row(page, scene, "comes")).to_contain_text("Completed")
    assert is_marked(page)


def test_the_counts_of_the_tabs_follow(page: Page, scene: Scene) -> None:
    expect(page.locator("#live")).to_have_text("Live")
    tab = page.get_by_role("link", name="Queued").locator("b")
    before = int(tab.inner_text())
    mark(page)
    scene.submit("counted", "true", labels=["nowhere"])
    expect(tab).to_have_text(str(before + 1))
    scene.client.cancel(scene.jobs["counted"])
    expect(tab).to_have_text(str(before))
    assert is_marked(page)


def test_two_browsers_see_the_same(opens: Opens, scene: Scene) -> None:
    one, other = opens("/"), opens("/")
    scene.submit("shared", "true", labels=["nowhere"])
    for page in (one, other):
        expect(row(page, scene, "shared")).to_contain_text("no healthy worker has label nowhere")
    select(one, scene, "shared", "Cancel…")
    one.get_by_role("button", name="Cancel 1 job").click()
    expect(one.locator(".said")).to_contain_text("1 job cancelled")
    expect(row(other, scene, "shared")).to_contain_text("Cancelled")


def select(page: Page, scene: Scene, name: str, action: str) -> None:
    page.get_by_label(f"Select {scene.jobs[name]}").check()
    page.get_by_role("button", name=action).click()


def test_several_are_run_again_from_the_list(page: Page, scene: Scene) -> None:
    for name in ("failed", "build"):
        page.get_by_label(f"Select {scene.jobs[name]}").check()
    expect(page.locator("#selected")).to_have_text("2 selected")
    expect(page.locator("#live")).to_have_text("Still while rows are selected")
    page.get_by_role("button", name="Run again…").click()
    expect(page.locator("h1")).to_have_text("Run again 2 jobs?")
    page.get_by_role("button", name="Run 2 jobs again").click()
    expect(page.locator(".said")).to_contain_text("2 jobs submitted anew")


def test_all_that_match_are_counted_first_and_then_cancelled(opens: Opens, scene: Scene) -> None:
    names = [f"many {number}" for number in range(12)]
    for name in names:
        scene.submit(name, "true", labels=["nowhere"])
    page = opens("/?q=label:nowhere")
    page.locator("form.matching").get_by_role("button", name="Cancel…").click()
    expect(page.locator("h1")).to_have_text("Cancel 12 jobs?")
    page.get_by_label("Reason").fill("nobody needs them")
    page.get_by_role("button", name="Cancel all").click()
    expect(page.locator(".said")).to_contain_text("12 jobs")
    ended = [scene.client.status(scene.jobs.pop(name)) for name in names]
    assert {job["status"] for job in ended} == {"CANCELLED"}
    assert {job["errorMessage"] for job in ended} == {"cancelled: nobody needs them"}


def test_a_paused_list_stays_as_it_is_and_goes_on(opens: Opens, scene: Scene) -> None:
    paused, live = opens("/"), opens("/")
    expect(paused.locator("#live")).to_have_text("Live")
    paused.keyboard.press("p")
    expect(paused.locator("#live")).to_have_text("Paused")
    scene.submit("unseen", "true")
    expect(row(live, scene, "unseen")).to_contain_text("Completed")
    expect(row(paused, scene, "unseen")).to_have_count(0)
    paused.keyboard.press("p")
    expect(row(paused, scene, "unseen")).to_contain_text("Completed")


def test_a_tab_that_nobody_sees_holds_no_stream_and_catches_up(opens: Opens, scene: Scene) -> None:
    hidden, live = opens("/"), opens("/")
    expect(hidden.locator("#live")).to_have_text("Live")
    turn(hidden, hidden_now=True)
    expect(hidden.locator("#live")).to_have_text("Connecting")
    scene.submit("missed", "true")
    expect(row(live, scene, "missed")).to_contain_text("Completed")
    expect(row(hidden, scene, "missed")).to_have_count(0)
    turn(hidden, hidden_now=False)
    expect(row(hidden, scene, "missed")).to_contain_text("Completed")
    expect(hidden.locator("#live")).to_have_text("Live")


def turn(page: Page, *, hidden_now: bool) -> None:
    """Simulate a tab that goes to the background or comes back: headless tabs never do."""
    page.evaluate(
        """(hidden) => {
          Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden_now,
    )


def test_keys_lead_through_the_list(page: Page) -> None:
    expect(page.locator("#keys-button")).to_be_visible()
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("p")
    page.keyboard.press("j")
    page.keyboard.press("j")
    second = page.locator("tr[data-row] a.id").nth(1)
    expect(second).to_be_focused()
    page.keyboard.press("x")
    expect(page.locator("#selected")).to_have_text("1 selected")
    page.keyboard.press("x")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    second.focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/jobs/job-"))
    expect(page.locator("#keys-button")).to_be_visible()
    page.keyboard.press("W")
    expect(page.locator("h1")).to_have_text("Workers")


def test_a_filter_is_an_address_and_back_goes_back(page: Page, scene: Scene) -> None:
    page.get_by_label("Search", exact=True).fill("report.py")
    page.keyboard.press("Enter")
    expect(page.locator("tr[data-row]")).to_have_count(1)
    page.get_by_role("link", name="Cancelled").click()
    expect(page).to_have_url(re.compile("status=CANCELLED.*q=report.py"))
    expect(row(page, scene, "cancelled")).to_contain_text("not needed any more")
    page.go_back()
    expect(page).to_have_url(re.compile("q=report.py"))


def test_a_viewer_is_offered_nothing_to_do(opens: Opens, scene: Scene) -> None:
    made = scene.up.taskyard("tokens", "create", "--role", "viewer", "--name", "looker")
    token = re.search(r"tyk_\S+", made.stdout)
    assert token, made
    for path in ("/", f"/jobs/{scene.jobs['runs']}", f"/jobs/{scene.jobs['failed']}", "/workers"):
        page = opens(path, token=token[0])
        expect(page.locator("h1")).to_be_visible()
        expect(
            page.locator("form[method=post]:not([action='/theme'], [action='/sign-out'])")
        ).to_have_count(1 if path == "/" else 0)
        expect(page.locator("input[type=checkbox]:visible")).to_have_count(0)


def test_the_overview_draws_its_charts_and_leads_to_jobs(opens: Opens, scene: Scene) -> None:
    page = opens("/overview?range=15m")
    expect(page.locator("#charts canvas")).to_have_count(6)
    page.get_by_role("link", name="Show the jobs").first.click()
    expect(row(page, scene, "waits")).to_be_visible()


def test_a_step_with_nothing_beside_it_is_drawn_too(opens: Opens, scene: Scene) -> None:
    """A new platform has values for one step alone."""
    page = opens("/overview")
    chart = page.locator(".chart", has_text="Run time").locator("canvas")
    expect(chart).to_be_visible()
    only, none = (page.evaluate(DRAWN, value) for value in (10, None))
    assert only > none


def test_without_scripts_all_is_there_and_works(opens: Opens, scene: Scene) -> None:
    scene.submit("scriptless", "true", labels=["nowhere"])
    page = opens("/", java_script_enabled=False)
    select(page, scene, "scriptless", "Cancel…")
    page.get_by_role("button", name="Cancel 1 job").click()
    expect(page.locator(".said")).to_contain_text("1 job cancelled")
    page.goto(scene.page("failed"))
    expect(page.locator("#plain")).to_contain_text("no such part")


def test_the_link_of_up_signs_in_once(opens: Opens, scene: Scene) -> None:
    link = re.search(r"sign in, once +http://[^/]+(/\S+)", scene.up.out)
    assert link, scene.up.out
    page = opens(link[1], token=None)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("h1")).to_have_text("Jobs")
    page.get_by_role("button", name="Theme").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("h1")).to_have_text("Sign in")


def test_a_worker_is_drained_and_resumed(opens: Opens, scene: Scene) -> None:
    page = opens("/workers")
    page.locator("tr[data-row] a").first.click()
    expect(page.get_by_role("heading", name="Holds")).to_be_visible()
    page.get_by_role("button", name="Drain").click()
    expect(page.locator("#list")).to_contain_text("draining")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Drain")).to_be_visible()


def test_a_worker_is_deleted_and_leaves_the_list(opens: Opens, scene: Scene) -> None:
    httpx2.post(
        f"{scene.url}/api/workers/register",
        headers={"Authorization": f"Bearer {scene.token}"},
        json={
            "workerId": "gone-soon",
            "hostname": "h",
            "os": "Linux",
            "cpuCount": 1,
            "ramTotalMb": 256,
        },
    ).raise_for_status()
    page = opens("/worker?id=gone-soon")
    page.get_by_text("Delete…").click()
    page.get_by_role("button", name="Delete this worker").click()
    expect(page.locator("h1")).to_have_text("Workers")
    expect(page.locator("#list")).not_to_contain_text("gone-soon")


def test_a_list_that_is_refused_says_that_it_is_old_until_it_comes_again(
    page: Page, scene: Scene, complaints: list[str]
) -> None:
    """While MongoDB is away, the stream goes on, and requests for the list get 503."""
    expect(page.locator("#live")).to_have_text("Live")
    page.route(scene.url + "/", lambda route: route.fulfill(status=503))
    expect(page.locator("#live")).to_have_text("Not up to date, trying again")
    expect(page.locator("tr[data-row]").first).to_be_visible()
    page.unroute_all()
    expect(page.locator("#live")).to_have_text("Live")
    assert all("503" in said for said in complaints)
    complaints.clear()


def test_what_is_pressed_while_the_list_is_drawn_anew_is_clicked(page: Page, scene: Scene) -> None:
    """A changing list is redrawn each second, and a click during a redraw was lost."""
    expect(page.locator("#live")).to_have_text("Live")
    link = row(page, scene, "failed").locator("td.job a")

    def answer_late(route: Route) -> None:
        answer = route.fetch()
        link.hover()
        page.mouse.down()
        route.fulfill(response=answer)

    page.route(lambda address: address.rstrip("/") == scene.url, answer_late, times=1)
    with page.expect_response(lambda answer: answer.url.rstrip("/") == scene.url):
        scene.submit("pressed", "true")
    page.evaluate("() => new Promise(requestAnimationFrame)")
    page.mouse.up()
    expect(page).to_have_url(f"{scene.url}/jobs/{scene.jobs['failed']}")


def test_a_list_moves_on_beside_the_menu_of_a_link(page: Page, scene: Scene) -> None:
    """While the menu is open, the page gets no event when the button is released."""
    expect(page.locator("#live")).to_have_text("Live")
    row(page, scene, "failed").locator("td.job a").hover()
    page.mouse.down(button="right")
    scene.submit("beside the menu", "true")
    expect(row(page, scene, "beside the menu")).to_be_visible()
    page.mouse.up(button="right")


def test_an_answer_that_was_on_its_way_takes_no_choice_away(page: Page, scene: Scene) -> None:
    """The list is requested before a row is selected, and the answer arrives afterwards."""
    expect(page.locator("#live")).to_have_text("Live")
    box = page.get_by_label(f"Select {scene.jobs['failed']}")

    def answer_late(route: Route) -> None:
        answer = route.fetch()
        box.check()
        route.fulfill(response=answer)

    page.route(lambda address: address.rstrip("/") == scene.url, answer_late, times=1)
    with page.expect_response(lambda answer: answer.url.rstrip("/") == scene.url):
        scene.submit("meanwhile", "true")
    expect(page.locator("#live")).to_have_text("Still while rows are selected")
    expect(box).to_be_checked()
