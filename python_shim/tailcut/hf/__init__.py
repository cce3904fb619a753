# SPDX-License-Identifier: Apache-2.0
"""Visual tokens of Hugging Face models, pruned before and inside the language model:

    import tailcut.hf
    with tailcut.hf.prune(model, ratio=0.22, layer=2, layer_ratio=0.5):
        tokens = model.generate(**inputs, max_new_tokens=100)

LLaVA-1.5, LLaVA-NeXT, Qwen2.5-VL, Qwen3-VL and InternVL of transformers, on random weights
compared token by token with a slow statement of the same. Importing this imports torch and
transformers.
"""
from __future__ import annotations

import re

import transformers

from .._errors import unsupported

#: transformers: from the first of these versions, below the second
SUPPORTED = ((5, 18), (6, 0))


def check_version(version: str) -> None:
    """Raises UnsupportedError for a version of transformers outside SUPPORTED."""
    found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    least, below = SUPPORTED
    if not least <= found < below:
        raise unsupported(
            f"transformers is {version}; tailcut.hf expects one from {least[0]}.{least[1]}, below "
            f"{below[0]}.{below[1]}: pip install "
            f"'transformers>={least[0]}.{least[1]},<{below[0]}.{below[1]}'")


check_version(transformers.__version__)

from ._hooks import Pruning  # noqa: E402  (these import what another version may not have)
from ._prune import prune  # noqa: E402

__all__ = ["SUPPORTED", "Pruning", "check_version", "prune"]
