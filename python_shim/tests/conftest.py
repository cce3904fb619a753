# SPDX-License-Identifier: Apache-2.0
"""The package under test is the one that is installed; without one, the checkout's (TAILCUT_LIBRARY
or build/lib)."""
import importlib.util
import os
import sys
from pathlib import Path

import hypothesis

sys.path.insert(0, str(Path(__file__).parent))
import paths  # noqa: E402

if importlib.util.find_spec("tailcut") is None:
    sys.path.insert(0, str(paths.SHIM))

hypothesis.settings.register_profile(
    "suite", max_examples=int(os.environ.get("TAILCUT_EXAMPLES", "100")), deadline=None,
    derandomize=True,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],  # seeds do not get simpler
    suppress_health_check=list(hypothesis.HealthCheck))
hypothesis.settings.load_profile("suite")

# What needs more than numpy is asked for by name.
collect_ignore = [f"test_{name}.py" for name in ("cuda", "torch")
                  if not os.environ.get(f"TAILCUT_TEST_{name.upper()}")]
collect_ignore_glob = [] if os.environ.get("TAILCUT_TEST_TORCH") else ["test_torch_*.py"]
