# SPDX-License-Identifier: Apache-2.0
"""Stage 1, where the vision tower's features leave their model: which of them stay.

| model                | compared                              | with           | cut by itself |
|----------------------|---------------------------------------|----------------|---------------|
| LLaVA-1.5            | the tower's, before the projector      | their CLS      | image         |
| LLaVA-NeXT           | the same, but padding; newlines stay  | the tile's CLS | tile          |
| Qwen2.5-VL, Qwen3-VL | the merger's output                   | MEAN, or LAG   | image, video  |
| InternVL             | the projector's output                | MEAN           | tile          |

The thumbnail of LLaVA-NeXT and InternVL is a tile like any other. Features of a tower without a CLS
token are compared with MEAN, on what the projector gives.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._abi import ReferenceSource, RowsFlag
from .._calls import prune
from .._errors import conflict
from .._options import Batch, Merge, Reference, Rule
from .._rows import Rows


@dataclass
class Decision:
    """What stays of one call's images or videos, feature by feature, as placeholders follow."""

    keep: Tensor          #: bool [features]
    sizes: Tensor | None  #: int32 [features], with merging
    counts: list[int]     #: kept of each image, video or tile that is cut by itself


@dataclass
class Units:
    """What is scored: rows in segments, and where each feature's row is."""

    x: Tensor             #: [S, R, D], or [total, D] with offsets
    row_of: Tensor        #: int64 [features]: its row among all of x, -1: always kept
    offsets: list[int] | None = None
    cls: bool = False     #: row 0 of each segment is its CLS
    lags: list[int] | None = None  #: tokens of a frame, by video


def decide(units: Units, features: Tensor, rule: Rule, reference: Reference | None,
           merge: Merge | None) -> tuple[Decision, Tensor]:
    """(the decision, the features, merged where that is asked for)."""
    if reference is not None and reference.source == ReferenceSource.LAG:
        return _by_lag(units, features, rule, reference, merge)
    if reference is None:
        reference = Reference(ReferenceSource.ROW if units.cls else ReferenceSource.MEAN)
    return _cut(units, features, rule, reference, merge)


def _cut(units: Units, features: Tensor, rule: Rule, reference: Reference, merge: Merge | None
         ) -> tuple[Decision, Tensor]:
    lead = units.x.shape[:-1]  # [S, R] or [total]
    there = units.row_of >= 0
    row_of = units.row_of[there]
    batch, rows = Batch(prefix_rows=int(units.cls)), []
    if units.offsets is not None:
        offsets = torch.tensor(units.offsets, dtype=torch.int32, device=units.x.device)
        batch = Batch(cu_seqlens=offsets, prefix_rows=int(units.cls),
                      max_tokens=max(b - a for a, b in zip(units.offsets, units.offsets[1:])))
    by_row = features
    if merge is not None:  # the rows that merge are the features, laid out as x is
        by_row = features.new_zeros(lead.numel(), features.shape[-1])
        by_row[row_of] = features[there]
        rows = [Rows(by_row.view(*lead, -1), flags=RowsFlag.MERGE)]
    found = prune(units.x.detach(), reference, rule=rule, batch=batch, out=False, want=("mask",),
                  merge=merge, rows=rows)
    mask = _made(found.mask).flatten().bool()
    keep = torch.ones_like(there)
    keep[there] = mask[row_of]
    decision = Decision(keep, None, found.counts.tolist())
    if merge is None:
        return decision, features
    kept = mask.nonzero()[:, 0]
    by_row[kept] = found.rows[0][:len(kept)]
    by_number = torch.ones(len(by_row), dtype=torch.int32, device=mask.device)
    by_number[kept] = _made(found.sizes)[:len(kept)]
    features = features.clone()
    features[there] = by_row[row_of]
    decision.sizes = torch.ones(len(there), dtype=torch.int32, device=mask.device)
    decision.sizes[there] = by_number[row_of]
    return decision, features


def _made(array: Tensor | None) -> Tensor:
    assert array is not None  # it was asked for
    return array


def _by_lag(units: Units, features: Tensor, rule: Rule, reference: Reference, merge: Merge | None
            ) -> tuple[Decision, Tensor]:
    """Video by video, as the tokens of a frame are each one's own."""
    if units.lags is None or units.offsets is None:
        raise conflict("reference is LAG, which is for video")
    decisions, merged = [], []
    for lag, start, end in zip(units.lags, units.offsets, units.offsets[1:]):
        numbers = torch.arange(end - start, device=units.x.device)
        one = Units(units.x[start:end], numbers, [0, end - start])
        by_lag = Reference("lag", lag=reference.lag or lag)
        decision, some = _cut(one, features[start:end], rule, by_lag, merge)
        decisions.append(decision)
        merged.append(some)
    sizes = [decision.sizes for decision in decisions if decision.sizes is not None]
    keep = torch.cat([decision.keep for decision in decisions])
    counts = [count for decision in decisions for count in decision.counts]
    return Decision(keep, torch.cat(sizes) if sizes else None, counts), torch.cat(merged)
