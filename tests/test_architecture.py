"""The rules of the source layout, checked on the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "platform" / "taskyard"
MODULES = sorted(SOURCE.rglob("*.py"))

#: The parts of Taskyard that a part may import, beside the pure modules and itself.
ALLOWED: dict[str, set[str]] = {
    "jobs": {"workers"},
    "workers": {"jobs"},
    "store": {"embedded"},
    "scheduler": {"store", "context", "celery_names"},
    "agent": {"store", "context", "celery_names"},
    "api": {"store", "context", "operations", "worker_half", "follow", "ends"}
    | {"waiting", "bulk", "overview", "system", "dashboard"},
    "dashboard": {"store", "context", "operations", "bulk", "overview", "waiting", "system", "api"},
    "client": set(),
    "cli": {"client", "up", "store", "embedded"},
    "up": {"client", "store", "embedded"},
    "broker": set(),
}

PURE = {"errors", "settings", "events", "logs", "clock", "documents", "ids", "jobs", "workers"}
PURE |= {"addresses", "archive", "packing", "stats"}


def imports(module: Path) -> Iterator[str]:
    """Yield the dotted names that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(module: Path) -> str:
    return module.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_run_one_way(part: str) -> None:
    for module in MODULES:
        if part_of(module) != part or module.name == "bootstep.py":
            continue
        for name in imports(module):
            if not name.startswith("taskyard."):
                continue
            wanted = name.split(".")[1]
            allowed = PURE | ALLOWED[part] | {part, "__version__"}
            assert wanted in allowed, (module, name)


@pytest.mark.parametrize(
    ("library", "parts"),
    [
        ("pymongo", {"store", "embedded", "broker"}),
        ("bson", {"store", "embedded", "broker"}),
        ("flask", {"api", "dashboard"}),
        ("celery", {"celery_app", "results", "agent", "scheduler", "tasks"}),
        ("kombu", {"broker"}),
        ("click", {"cli"}),
        ("rich", {"cli", "up"}),
        ("httpx2", {"client", "agent"}),
        ("prometheus_client", {"api"}),
    ],
)
def test_a_library_is_used_in_its_own_part_alone(library: str, parts: set[str]) -> None:
    users = {part_of(m) for m in MODULES for name in imports(m) if name.split(".")[0] == library}
    assert users <= parts


@pytest.mark.parametrize(
    ("part", "modules"), [("agent", ["bootstep.py"]), ("scheduler", ["beat.py", "bootstep.py"])]
)
def test_a_part_meets_celery_where_celery_loads_it(part: str, modules: list[str]) -> None:
    users = [m.name for m in MODULES if part_of(m) == part and "celery" in set(_roots(m))]
    assert users == modules


def test_no_host_clock_is_read_where_it_would_matter() -> None:
    """Instants are by the database's clock. Exempt are the CLI, which shows ages; the broker, which
    uses a publisher's own time span; and log lines, which say when this host wrote them.
    """
    free = {"cli", "broker", "logs"}
    for module in MODULES:
        if part_of(module) in free:
            continue
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                call = f"{ast.unparse(node.func.value)}.{node.func.attr}"
                assert call not in {"time.time", "datetime.now", "datetime.utcnow"}, module


def test_the_source_root_is_no_package() -> None:
    assert not (SOURCE.parent / "__init__.py").exists()


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(SOURCE)))
def test_a_module_says_what_it_is_about_and_stays_small(module: Path) -> None:
    text = module.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    assert len(text.splitlines()) <= 420
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            methods = [n.name for n in node.body if isinstance(n, ast.FunctionDef)]
            public = [name for name in methods if not name.startswith("_")]
            assert len(public) < 20, node.name


def _roots(module: Path) -> Iterator[str]:
    return (name.split(".")[0] for name in imports(module))
