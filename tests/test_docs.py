"""The docs agree with the code."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from taskyard.api.app import create_app
from taskyard.api.metrics import PlatformCollector
from taskyard.api.worker_schemas import HandedOut
from taskyard.context import Platform
from taskyard.embedded import EmbeddedServer
from taskyard.jobs.states import Verb
from taskyard.scheduler import ticks
from taskyard.settings import Settings
from taskyard.store import indexes, passes
from taskyard.store.client import Store
from taskyard.store.jobs import _PAST
from tests.api.agents import status_of, submit_job
from tests.hard_cases import HARD_CASES, HardCase
from tests.helpers import eventually
from tests.serving import served

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += [ROOT / "bench" / "README.md", ROOT / "tests" / "chaos" / "README.md"]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
API = (ROOT / "docs" / "api.md").read_text()


def test_every_setting_is_listed_with_its_default() -> None:
    listed = dict(re.findall(r"^\| `(\w+)` \|(.*?)\|", OPERATIONS, re.MULTILINE))
    for field in dataclasses.fields(Settings):
        name = "MONGODB_URI" if field.name == "mongodb_uri" else f"TASKYARD_{field.name.upper()}"
        assert name in listed
        if field.name in ("mongodb_uri", "data_dir", "workspace_dir", "worker_id", "auth"):
            continue  # no default, or one that the docs describe in words
        default = field.default
        expected = ",".join(default) if isinstance(default, tuple) else f"{default}"
        shown = listed[name].strip(" `")
        assert shown == expected.removesuffix(".0"), name


def test_every_event_is_listed() -> None:
    said = set(re.findall(r"`([a-z]+\.[a-z_]+)`", OPERATIONS))
    told = {f"job.{_PAST[verb]}" for verb in Verb if verb in _PAST}
    for module in (ROOT / "platform").rglob("*.py"):
        told |= _told(module)
        for stream in re.findall(r'tell_broken\("([a-z]+)"', module.read_text()):
            told |= {f"{stream}.interrupted", f"{stream}.failed"}
    assert told - said == set()


def test_every_collection_is_listed() -> None:
    section = OPERATIONS.split("## What is stored")[1].split("\n## ")[0]
    listed = set(re.findall(r"`([a-z_.]+)`", section))
    used = {passes.COLLECTION, *indexes.INDEXES}
    for module in (ROOT / "platform").rglob("*.py"):
        named = re.findall(r'database\[f?"(?:\{prefix\})?([a-z_.]+)"\]', module.read_text())
        used |= {f"broker{name}" if name.startswith(".") else name for name in named}
    assert used - listed == set()


def test_every_route_of_the_api_is_described(platform: Platform) -> None:
    app = create_app(platform)
    described = ("/api/", "/metrics", "/healthz", "/readyz")
    rules = [rule.rule.replace("<path:", "<") for rule in app.url_map.iter_rules()]
    paths = {path for path in rules if path.startswith(described)}
    served = {path for path in paths if not path.startswith(("/api/docs", "/api/openapi"))}
    assert {path for path in served if path not in API} == set()


def test_every_metric_is_listed_with_its_labels(platform: Platform) -> None:
    listed = set(re.findall(r"^\| `(taskyard_\w+(?:\{\w+\})?)` \|", OPERATIONS, re.MULTILINE))
    app = create_app(platform)
    for name in ("timeouts", "health"):
        ticks.run(platform, name)
    with app.test_request_context():
        families = list(PlatformCollector(platform).collect())
    served = set()
    for family in families:
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = {name for sample in family.samples for name in sample.labels}
        label = "".join(f"{{{name}}}" for name in labels)
        served.add(f"{family.name}{suffix}{label}")
    assert listed == served


def test_space_is_given_back_by_the_user_and_the_command_of_the_page(
    mongod: EmbeddedServer, store: Store
) -> None:
    section = OPERATIONS.split("## Free space")[1].split("\n## ")[0]
    (command,) = re.findall(r"`db\.runCommand\((\{.*?\})\)`", section)
    name = store.database.name
    roles = [{"role": role, "db": name} for role in ("readWrite", "dbAdmin") if role in section]
    store.client.admin.command("createUser", "space", pwd="space", roles=roles)
    try:
        with MongoClient[dict[str, Any]](re.sub("//.*@", "//space:space@", mongod.uri)) as client:
            store.database.output.insert_one({})
            assert client[name].command(json.loads(re.sub(r"(\w+):", r'"\1":', command)))["ok"]
    finally:
        store.client.admin.command("dropUser", "space")


def test_every_check_of_readiness_is_listed(platform: Platform) -> None:
    section = OPERATIONS.split("## Readiness")[1].split("## Metrics")[0]
    listed = {
        name
        for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
        for name in re.findall(r"`([a-z.]+)`", row)
    }
    answer = create_app(platform).test_client().get("/readyz")
    assert listed == set(answer.get_json()["checks"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_are_headings(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
        text = (page.parent / target if target else page).read_text()
        headings = {h.lower().replace(" ", "-") for h in re.findall(r"^#+ (.+)$", text, re.M)}
        assert anchor in headings, anchor


def test_the_tour_names_what_is_there() -> None:
    page = ROOT / "docs" / "code.md"
    named = re.findall(r"\[`(\w+)\.(?!py`)(\w+)`\]\(([^)]+\.py)\)", page.read_text())
    assert named
    for module, name, target in named:
        source = page.parent / target
        assert (source.stem, name in _defined(source)) == (module, True), f"{module}.{name}"


def test_the_tour_names_every_package() -> None:
    packages = {p.parent.name for p in (ROOT / "platform" / "taskyard").glob("*/__init__.py")}
    table = (ROOT / "docs" / "code.md").read_text().split("## Packages")[1].split("\n## ")[0]
    assert packages == set(re.findall(r"`(\w+)/`", table))


def test_what_an_agent_is_handed_is_described() -> None:
    section = API.split("## Writing an agent")[1].split("\n## ")[0]
    fields = HandedOut().fields.values()
    assert {field.data_key for field in fields} <= set(re.findall(r"`(\w+)`", section))


def test_the_mini_agent_of_the_docs_is_python() -> None:
    blocks = re.findall(r"```python\n(.*?)```", API, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        ran = subprocess.run(
            [sys.executable, "-c", "import ast, sys; ast.parse(sys.stdin.read())"],
            input=block,
            text=True,
            capture_output=True,
        )
        assert ran.returncode == 0, ran.stderr


def test_the_mini_agent_of_the_docs_runs_what_prints_no_text_and_no_lines(
    platform: Platform,
) -> None:
    (source,) = [b for b in re.findall(r"```python\n(.*?)```", API, re.DOTALL) if "get-job" in b]
    client = create_app(platform).test_client()
    token = platform.store.tokens.create(role="operator", name="docs")
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token}"
    job_id = submit_job(client, command=r"printf 'a\377'; head -c 5000000 /dev/zero | tr '\0' x")
    with served(platform) as url:
        env = {**os.environ, "TASKYARD_URL": url, "TASKYARD_TOKEN": token}
        agent = subprocess.Popen([sys.executable, "-c", source], env=env)
        try:
            eventually(lambda: status_of(client, job_id)["status"] == "COMPLETED", 60)
            assert agent.poll() is None
        finally:
            agent.terminate()
            agent.wait()
    printed = client.get(f"/api/jobs/output?jobId={job_id}").text
    assert printed == "a\ufffd" + "x" * 5_000_000


def _told(source: Path) -> set[str]:
    """Return the events that a module emits, also those of conditional expressions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Call) and re.match(
            r"events\.(emit|warn|error)$", ast.unparse(node.func)
        ):
            texts = [str(n.value) for n in ast.walk(node.args[0]) if isinstance(n, ast.Constant)]
            names |= {text for text in texts if re.fullmatch(r"[a-z]+\.[a-z_]+", text)}
    return names


def _defined(source: Path) -> set[str]:
    """Return the names that a module defines at its top level."""
    names: set[str] = set()
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("case", HARD_CASES, ids=lambda case: case.name)
def test_each_hard_case_stands_where_its_table_says(case: HardCase) -> None:
    """``python -m tests.hard_cases`` takes the rules out; this test only looks for them."""
    assert (ROOT / "platform" / "taskyard" / case.module).read_text().count(case.rule) >= 1
    path, name = case.test.split("::")
    assert f"def {name}(" in (ROOT / "tests" / path).read_text()
    assert case.name in (ROOT / "docs" / "reliability.md").read_text()
