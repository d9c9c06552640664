"""Their tests, from the published source of the version that is installed here."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tarfile
from pathlib import Path

#: All that is changed in their files: the URL, as (file, what it says, what it shall say).
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

#: Python imports this by itself in every process of theirs, as an application would our package.
_SITECUSTOMIZE = "import taskyard.broker\n"


def unpack(package: str, folder: Path) -> str:
    """Put the package's tests into the folder, adapted; returns their version."""
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
        # Not the library itself: what is installed here is what is tested.
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
