# SPDX-License-Identifier: Apache-2.0
"""Stage 2, in front of a decoder layer: visual rows that say little about the prompt's text leave,
and so do their keys and values in the layers before. All layers hold as many rows then, and the
steps that follow see one length."""
from __future__ import annotations

from typing import Any

from torch import Tensor

from .._abi import Role
from .._errors import conflict, unsupported
from .._options import RelevanceOptions, Rule
from .._sequence import prune_sequence
from ._mask import Prompt, cache_of
from ._place import Part, along_batch, move


def prune_rows(hidden: Tensor, roles: Tensor, prompt: Prompt, kwargs: dict[str, Any], layer: int,
               rule: Rule, relevance: RelevanceOptions | None, text_config: Any
               ) -> tuple[Tensor, dict[str, Any], Prompt]:
    """(hidden states, what changes in a layer's arguments, the prompt), of what stays of `hidden`
    [B, T, D]."""
    found = prune_sequence(hidden.detach(), roles, relevance, rule=rule, out=False, want=())
    batch = len(hidden)
    parts = [Part(hidden), Part(roles, int(Role.ABSENT))]
    if prompt.sizes is not None:
        parts.append(Part(prompt.sizes, 1))
    named: list[tuple[str, int]] = []
    for name in ("position_ids", "position_embeddings"):
        value = kwargs.get(name)
        arrays = list(value) if isinstance(value, tuple) else [] if value is None else [value]
        for array in arrays:
            more = along_batch(array, batch)
            named.append((name, len(more)))
            parts += more
    layers = _layers(cache_of(kwargs), layer, hidden.shape[1])
    for held in layers:
        parts += [Part(held.keys, token_axis=2), Part(held.values, token_axis=2)]
    present, moved = move(found, parts)
    sizes = moved[2] if prompt.sizes is not None else None
    left = moved[3 if prompt.sizes is not None else 2:]
    prompt = Prompt(present, sizes, prompt.tokens, not bool(present.all()))
    changed: dict[str, Any] = {}
    for name, count in named:
        array, left = left[0], left[count:]
        changed[name] = (*changed.get(name, ()), array) if name == "position_embeddings" else array
    for held in layers:
        held.keys, held.values, left = left[0], left[1], left[2:]
    changed["attention_mask"] = _mask(prompt, moved[0], text_config)
    return moved[0], changed, prompt


def _layers(cache: Any, layer: int, rows: int) -> list[Any]:
    """The cache's layers before this one: as long as the prompt."""
    from transformers.cache_utils import DynamicLayer
    if cache is None:
        return []
    held = list(cache.layers[:layer])
    for number, of in enumerate(held):
        if type(of) is not DynamicLayer:
            raise unsupported(f"layer is {layer}: the cache's layer {number} is a "
                              f"{type(of).__name__}; expected a DynamicCache with full attention")
        before = of.get_seq_length() - rows
        if before:
            raise conflict(f"layer is {layer}, but the cache held {before} rows before this "
                           f"prompt; "
                           "expected an empty one")
    return held


def _mask(prompt: Prompt, hidden: Tensor, text_config: Any) -> Any:
    """The mask of this layer and those behind it, in the form that the model's attention takes."""
    mask = prompt.mask(prompt.rows, prompt.rows, hidden.dtype)
    if mask is not None and mask.dim() == 4:
        return mask
    from transformers.masking_utils import create_causal_mask
    return create_causal_mask(text_config, hidden, mask, None)
