# SPDX-License-Identifier: Apache-2.0
"""Row arrays that are compacted with the tokens: from an array and the axis that numbers its tokens
to a tailcut_rows.

A row is `parts` pieces of `part_bytes` bytes. Both are read off the strides: the last axes, as far
as they are contiguous, are the piece, the others the parts. Nothing is copied to make an array fit.
"""
from __future__ import annotations

from ctypes import addressof
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import _abi
from ._abi import Dtype, Placement, RopePairing, RowsFlag
from ._arrays import SIZES, View, contiguous_strides, features_dtype, strides_of, view
from ._errors import conflict, out_of_range
from ._load import new
from ._making import makes_like
from ._options import Array, Options, member

if TYPE_CHECKING:
    from ._setup import Setup


@dataclass(frozen=True)
class Rotation(Options):
    """Keys turn to their new positions while their rows are moved (rotary position embedding): what
    was rotated by its old position leaves as if rotated by its new one, new_base + its number among
    the results. The last axis of the array is a head."""

    inv_freq: Array | None = None   #: float32 [rotary_dim / 2]; this or cos_sin
    cos_sin: Array | None = None    #: float32 [positions, rotary_dim]: cosines, then sines (vLLM's
                                    #: cos_sin_cache)
    positions: Array | None = None  #: int32 or int64 by row number: the old ones; default: the
                                    #: row's number
    new_base: Array | None = None   #: [segments], the same integers: the first new one; default 0
    pairing: RopePairing | str = RopePairing.NEOX
    rotary_dim: int | None = None   #: default: all that inv_freq or cos_sin has
    rotary_offset: int = 0          #: the first value of a head that turns
    dtype: Dtype | str | None = None  #: of an array of uint16 words


@dataclass(frozen=True)
class Rows(Options):
    """An array with one row per token, compacted to the rows that are kept.

        hidden states [N, D], [B, N, D], [total, D]   Rows(x)
        K or V [B, H, T, d]                           Rows(k, token_axis=2)
        K or V [total, H, d]                          Rows(k)
        M-RoPE positions [3, total]                   Rows(p, token_axis=-1)
        pages [pages, H, page, d] by slots            Rows(pool, pool, token_axis=2, src_slots=s,
                                                      dst_slots=s)
        new positions 0, 1, ...                       Rows(p, flags=RowsFlag.RENUMBER)

    Any strides will do. Without `dst` a new array is made, with the source's axes (PACKED: without
    the batch's); `dst is src` is in place.
    """

    src: Array | None                   #: None only with RENUMBER
    dst: Array | None = None
    token_axis: int | None = None       #: the axis that numbers the tokens. Default: 1 in a batch
                                        #: [B, N, ...], else 0
    placement: Placement | str | None = None  #: default: the call's; LOCAL in place and for
                                              #: dst_slots
    flags: RowsFlag | int = 0           #: ZERO_TAIL, RENUMBER
    src_slots: Array | None = None      #: int32 or int64 by row number, -1 for none. Axis 0 numbers
                                        #: the pages then,
    dst_slots: Array | None = None      #: the token axis the rows of a page; token axis 0: one page
                                        #: for all
    dst_token_axis: int | None = None   #: default: that of src, less the batch's axis where PACKED
    dst_rows: int | None = None         #: rows that dst has room for; default: its length
    renumber_base: Array | None = None  #: RENUMBER: [segments], the first position of each, in
                                        #: dst's dtype
    dtype: Dtype | str | None = None    #: MERGE: of an array of uint16 words
    rotation: Rotation | None = None    #: the rows are keys, to be rotated to their new positions


class Layout:
    """An array's rows, in bytes. `axis` numbers the rows; axis 0 segments or pages where they are
    `apart`: `outer` of them."""

    __slots__ = ("axis", "rows", "row_stride", "apart", "outer", "outer_stride", "parts",
                 "part_stride", "part_bytes")

    def __init__(self, of: View, token_axis: int, outer: bool, name: str,
                 heads: bool = False) -> None:
        """`heads`: a part is the last axis and no more."""
        ndim = len(of.shape)
        if not -ndim <= token_axis < ndim:
            raise out_of_range(f"{name} has shape {list(of.shape)}: token_axis {token_axis} is "
                               f"outside")
        self.axis = token_axis % ndim
        self.apart = outer = outer and self.axis > 0
        strides = strides_of(of)
        self.rows = of.shape[self.axis]
        self.row_stride = strides[self.axis] if self.rows > 1 else 0
        self.outer = of.shape[0] if outer else 0
        self.outer_stride = strides[0] if outer else 0
        for length, stride in zip(of.shape, strides):
            if length > 1 and stride <= 0:
                raise out_of_range(f"{name} has strides {list(of.strides)}: an axis that repeats "
                                   f"or runs backwards "
                                   "cannot be compacted")
        pieces = [(length, stride) for axis, (length, stride) in enumerate(zip(of.shape, strides))
                  if length != 1 and axis != self.axis and not (outer and axis == 0)]
        self.part_bytes = SIZES[of.code]
        while pieces and pieces[-1][1] == self.part_bytes:
            self.part_bytes *= pieces.pop()[0]
            if heads:
                break
        self.parts, self.part_stride = 1, pieces[-1][1] if pieces else 0
        for length, stride in reversed(pieces):
            if stride != self.part_stride * self.parts:
                raise conflict(f"{name} has shape {list(of.shape)}, strides {list(of.strides)}: "
                               f"its rows are not pieces "
                               "of one size at one distance; give Rows for each part")
            self.parts *= length

    def split(self, part_bytes: int) -> None:
        """The same rows in smaller pieces."""
        if self.part_bytes != part_bytes:
            if self.parts > 1:
                raise conflict("src and dst of a Rows are laid out too differently: give Rows for "
                               "each part")
            self.parts, self.part_stride = self.part_bytes // part_bytes, part_bytes
            self.part_bytes = part_bytes


