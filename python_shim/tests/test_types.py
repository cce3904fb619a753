# SPDX-License-Identifier: Apache-2.0
"""py.typed promises types: mypy --strict finds nothing to say. Where mypy is not installed:
skipped."""
import subprocess
import sys
from pathlib import Path

import pytest

import tailcut
from paths import SHIM


def test_mypy(tmp_path):
    pytest.importorskip("mypy")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", SHIM / "pyproject.toml", "--cache-dir",
         tmp_path, "-p", "tailcut"], cwd=Path(tailcut.__file__).parent.parent,
        capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
