"""Dead letters in a real browser: they are viewed, put back and dropped."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Opens
from tests.browser.test_lists import is_marked, mark


def letters(page: Page) -> Locator:
    return page.locator("tr[data-row]", has_text="nobody.knows")


def test_a_dead_letter_comes_is_put_back_and_is_dropped(opens: Opens, dead_letter: str) -> None:
    page = opens("/system")
    mark(page)
    expect(letters(page)).to_have_count(1)
    assert is_marked(page), "it came without a reload"

    letters(page).get_by_text("Look").click()
    expect(letters(page).locator("pre")).to_contain_text("<script>document.title=")
    assert "owned" not in page.title()
    with page.expect_response(lambda answer: answer.url.endswith("/system")):
        pass  # wait until the list is redrawn
    expect(letters(page).locator("pre")).to_be_visible()

    choose(page, "Put back")
    expect(page.locator(".said")).to_have_text("1 dead letter put back into the queue.")
    expect(letters(page)).to_have_count(1)  # dead again: no worker knows the task

    choose(page, "Drop for good")
    expect(page.locator(".said")).to_have_text("1 dead letter dropped for good.")
    expect(page.locator("#list")).to_contain_text("None. A message that no consumer could handle")
    expect(letters(page)).to_have_count(0)


def test_a_selection_of_dead_letters_stays_while_the_page_is_live(
    opens: Opens, dead_letter: str
) -> None:
    page = opens("/system")
    box = letters(page).get_by_role("checkbox")
    box.check()
    expect(page.locator("#live")).to_have_text("Still while rows are selected")
    expect(page.locator("#selected")).to_have_text("1 selected")
    page.evaluate("document.querySelector('#list').drawnOnce = true")
    page.evaluate("htmx.trigger('#refresh', 'refresh')")
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.querySelector('#list').drawnOnce")
    expect(box).to_be_checked()
    page.get_by_role("button", name="Drop for good").click()
    expect(letters(page)).to_have_count(0)


def choose(page: Page, action: str) -> None:
    letters(page).get_by_role("checkbox").check()
    page.get_by_role("button", name=action).click()
