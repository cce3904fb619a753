# SPDX-License-Identifier: Apache-2.0
"""From arrays to a C call: shapes become a tailcut_batch, outputs are made, structs are filled.
"""
from __future__ import annotations

from ctypes import byref, c_int32
from typing import Any, Iterable, Sequence

from . import _abi
from ._abi import Dtype, Placement
from ._arrays import CPU, SIZES, View, features_dtype, small, stream_of, strides_of
from ._errors import conflict, out_of_range
from ._handle import Handle, handle as handle_of
from ._load import new, new_array
from ._making import Maker, maker
from ._options import Array, Batch, Merge, is_a, names_of, whole
from ._results import Merged, Selection
from ._rows import Room, Rows, fill

_WHOLE_BATCH = Batch()


class Setup:
    """What every call needs: the device and its handle, and how rows form segments."""

    def __init__(self, first: View, rows_shape: tuple[int, ...], batch: Batch | None,
                 handle: Handle | None,
                 stream: int | None, least_prefix: int = 0) -> None:
        device = first.device
        if handle is None:
            handle = handle_of(device)
        else:
            is_a(handle, Handle, "handle")
        if handle.device != device:
            raise conflict(f"the handle is for device {handle.device}, the first argument on "
                           f"{device}")
        self.device, self.handle = device, handle
        self.on_host = device == CPU
        self.stream = stream_of(first, stream)
        self.making: Maker = maker(first)
        self.keep: list[Any] = [first]  # what must live as long as the call; the C arguments hold
                                        # their structs
        self.dsts: list[tuple[str, Any, int | None]] = []  # name, array, axis along which results
                                                           # follow each other
        self.written: list[tuple[Any, str]] = []  # arrays of the caller's, and their names
        self.has_tokens = self.packed = self.trims = False
        self.counts: View | None = None  # of compact
        # What _reuse changes: the structs that hold addresses, and how `out` was made.
        self.tokens_struct: Any = None
        self.reference_struct: Any = None
        self.rows_struct: Any = None
        self.rows_entry: Any = None  # its first
        self.code = first.code
        self.merge_struct: Any = None
        self.out_as: tuple[str, tuple[int, ...], int | None] = "", (), None
        if batch is None:
            batch = _WHOLE_BATCH
        is_a(batch, Batch, "batch")
        self.prefix = max(batch.prefix_rows, least_prefix)
        self.lengths = batch.lengths is not None
        self.ragged = batch.cu_seqlens is not None
        self.rows_shape = rows_shape
        self.batched = len(rows_shape) == 2
        if len(rows_shape) not in (1, 2):
            raise out_of_range(f"the first argument has shape {list(first.shape)}: [N, ...], [B, "
                               f"N, ...] or, with "
                               "cu_seqlens, [total, ...] is expected")
        self.struct = struct = new(_abi.batch)
        if self.ragged:
            self._ragged(batch)
        else:
            self._uniform(batch)
        struct.segments, struct.max_tokens = self.segments, self.max_tokens
        struct.prefix_rows = self.prefix
        self.groups = 0
        if batch.group_cu_seqlens is not None:
            offsets = self.small(batch.group_cu_seqlens, "i4", "batch.group_cu_seqlens")
            self.groups = struct.groups = max(_length(offsets, "batch.group_cu_seqlens") - 1, 0)
            struct.group_cu_seqlens = offsets.data
        if batch.lengths is not None:
            struct.lengths = self.small(batch.lengths, "i4", "batch.lengths", self.segments).data
        self.batch = byref(struct)

    def _uniform(self, batch: Batch) -> None:
        shape = self.rows_shape
        self.segments, self.max_tokens = shape if self.batched else (1, shape[0])
        if batch.segments is not None and batch.segments != self.segments:
            if self.batched or batch.segments * (batch.max_tokens or 0) != shape[0]:
                raise conflict(f"batch.segments is {batch.segments}, but the arrays have "
                               f"{list(shape)} rows")
            self.segments, self.max_tokens = batch.segments, batch.max_tokens or 0
        self.total = self.segments * self.max_tokens
        if batch.max_tokens not in (None, self.max_tokens) or (
                batch.total_tokens not in (None, self.total)):
            raise conflict(f"batch.max_tokens is {batch.max_tokens}, total_tokens "
                           f"{batch.total_tokens}, but the arrays "
                           f"have {list(shape)} rows")

    def _ragged(self, batch: Batch) -> None:
        if self.batched:
            raise conflict("batch.cu_seqlens goes with [total, ...], not with [B, N, ...]")
        offsets = self.small(batch.cu_seqlens, "i4", "batch.cu_seqlens")
        found = _length(offsets, "batch.cu_seqlens") - 1
        if found < 0 or batch.segments not in (None, found):
            raise conflict(f"batch.cu_seqlens has {found + 1} elements, segments + 1 are expected")
        self.segments, rows = found, self.rows_shape[0]
        self.total = rows if batch.total_tokens is None else batch.total_tokens
        if self.total > rows:
            raise out_of_range(f"batch.total_tokens is {self.total}, but the arrays have {rows} "
                               f"rows")
        self.rows_shape = (self.total,)
        if batch.max_tokens is not None:
            self.max_tokens = batch.max_tokens
        else:
            bound = min(self.total, _abi.MAX_SEGMENT_TOKENS + self.prefix)
            self.max_tokens = bound if not self.on_host else min(bound, _longest(offsets))
        self.struct.cu_seqlens, self.struct.total_tokens = offsets.data, self.total

    def small(self, array: Any, code: str, name: str, length: int | None = None) -> View:
        """A contiguous array of the call's device that lives as long as the call."""
        of = small(array, code, name, self.device, length)
        self.keep.append(of)
        return of

    def by_row(self, array: Any, code: str, name: str) -> View:
        """The same with one element for each row."""
        of = self.small(array, code, name)
        elements = 1
        for length in of.shape:
            elements *= length
        if elements < self.total:
            raise out_of_range(f"{name} has shape {list(of.shape)}: {list(self.rows_shape)} is "
                               f"expected")
        return of

    def tokens(self, x: View, dim: int | None, dtype: Dtype | None) -> Any:
        """The tailcut_tokens of [..., D]."""
        kind = features_dtype(x, dtype, "x")
        channels = x.shape[-1]
        if dim is None:
            dim = channels
        elif not 1 <= (dim := whole(dim, "dim")) <= channels:
            raise out_of_range(f"dim is {dim}, but x has {channels} channels")
        strides = element_strides(x, "x")
        made = new(_abi.tokens)
        made.data, made.dtype, made.dim = x.data, kind, dim
        made.row_stride = strides[-2]
        if self.batched:
            made.segment_stride = strides[0]
        self.tokens_struct = made
        return made

    def select(self, want: Iterable[str], placement: Placement) -> tuple[Any, Selection]:
        """A tailcut_selection and its arrays."""
        by_row, segments = self.rows_shape, (self.segments,)
        self.names = ["kept", "counts", "flags", "new_cu_seqlens"]
        specs: list[Any] = [((self.total,) if placement == Placement.PACKED else by_row, "i4"),
                            (segments, "i4"),
                            (segments, "i4"), ((self.segments + 1,), "i4")]
        for name in dict.fromkeys(names_of(want)):
            if name not in _WANTED:
                raise conflict(f"want has {name!r}; expected some of {', '.join(_WANTED)}")
            self.names.append(name)
            specs.append(((self.groups,) if name == "group_counts" else by_row, _WANTED[name]))
        self.selection, self.block = new(_abi.selection,
                                         kept_placement=placement), self.making.block(specs)
        self.packed, self.trims = placement == Placement.PACKED, True
        holes = self.prefix or self.lengths or self.ragged or self.groups
        self.fills = {name: value for name, value in _UNWRITTEN.items()
                      if name in self.names and holes or name == "kept" and not self.packed}
        return self.selection, self.selected()

    def merges(self, merge: Merge, want: Iterable[str]) -> dict[str, Array]:
        """A tailcut_merge_options in the selection, and its arrays."""
        made = new(_abi.merge_options, power=merge.power, window=merge.window)
        if merge.sizes_in is not None:
            made.sizes_in = self.by_row(merge.sizes_in, "i4", "merge.sizes_in").data
        kept_shape = (self.total,) if self.packed else self.rows_shape
        names = ["sizes"] + (["joins"] if "joins" in want else [])
        arrays = {}
        specs = [(kept_shape if name == "sizes" else self.rows_shape, "i4") for name in names]
        for name, (array, address) in zip(names, self.making.block(specs).make()):
            if name == "joins" or not self.packed:
                self.making.fill(array, -1)
            arrays[name] = array
            setattr(made, f"{name}_out", address)
        self.keep.append(made)
        self.merge_struct = made
        return arrays

    def selected(self) -> Selection:
        """New arrays for the tailcut_selection."""
        memory, addresses = self.block.allocate()
        self.point(addresses)
        return self.selection_of(self.block.arrays(memory))

    def point(self, addresses: Sequence[int]) -> None:
        """Their addresses in the struct."""
        made = self.selection
        for name, address in zip(self.names, addresses):
            setattr(made, name, address)

    def selection_of(self, arrays: Sequence[Array]) -> Selection:
        kept, counts, flags, offsets, *wanted = arrays
        result = Selection(counts, kept, offsets, flags)
        for name, array in zip(self.names[4:], wanted):
            setattr(result, name, array)
        for name, value in self.fills.items():
            self.making.fill(getattr(result, name), value)
        return result

    def compacted(self, x: Any, out: Any, flags: int, rows: Sequence[Rows], kept: int,
                  placement: Placement,
                  dtype: Dtype | None = None) -> Any:
        """The array of tailcut_rows: the tokens (none where `out` is False), then `rows`. `kept`:
        rows of a segment that can be kept."""
        is_a(rows, (list, tuple), "rows", " of Rows")
        entries = [(f"rows[{i}]", entry) for i, entry in enumerate(rows)]
        for name, entry in entries:
            is_a(entry, Rows, name)
        if out is not False:
            entries.insert(0, ("out", Rows(x, out, flags=flags, dtype=dtype)))
            self.has_tokens = True
        if not entries:
            return None
        self.rows_struct = made = new_array(_abi.rows, len(entries))
        room = Room(self.segments, self.max_tokens, self.total, kept,
                    min(kept * self.segments, self.total),
                    self.batched, self.ragged, self.device)
        for i, (name, entry) in enumerate(entries):
            if entry.dst is not None:
                self.written.append((entry.dst, f"{name}.dst"))
            self.dsts.append((name, *fill(made[i], entry, name, room, placement, self.making,
                                          self.keep)))
        return made

    def give(self, result: Selection | Merged, targets: Sequence[Array]) -> Selection | Merged:
        """Puts the destinations where the caller finds them."""
        if self.has_tokens:
            result.tokens, targets = targets[0], targets[1:]
        result.rows = tuple(targets)
        return result

    def kept_in_all(self) -> int:
        """The last offset, on the host."""
        return c_int32.from_address(self.selection.new_cu_seqlens + 4 * self.segments).value

    def trim(self, result: Any) -> Any:
        """Host arrays: results that follow each other become as long as they are."""
        is_selection = isinstance(result, Selection)
        if is_selection:
            total = self.kept_in_all()
        else:
            total = int(self.counts.array.sum()) if self.counts is not None else 0
        if self.packed:
            if is_selection:
                result.kept = result.kept[:total]
            if result.sizes is not None:
                result.sizes = result.sizes[:total]
        targets = [cut_to(*of, total) for of in self.dsts]
        return tuple(targets) if type(result) is tuple else self.give(result, targets)


