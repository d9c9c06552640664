"""One search language: the API's list, the page and the command line find the same jobs."""

from __future__ import annotations

import html
import json
import re

import pytest
from click.testing import CliRunner

from taskyard.cli import taskyard
from taskyard.context import Platform
from tests.dashboard.test_pages import browser
from tests.serving import served
from tests.store.test_searches import FOUND
from tests.store.test_searches import names as names

#: Some of the fixture's jobs have run or waited from the past up to now: what these searches find
#: depends on the present time.
UP_TO_NOW = ("run>1s", "wait>1s")


@pytest.mark.usefixtures("names")
def test_api_page_and_command_line_find_the_same_jobs(platform: Platform) -> None:
    operator = browser(platform, "operator")
    token = platform.store.tokens.create(role="viewer", name="cli")
    with served(platform) as url:
        runner = CliRunner(env={"TASKYARD_URL": url, "TASKYARD_TOKEN": token})
        for text, expected in FOUND:
            listed = operator.get("/api/jobs/list", query_string={"q": text}).get_json()
            by_api = [job["jobId"] for job in listed["jobs"]]
            page = operator.get("/", query_string={"q": text}).text
            by_page = re.findall(r'<td class="job"><a class="id" href="/jobs/([^"]+)"', page)
            ran = runner.invoke(taskyard, ["list", "-q", text, "-o", "json"])
            assert ran.exit_code == 0, (text, ran.output)
            by_line = [job["jobId"] for job in json.loads(ran.stdout)["jobs"]]
            assert by_api == by_page == by_line, text
            if text not in UP_TO_NOW:
                assert len(by_api) == len(expected.split()), text


@pytest.mark.parametrize("text", ["colour:red", "status:gone", '"open', "created>soon"])
def test_a_search_that_makes_no_sense_is_refused_with_the_same_words(
    platform: Platform, text: str
) -> None:
    operator = browser(platform, "operator")
    (told,) = operator.get("/api/jobs/list", query_string={"q": text}).get_json()["errors"]
    page = operator.get("/", query_string={"q": text})
    with served(platform) as url:
        token = platform.store.tokens.create(role="viewer", name="cli")
        runner = CliRunner(env={"TASKYARD_URL": url, "TASKYARD_TOKEN": token})
        ran = runner.invoke(taskyard, ["list", "-q", text])
    assert page.status_code == 422
    assert told["message"] in html.unescape(page.text)
    assert told["message"] in str(ran.exception)
