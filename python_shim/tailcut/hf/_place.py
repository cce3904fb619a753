# SPDX-License-Identifier: Apache-2.0
"""Kept rows of a padded batch [B, T, ...] moved together, with the padding on the left again: what
`generate` expects, and what lets the last row's logits be the next token's."""
from __future__ import annotations

from typing import NamedTuple, Sequence

import torch
from torch import Tensor

from .._abi import Role
from .._calls import compact, cut
from .._options import Rule
from .._results import Selection
from .._rows import Rows

_KEPT = Rule(tau=0.5, min_keep=0)  # of a mask as scores


class Part(NamedTuple):
    """An array that goes along."""

    array: Tensor        #: axis 0 numbers the sequences
    fill: float = 0      #: what its padding holds
    token_axis: int = 1


def kept_of(keep: Tensor, roles: Tensor) -> Selection:
    """The rows of a keep mask as a Selection: candidates where `keep` is true, and all else that is
    not ABSENT."""
    return cut(keep.to(torch.float32), _KEPT, roles=roles, want=())


def move(selection: Selection, parts: Sequence[Part]) -> tuple[Tensor, list[Tensor]]:
    """(mask bool [B, T'] of the rows that are no padding, the parts' rows). T' is the longest
    sequence's count."""
    first = parts[0]
    rows = first.array.shape[first.token_axis]
    counts = selection.counts.to(torch.int64)
    length = max(int(counts.max()), 1)
    numbers = torch.arange(rows, device=counts.device)
    ends = torch.arange(1, len(counts) + 1, device=counts.device) * length
    slots = torch.where(numbers < counts[:, None], (ends - counts)[:, None] + numbers, -1)
    entries = []
    for array, fill, axis in parts:
        shape = list(array.shape)
        shape[axis] = length
        entries.append(Rows(array.detach(), array.new_full(shape, fill), token_axis=axis,
                            dst_slots=slots))
    moved = list(compact(entries, selection.kept, selection.counts, selection.cu_seqlens))
    return torch.arange(length, device=counts.device) >= (length - counts)[:, None], moved


def along_batch(array: Tensor, batch: int) -> list[Part]:
    """Position ids [T], [1, T], [B, T] or, plane by plane, [P, B, T]; cosines and sines
    [1 or B, T, d]."""
    if array.dim() == 1:
        array = array[None]
    if array.dim() == 3 and not array.is_floating_point():
        return [part for plane in array for part in along_batch(plane, batch)]
    return [Part(array.expand(batch, *array.shape[1:]).contiguous())]


def roles_of(visual: Tensor, present: Tensor) -> Tensor:
    """uint8 [B, T]: visual rows are candidates; the text behind a sequence's first visual row is
    what they are compared with in a layer; the text before it (system prompt) stays and says
    nothing."""
    roles = torch.zeros_like(visual, dtype=torch.uint8)
    roles[visual.cumsum(1) > 0] = int(Role.QUERY)
    roles[visual] = int(Role.CANDIDATE)
    roles[~present] = int(Role.ABSENT)
    return roles
