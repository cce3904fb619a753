# SPDX-License-Identifier: Apache-2.0
"""The models: what each one's features are compared by, and in which order its language model reads
them.

A family turns the output of get_image_features or get_video_features into Units. Features are
numbered as they lie in `pooler_output`, image after image: the order of a prompt's placeholders.
"""
from __future__ import annotations

from typing import Any, Callable, NamedTuple, Sequence

import torch
from torch import Tensor

from ._score import Units


class Call(NamedTuple):
    """A call of get_image_features or get_video_features."""

    base: Any                  #: the multimodal model without its head
    kind: str                  #: "image" or "video"
    output: Any                #: what it returned
    arguments: dict[str, Any]  #: by name, defaults included


def flat(features: Tensor | Sequence[Tensor]) -> Tensor:
    """[features, D] of a `pooler_output`: a list of [n, D], or [images, n, D]."""
    if isinstance(features, Tensor):
        return features.reshape(-1, features.shape[-1])
    return torch.cat(list(features))


def like(features: Tensor, old: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
    """The same rows as `old` has them."""
    if isinstance(old, Tensor):
        return features.view(old.shape)
    return list(torch.split(features, [len(part) for part in old]))


def _tower(call: Call) -> tuple[Tensor | None, int]:
    """(the tower's features that the projector reads, CLS in row 0: [images, 1 + patches, D], or
    None where there is no CLS; how many of the rows the language model gets)."""
    config = call.base.config
    layer = _argument(call, "vision_feature_layer")
    states = call.output.hidden_states
    layers = [layer] if isinstance(layer, int) else list(layer)
    x = torch.cat([states[i] for i in layers], -1)
    vision = config.vision_config
    size, patch = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
    has_cls = isinstance(size, int) and isinstance(patch, int) and (
        x.shape[1] == (size // patch) ** 2 + 1)
    with_cls = _argument(call, "vision_feature_select_strategy") == "full"
    return (x, x.shape[1] - (not with_cls)) if has_cls else (None, x.shape[1])


def _argument(call: Call, name: str) -> Any:
    given = call.arguments.get(name)
    return getattr(call.base.config, name) if given is None else given


def _pieces(call: Call) -> Units:
    """Each entry of pooler_output by itself."""
    parts = call.output.pooler_output
    if isinstance(parts, Tensor):
        return Units(parts, torch.arange(parts.shape[0] * parts.shape[1], device=parts.device))
    offsets = [0]
    for part in parts:
        offsets.append(offsets[-1] + len(part))
    return Units(torch.cat(list(parts)), torch.arange(offsets[-1], device=parts[0].device), offsets)


def _llava(call: Call) -> Units:
    x, tokens = _tower(call)
    if x is None:
        return _pieces(call)
    rows = torch.arange(x.shape[0] * x.shape[1], device=x.device).view(x.shape[:2])
    if tokens == x.shape[1]:  # CLS is a token too: it stays
        rows[:, 0] = -1
    return Units(x, rows[:, -tokens:].flatten(), cls=True)


def _llava_next(call: Call) -> Units:
    """Where a packed feature came from is found by packing numbers in the model's own way: patches
    that only pad are left out there, newlines put in."""
    x, tokens = _tower(call)
    features = flat(call.output.pooler_output)
    tiles = sum(_tiles(call))
    numbers = torch.arange(tiles * tokens, dtype=torch.float64, device=features.device)
    numbers = numbers.view(tiles, tokens, 1)
    packed, _lengths = call.base.pack_image_features(
        torch.split(numbers, _tiles(call)), call.arguments["image_sizes"],
        vision_feature_select_strategy=_argument(call, "vision_feature_select_strategy"),
        image_newline=numbers.new_full((1,), -1))
    source = torch.cat(list(packed)).flatten().long()  # tile * tokens + token, or -1: a newline
    patches = int((source >= 0).sum())
    order = torch.where(source < 0, tiles * tokens, source).argsort()[:patches]
    tile, token = source[order] // tokens, source[order] % tokens
    counts = torch.bincount(tile, minlength=tiles) + (x is not None)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    row_of = torch.full_like(source, -1)
    if x is None:
        row_of[order] = torch.arange(patches, device=source.device)
        return Units(features[order], row_of, starts.tolist())
    # behind the CLS of each tile so far
    row_of[order] = torch.arange(patches, device=source.device) + tile + 1
    rows = x.new_empty(int(starts[-1]), x.shape[-1])
    rows[starts[:-1]] = x[:, 0]
    rows[row_of[order]] = x[tile, token + 1]
    return Units(rows, row_of, starts.tolist(), cls=True)


def _tiles(call: Call) -> list[int]:
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches
    config = call.base.config
    return [image_size_to_num_patches(image_size=size, grid_pinpoints=config.image_grid_pinpoints,
                                      patch_size=config.vision_config.image_size)
            for size in call.arguments["image_sizes"]]


def _qwen(call: Call) -> Units:
    units = _pieces(call)
    if call.kind == "video":
        merged = call.base.visual.spatial_merge_size ** 2
        grids = call.arguments["video_grid_thw"].tolist()
        units.lags = [height * width // merged for _frames, height, width in grids]
    return units


#: by config.model_type
FAMILIES: dict[str, Callable[[Call], Units]] = {
    "llava": _llava, "llava_next": _llava_next, "qwen2_5_vl": _qwen, "qwen3_vl": _qwen,
    "internvl": _pieces}
HAVE_CLS = ("llava", "llava_next")
HAVE_VIDEO = ("qwen2_5_vl", "qwen3_vl")