def cut_to(name: str, target: Any, axis: int | None, total: int) -> Any:
    """The first `total` rows of a destination along its axis, if it has one."""
    if axis is None:
        return target
    if target.shape[axis] < total:
        raise out_of_range(f"{name} has room for {target.shape[axis]} rows, but {total} are kept")
    return target[:total] if axis == 0 else target[(slice(None),) * axis + (slice(total),)]


_WANTED = {"scores": "f4", "mask": "u1", "curve": "f4", "ranks": "i4", "group_counts": "i4"}
_UNWRITTEN = {"scores": float("nan"), "mask": 0, "curve": float("nan"), "ranks": -1, "kept": -1}


def _length(of: View, name: str) -> int:
    if len(of.shape) != 1:
        raise out_of_range(f"{name} has shape {list(of.shape)}: one axis is expected")
    return of.shape[0]


def _longest(offsets: View) -> int:
    values = list((c_int32 * offsets.shape[0]).from_address(offsets.data))
    return max((b - a for a, b in zip(values, values[1:]) if b > a), default=0)


def element_strides(of: View, name: str, contiguous: bool = True) -> list[int]:
    """Strides in elements; 0, the library's default, along axes of one element."""
    size, strides = SIZES[of.code], []
    for length, stride in zip(of.shape, strides_of(of)):
        if length > 1 and (stride <= 0 or stride % size):
            raise out_of_range(f"{name} has strides {list(of.strides)}: an axis that repeats, runs "
                               f"backwards or splits "
                               "elements cannot be read")
        strides.append(stride // size if length > 1 else 0)
    if contiguous and of.shape[-1] > 1 and strides[-1] != 1:
        raise out_of_range(f"{name} has strides {list(of.strides)}: channels one behind the other "
                           f"are expected (the "
                           "last axis contiguous)")
    return strides
