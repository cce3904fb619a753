# SPDX-License-Identifier: Apache-2.0
"""Where things lie in a checkout."""
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEADER = ROOT / "include" / "tailcut.h"
SHIM = ROOT / "python_shim"
sys.path.insert(0, str(ROOT / "tests" / "conformance"))  # method.py: an independent statement of
                                                         # the method
