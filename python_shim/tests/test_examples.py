# SPDX-License-Identifier: Apache-2.0
"""The examples run, and the README's lines do what it says."""
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tailcut
from paths import ROOT, SHIM

EXAMPLES = sorted((SHIM / "examples").glob("*.py"))


def needs_torch(example):
    return re.search(r"^(import|from) (torch|transformers)", example.read_text(), re.M) is not None


@pytest.mark.parametrize("example", [e for e in EXAMPLES if not needs_torch(e)
                                     or os.environ.get("TAILCUT_TEST_TORCH")],
                         ids=lambda example: example.stem)
def test_example(example, tmp_path):
    if "transformers" in example.read_text():
        pytest.importorskip("transformers", reason="transformers is not installed")
    package = Path(tailcut.__file__).parent.parent
    subprocess.run([sys.executable, example], check=True, cwd=tmp_path,
                   env=os.environ | {"PYTHONPATH": str(package)})


def test_readme():
    """The first Python block of each README runs on made-up features."""
    for readme in (ROOT / "README.md", SHIM / "README.md"):
        code = re.search(r"^```python\n(.*?)^```", readme.read_text(), re.M | re.S).group(1)
        rng = np.random.default_rng(0)
        names = {"features": rng.normal(size=(2, 64, 32)).astype(np.float32),
                 "cls": rng.normal(size=(2, 32)).astype(np.float32)}
        exec(code, names)
        assert names["kept"].tokens.shape == (names["kept"].counts.sum(), 32)
