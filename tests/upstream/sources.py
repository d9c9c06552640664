"""The tests of kombu and Celery, from the published source of the installed version."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tarfile
from pathlib import Path

#: The only changes to their files are URLs: (file, old text, new text) for each package.
#: Celery's suite takes its URLs from the environment and needs no change.
ADAPTED = {
    "kombu": [
        (
            "t/integration/test_mongodb.py",
            "f'mongodb://{hostname}:{port}/{vhost}'",
            "f'taskyard+mongodb://{hostname}:{port}/{vhost}?authSource=admin&directConnection=true'",
        ),
        (
            "t/integration/test_mongodb.py",
            "'mongodb://localhost:12345?connectTimeoutMS=1'",
            "'taskyard+mongodb://localhost:12345/?connectTimeoutMS=1'",
        ),
    ],
    "celery": [],
}

#: Python imports this in every process of the suites: an application would import our package.
_SITECUSTOMIZE = "import taskyard.broker\n"


def unpack(package: str, folder: Path) -> str:
    """Put the package's adapted tests into the folder; returns the package's version."""
    version = importlib.metadata.version(package)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
            *("--no-binary", ":all:", "--dest", str(folder), f"{package}=={version}"),
        ],
        check=True,
    )
    [archive] = folder.glob(f"{package}-*.tar.gz")
    with tarfile.open(archive) as source:
        # Leave the library itself out, so that the installed one is tested.
        for member in source.getmembers():
            _, _, member.name = member.name.partition("/")
            if member.name.startswith("t/") or member.name in ("pyproject.toml", "setup.cfg"):
                source.extract(member, folder, filter="data")
    for name, theirs, ours in ADAPTED[package]:
        text = (folder / name).read_text()
        assert theirs in text, f"{name} of {package} {version} has no {theirs}"
        (folder / name).write_text(text.replace(theirs, ours))
    (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    return version
