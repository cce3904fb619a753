# SPDX-License-Identifier: Apache-2.0
"""Attention masks after pruning. A row that stands for several tokens weighs as many in a softmax
when the logarithm of their number is added to its key's logits: an additive mask, which eager
attention and SDPA take."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._errors import conflict, unsupported


@dataclass
class Prompt:
    """What a cache's pruned prompt leaves for the steps that follow: kept as `cache.tailcut`."""

    present: Tensor        #: bool [B, rows]: false where padding
    sizes: Tensor | None   #: int32 [B, rows]
    tokens: int            #: length before pruning, with what stood in the cache already
    padded: bool           #: some row is padding

    @property
    def rows(self) -> int:
        return int(self.present.shape[1])

    @property
    def dropped(self) -> int:
        return self.tokens - self.rows

    def mask(self, queries: int, keys: int, dtype: torch.dtype) -> Tensor | None:
        """For the last `queries` of `keys` rows: [B, keys], or with sizes [B, 1, queries, keys]."""
        present, new = self.present, keys - self.rows
        if new:
            present = torch.cat([present, present.new_ones(len(present), new)], 1)
        if self.sizes is None:
            return present.long() if self.padded else None
        bias = torch.nn.functional.pad(self.sizes, (0, new), value=1).log()
        numbers = torch.arange(keys, device=present.device)
        seen = present[:, None] & (numbers <= numbers[keys - queries:, None])
        return torch.where(seen, bias[:, None], torch.finfo(dtype).min).to(dtype)[:, None]


def cache_of(given: Any) -> Any:
    """The cache among arguments or in an output."""
    if not isinstance(given, Mapping):
        return None
    return given["cache"] if "cache" in given else given.get("past_key_values")  # before 5.24


def check_additive(text_config: Any) -> None:
    """Raises where the language model cannot add to its logits."""
    found = getattr(text_config, "_attn_implementation", None)
    if found not in ("eager", "sdpa"):
        raise unsupported("merge adds to attention logits, but the model's attn_implementation is "
                          f"{found!r}; expected 'sdpa' or 'eager' (or size_bias=False, which loses "
                          "most of what merging gains)")
    types = set(getattr(text_config, "layer_types", None) or ())
    slides = getattr(text_config, "sliding_window", None) is not None
    if types - {"full_attention"} or not types and slides:
        raise unsupported("merge: the language model has sliding attention; expected full "
                          "attention (or size_bias=False)")


def check_padding(attention_mask: Tensor | None, queries: int) -> Tensor | None:
    """bool [B, tokens] of a caller's attention mask."""
    if attention_mask is None:
        return None
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2:
        raise conflict("attention_mask is a prepared one; expected [batch, tokens]")
    present = attention_mask.bool()
    if not bool(present[:, -1].all()):
        raise conflict("attention_mask pads on the right; expected padding on the left "
                       "(padding_side='left')")
    if present.shape[1] < queries:
        raise conflict(f"attention_mask has {present.shape[1]} columns for {queries} tokens")
    return present
