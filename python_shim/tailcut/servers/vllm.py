# SPDX-License-Identifier: Apache-2.0
"""vLLM: images pruned before the language model; the mask of the video rule `evs` without a wait.

    vllm serve llava-hf/llava-1.5-7b-hf --hf-overrides '{"architectures":
      ["TailcutLlavaForConditionalGeneration"], "tailcut": {"ratio": 0.78}}'

and, with --video-pruning-rate, TailcutQwen2_5_VLForConditionalGeneration (images and videos) and
TailcutQwen3VLForConditionalGeneration (videos). vLLM calls `register` in each of its processes
(entry point vllm.general_plugins); it names models, and those that nobody asks for change nothing.

Limits: vLLM indexes by the mask, which waits, and vidcom2 is its own. Qwen2.5-VL's images need
--video-pruning-rate too: without it nothing sets their M-RoPE positions. The rule is a server's:
keys and values that servers share need it in their salt. Interface of vLLM 0.33, tested on a
stand-in of it; 0.33's own EVS functions were run once beside these. The engine of 0.32 was run on
the CPU, in float32, with tiny models of each family and random weights: tokens and their
log-probabilities are those of transformers, prefill whole and in chunks (prune.py in
tests/servers/engines/vllm). Its CPU runner never sets is_multimodal_pruning_enabled, without which
no pruning of videos works, nor its own; prune.py sets it. No trained model, no GPU.
"""
from __future__ import annotations

from typing import Any

from .. import Reference, Rule
from . import evs

FAMILIES = ("Llava", "Qwen2_5_VL", "Qwen3VL")


def register() -> None:
    from vllm import ModelRegistry
    for name in (f"Tailcut{family}ForConditionalGeneration" for family in FAMILIES):
        ModelRegistry.register_model(name, f"{__package__}._vllm.models:{name}")


def options(config: Any) -> tuple[Rule, Reference]:
    """What --hf-overrides says under "tailcut": fields of tailcut.Rule, whose count must be known
    before there are tokens (a ratio alone is the dropped share, and max(1, int(N * (1 - ratio)))
    stay), and "reference", "mean" or "novelty"."""
    fields = dict(getattr(config, "tailcut", {}))
    reference = Reference(fields.pop("reference", "mean"))
    if not fields.keys() & {"k", "ratio", "percent"}:
        raise ValueError('--hf-overrides: "tailcut" needs a k, ratio or percent')
    if "ratio" in fields:
        fields.setdefault("rounding", "drop-trunc")
    return Rule(**fields), reference


def compute_retention_mask(video_embeds: Any, video_size_thw: Any, spatial_merge_size: int,
                           q: float) -> Any:
    """vLLM's function of that name: bool [T*h*w], compute_retained_tokens_count of them True."""
    return evs.prune(video_embeds, video_size_thw, spatial_merge_size, q, tokens=False).mask.bool()
