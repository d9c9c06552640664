"""Show that an installed wheel works alone: ``python wheel_smoke.py <its taskyard>``.

This is no pytest test: the argument is the program in an environment that has only the wheel.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path


def main(taskyard: str) -> None:
    """Start ``up``, run a job on it, and stop it; exits with a message if something went wrong."""
    with tempfile.TemporaryDirectory() as home:
        env = {"PATH": f"{Path(taskyard).parent}:{os.defpath}", "HOME": home, "LANG": "C.UTF-8"}
        up = subprocess.Popen(
            [taskyard, "up", "--port", "0"], cwd=home, env=env, stdout=subprocess.PIPE, text=True
        )
        assert up.stdout is not None
        for line in up.stdout:
            print(line, end="")
            if "Ctrl-C" in line:
                break
        ran = subprocess.run(
            [taskyard, "run", "--", "echo hello"], cwd=home, env=env, capture_output=True, text=True
        )
        up.send_signal(signal.SIGINT)
        code = up.wait(timeout=30)
    if (ran.returncode, ran.stdout, code) != (0, "hello\n", 0):
        sys.exit(f"run: {ran}; up ended with {code}")
    print("the wheel works")


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).absolute()))