@dataclass(frozen=True)
class Room:
    """What a call says about its rows."""

    segments: int
    max_tokens: int
    total: int     #: rows of the batch
    local: int     #: rows of a segment that can be kept
    packed: int    #: rows that can be kept in all
    batched: bool  #: the arrays have an axis for segments
    ragged: bool
    device: tuple[int, int]

    def check(self, lies: Layout, of: View, name: str) -> None:
        """A source by row numbers has them all."""
        rows, segments = (self.max_tokens, self.segments) if lies.apart else (self.total, 0)
        if lies.rows < rows or lies.outer < segments:
            raise out_of_range(f"{name} has shape {list(of.shape)}: {rows} rows are expected along "
                               f"axis {lies.axis}"
                               + (f", {segments} segments along axis 0" if segments else ""))


class Target:
    """A destination. `array`: the caller's, or None where each call makes one: `new` and `finish`
    as makes_like gives them. `axis`: along which results follow each other; None where segments are
    apart."""

    __slots__ = ("name", "array", "shape", "axis", "word", "new", "finish", "number")

    def __init__(self, name: str, array: Any, shape: tuple[int, ...], axis: int | None, word: Any,
                 new: Any, finish: Any) -> None:
        self.name, self.array, self.shape, self.axis = name, array, shape, axis
        self.word, self.new, self.finish = word, new, finish
        self.number: int | None = None  # of the caller's array among those of the call


def fill(made: Any, rows: Rows, name: str, room: Room, default: Placement,
         setup: Setup) -> Target:
    """Fills the tailcut_rows `made`."""
    in_place = rows.dst is not None and rows.dst is rows.src
    if rows.placement is not None:
        placement = member(Placement, rows.placement, f"{name}.placement")
    else:
        placement = Placement.LOCAL if in_place or rows.dst_slots is not None else default
    packed = placement == Placement.PACKED
    made.placement, made.flags = placement, int(rows.flags)
    axis = rows.token_axis
    src = lies = None
    if rows.src is not None:
        src = _view(rows.src, f"{name}.src", room)
        paged = rows.src_slots is not None
        if axis is None:
            axis = 1 if room.batched and not paged else 0
        lies = Layout(src, axis, paged or room.batched, f"{name}.src", rows.rotation is not None)
        if not paged:
            room.check(lies, src, f"{name}.src")
            made.src_segment_stride = lies.outer_stride if lies.outer > 1 else 0
    shape, onto = _destination(rows, name, src, lies, room, packed)
    if src is not None and in_place:
        dst = src
    elif rows.dst is not None:
        dst = _view(rows.dst, f"{name}.dst", room)
    elif src is not None and shape is not None:
        dst = View(0, src.code, shape, contiguous_strides(shape, SIZES[src.code]), src.device, None)
    else:
        raise conflict(f"{name}.dst is missing")
    if dst.read_only:
        raise conflict(f"{name}.dst is read only")
    paged = rows.dst_slots is not None
    to = lies if in_place and lies is not None else Layout(
        dst, onto, paged or (room.batched and not packed), f"{name}.dst", rows.rotation is not None)
    if src is not None and lies is not None:
        if SIZES[dst.code] != SIZES[src.code] or (
                lies.part_bytes * lies.parts != to.part_bytes * to.parts):
            raise conflict(f"{name}.dst has shape {list(dst.shape)} of {dst.code}: its rows are "
                           f"not those of src, "
                           f"{list(src.shape)} of {src.code}")
        piece = min(lies.part_bytes, to.part_bytes)
        lies.split(piece)
        to.split(piece)
        setup.put(made, "src", src)
        made.src_row_stride, made.src_part_stride = lies.row_stride, lies.part_stride
    if rows.dst is not None:
        setup.put(made, "dst", dst)
    made.dst_row_stride, made.dst_part_stride = to.row_stride, to.part_stride
    made.part_bytes, made.parts = to.part_bytes, to.parts
    if not paged:
        if not packed:
            made.dst_segment_stride = to.outer_stride if to.outer > 1 else 0
        if not in_place and (packed or not room.ragged):
            made.dst_rows = to.rows
    if rows.dst_rows is not None:
        made.dst_rows = rows.dst_rows
    _pages(made, rows, name, lies, to, setup)
    if rows.renumber_base is not None:
        setup.put(made, "renumber_base", setup.small(
            rows.renumber_base, "i8" if SIZES[dst.code] == 8 else "i4", f"{name}.renumber_base",
            room.segments))
    if made.flags & RowsFlag.MERGE:
        made.dtype = features_dtype(dst, None if rows.dtype is None
                                    else member(Dtype, rows.dtype, f"{name}.dtype"),
                                    name)
    if rows.rotation is not None:
        made.rotation = _rotation(rows.rotation, f"{name}.rotation", dst, room, setup)
    one_behind_another = packed or not (room.ragged or room.segments > 1 or to.apart)
    new_one, finish = (None, None) if src is None or rows.dst is not None else makes_like(
        src.array, src.code, dst.shape, setup.making)
    return Target(name, rows.dst, dst.shape, to.axis if one_behind_another and not paged else None,
                  setup.word_of(made, "dst"), new_one, finish)


