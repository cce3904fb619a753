# SPDX-License-Identifier: Apache-2.0
"""OpenVINO GenAI's select_tokens(visual [B, N, D], text [M, D]) -> indices, with its arguments and
its count; what is selected is tailcut's choice.

A visual token's score is its cosine to the mean direction of the text (its mean cosine to the
text's tokens); of each image the best round(N * (1 - pruning_ratio / 100)) stay, at least one.
`spread` is the share of them that is taken evenly from the rest instead. GenAI's CDPruner is a
determinantal process over relevance and likeness, a step per token; this is one sort, exact and the
same everywhere. reference="novelty" takes, without the text, what differs most.

Arrays are numpy's, PyTorch's or openvino.Tensor, on the CPU; float16, float32, or bfloat16 of
PyTorch.

Limits: GenAI calls its CDPruner inside a C++ pipeline that has no door for another, so this is for
pipelines put together in Python. Counts are GenAI 2026's but where it splits a long image. Tested
on numpy and PyTorch, and once on openvino.Tensor of OpenVINO 2026.4.1. No model was run.
"""
from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from .. import Reference, Rule, mean_direction, prune


@lru_cache(maxsize=64)
def rule(tokens: int, pruning_ratio: float, spread: float = 0.0) -> Rule:
    """Its k is how many of an image's tokens stay: known before there is one."""
    if not 0 <= pruning_ratio < 100:
        raise ValueError(f"pruning_ratio is {pruning_ratio}; percent, less than all, are expected")
    kept = math.floor(tokens * (1.0 - pruning_ratio / 100.0) + 0.5)  # halves go up: std::round
    return Rule(k=max(kept, 1), spread=spread)


def select_tokens(visual: Any, text: Any, pruning_ratio: float = 30, *, spread: float = 0.0,
                  reference: str = "text") -> list[list[int]]:
    """The tokens of each image that stay, ascending."""
    visual, text = _array(visual), _array(text)
    if visual.ndim != 3 or text.ndim != 2 or visual.shape[-1] != text.shape[-1]:
        raise ValueError(f"visual has shape {list(visual.shape)}, text {list(text.shape)}; "
                         "[B, N, D] and [M, D] are expected")
    against = mean_direction(text)[0] if reference == "text" else Reference(reference)
    how = rule(int(visual.shape[1]), pruning_ratio, spread)
    found = prune(visual, against, rule=how, out=False, want=())
    kept, ends = found.kept.tolist(), found.cu_seqlens.tolist()
    return [kept[start:end] for start, end in zip(ends, ends[1:])]


def _array(of: Any) -> Any:
    """openvino.Tensor has its values in `data`: those of bfloat16 as if they were float16."""
    if "bfloat16" in str(getattr(of, "element_type", "")):
        raise ValueError("bfloat16 of openvino.Tensor cannot be told from float16: convert it")
    return of.data if isinstance(getattr(of, "data", None), np.ndarray) else of
