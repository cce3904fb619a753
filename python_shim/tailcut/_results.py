# SPDX-License-Identifier: Apache-2.0
"""What calls give: Scores, Selection, Merged."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ._options import Array


@dataclass
class Scores:
    """What `score` and `relevance` give; hand both to `cut`."""

    scores: Array  #: float32, [N], [B, N] or [total], by row number; NaN where a row is no
                   #: candidate
    flags: Array   #: int32 [segments], bits of Flag


@dataclass
class Selection:
    """What a cut keeps. Packed results of host arrays are cut to size; on a device they are as long
    as they may become, and cu_seqlens[-1] says how much of them counts."""

    counts: Array             #: int32 [segments]: rows kept
    kept: Array               #: int32: numbers inside the segment, ascending; PACKED one segment
                              #: after the other,
    #:                           LOCAL [N], [B, N] or [total], -1 behind the last
    cu_seqlens: Array         #: int32 [segments + 1]: offsets of the packed results
    flags: Array              #: int32 [segments], bits of Flag
    scores: Array | None = None        #: float32, as Scores.scores
    mask: Array | None = None          #: uint8, by row number: 1 where the row is kept
    curve: Array | None = None         #: float32: scores in rank order from each group's first
                                       #: candidate
    ranks: Array | None = None         #: int32: rank of each candidate
    group_counts: Array | None = None  #: int32 [groups]: rows kept of each
    tokens: Array | None = None        #: the kept rows of the first array
    sizes: Array | None = None         #: int32, placed as kept, with merging: tokens that each kept
                                       #: row stands for
    joins: Array | None = None         #: int32 by row, with merging: as Merged.joins
    rows: tuple[Array, ...] = ()       #: those of each Rows, in its order

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


class _Unread:
    """A field of a Selection that has no value of its own: its array is made when it is first read,
    from (block, memory, numbers of arrays by field, elements of kept and sizes)."""

    def __init__(self, name: str, default: Any) -> None:
        self.name, self.default = name, default

    def __get__(self, instance: Selection | None, _kind: type) -> Any:
        try:
            own = instance.__dict__
            block, memory, numbers, first = own["_late"]
        except (AttributeError, KeyError):
            raise AttributeError(self.name) from None
        name = self.name
        value = own[name] = self.default if name not in numbers else block.one(
            memory, numbers[name], first if name in ("kept", "sizes") else None)
        return value


for _name in Selection.__dataclass_fields__:
    setattr(Selection, _name, _Unread(_name, () if _name == "rows" else None))


def late(parts: tuple[Any, ...], tokens: Array | None, rows: tuple[Array, ...]) -> Selection:
    """A Selection whose arrays are made when they are read; `parts` as in _Unread."""
    result: Selection = object.__new__(Selection)
    result.__dict__ = {"_late": parts, "tokens": tokens, "rows": rows}
    return result


@dataclass
class Merged:
    """What `merge` gives; cut to size as a Selection is."""

    sizes: Array                 #: int32, placed as `kept` is: tokens that each kept row stands for
    tokens: Array | None = None  #: the merged rows of the first array
    joins: Array | None = None   #: int32 by row: the candidate that candidate i joins, itself where
                                 #: kept, -1 for none
    rows: tuple[Array, ...] = ()  #: those of each Rows, in its order