def _view(array: Any, name: str, room: Room) -> View:
    of = view(array, name)
    if of.device != room.device:
        raise conflict(f"{name} is on device {of.device}, the first argument on {room.device}")
    return of


def _destination(rows: Rows, name: str, src: View | None, lies: Layout | None, room: Room,
                 packed: bool) -> tuple[tuple[int, ...] | None, int]:
    """(the shape where an array is made, the axis that numbers its rows)."""
    axis = rows.dst_token_axis
    if axis is None:
        axis = lies.axis if lies is not None else rows.token_axis or 0
        if packed and lies is not None and lies.apart and rows.src_slots is None:
            axis -= 1
    if rows.dst is not None or src is None or lies is None:
        return None, axis
    shape = list(src.shape)
    if packed or not room.ragged:
        shape[lies.axis] = room.packed if packed else room.local
    if rows.src_slots is not None:
        shape[lies.axis] = room.packed if packed else room.total
        if lies.apart:
            raise conflict(f"{name}.dst is missing: no array is made for rows that come from pages")
    return tuple(shape[1:] if packed and lies.apart else shape), axis


def _pages(made: Any, rows: Rows, name: str, lies: Layout | None, to: Layout,
           setup: Setup) -> None:
    """Slot tables, and the pages that they lead to."""
    page = None
    for side, layout in (("src_slots", lies), ("dst_slots", to)):
        table = getattr(rows, side)
        if table is None or layout is None:
            continue
        of = view(table, f"{name}.{side}")
        code = "i8" if of.code == "i8" else "i4"
        of = setup.small(table, code, f"{name}.{side}")
        own = (SIZES[code], layout.rows, layout.outer_stride) if layout.apart else (
            SIZES[code], 0, 0)
        if page is not None and page != own:
            raise conflict(f"{name}: the slots and pages of src and dst differ in size or distance")
        page = own
        setup.put(made, side, of)
        made.slot_bytes, made.page_rows, made.page_stride = own


def _rotation(given: Rotation, name: str, values: View, room: Room, setup: Setup) -> int:
    """The address of the tailcut_rotation."""
    dtype = None if given.dtype is None else member(Dtype, given.dtype, f"{name}.dtype")
    made = new(_abi.rotation, dtype=features_dtype(values, dtype, f"{name}'s array"),
               pairing=member(RopePairing, given.pairing, f"{name}.pairing"),
               rotary_offset=given.rotary_offset)
    setup.structs.append(made)
    for table in ("inv_freq", "cos_sin"):
        array = getattr(given, table)
        if array is not None:
            of = setup.small(array, "f4", f"{name}.{table}")
            if len(of.shape) != (1 if table == "inv_freq" else 2):
                raise out_of_range(f"{name}.{table} has shape {list(of.shape)}")
            setup.put(made, table, of)
            made.rotary_dim = of.shape[-1] * (2 if table == "inv_freq" else 1)
            made.table_rows = 0 if table == "inv_freq" else of.shape[0]
    if given.rotary_dim is not None and given.rotary_dim != made.rotary_dim:
        raise conflict(f"{name}.rotary_dim is {given.rotary_dim}, but its table is for "
                       f"{made.rotary_dim}")
    code = None
    for numbers, length in (("positions", room.total), ("new_base", room.segments)):
        array = getattr(given, numbers)
        if array is not None:
            if code is None:
                code = "i8" if view(array, f"{name}.{numbers}").code == "i8" else "i4"
            of = setup.small(array, code, f"{name}.{numbers}")
            if _count(of.shape) < length:
                raise out_of_range(f"{name}.{numbers} has shape {list(of.shape)}: {length} are "
                                   f"expected")
            setup.put(made, numbers, of)
            made.position_bytes = SIZES[code]
    return addressof(made)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count
