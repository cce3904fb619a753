# SPDX-License-Identifier: Apache-2.0
"""The video rule of vLLM, SGLang and TensorRT-LLM (efficient video sampling, `evs`) in one pass,
without a wait: each token is compared with the same patch one frame earlier, and of all N
max(tokens_per_frame, int(N * (1 - q))) stay, the least similar first, ties in order. So the first
frame stays whole.

The servers round the cosines to the type of the features, which in half precision makes ties of
what is none: around the last token that stays their choice and this one can differ. Here they are
float32, and the same on every machine. A NaN is what they keep first; here it ranks last.
"""
from __future__ import annotations

from functools import lru_cache
from typing import Any, Sequence

from .. import Reference, Rule, kept_count
from .. import prune as _prune


@lru_cache(maxsize=64)
def rule(tokens_per_frame: int, q: float) -> Rule:
    return Rule(ratio=q, rounding="drop-trunc", min_keep=tokens_per_frame, order="low")


def retained(tokens_per_frame: int, num_frames: int, q: float) -> int:
    """How many tokens stay: known before there are any."""
    return kept_count(rule(tokens_per_frame, q), tokens_per_frame * num_frames)


def prune(video: Any, thw: Sequence[int], merge: int, q: float, tokens: bool = True) -> Any:
    """Prunes one video [T*h*w, C] of float16, bfloat16 or float32. thw is its grid before each
    merge x merge patches became one token. Gives a Selection with `mask` (uint8 [T*h*w]) and,
    where asked for, `tokens` [retained, C]."""
    _frames, height, width = map(int, thw)
    per_frame = (height // merge) * (width // merge)
    return _prune(video, Reference("lag", lag=max(per_frame, 1)), rule=rule(per_frame, q),
                  want=("mask",), out=None if tokens else False)
