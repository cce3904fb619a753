# SPDX-License-Identifier: Apache-2.0
"""From arrays to a C call: shapes become a tailcut_batch, structs are filled, and what is written
is described. Where an address stands is remembered with its array, so that a call can be made again
with others (_plan.py).
"""
from __future__ import annotations

from ctypes import byref, c_int32, c_uint64, c_void_p
from typing import Any, Iterable, NamedTuple, Sequence

from . import _abi
from ._abi import Dtype, Placement
from ._arrays import CPU, SIZES, View, features_dtype, small, stream_of, strides_of
from ._errors import conflict, out_of_range
from ._handle import Handle, handle as handle_of
from ._load import new, new_array
from ._making import Maker, maker
from ._options import Batch, Merge, is_a, names_of, whole
from ._rows import Room, Rows, Target, fill

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
        self.first, self.given_stream = first.array, stream
        self.stream = stream_of(first, stream)
        self.making: Maker = maker(first)
        self.slots: list[tuple[View, Any]] = []  # arrays of the caller's, and where their addresses
                                                 # stand: words, whose `value` they are
        self.structs: list[Any] = []  # that others point to: they live as long as the call
        self.outputs: list[Output] = []
        self.targets: list[Target] = []
        self.has_tokens = self.packed = self.roles = False
        self.counts: Any = None  # the word of counts that are given
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
            self.put(struct, "group_cu_seqlens", offsets)
        if batch.lengths is not None:
            self.put(struct, "lengths",
                     self.small(batch.lengths, "i4", "batch.lengths", self.segments))
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
            self.max_tokens = bound if not self.on_host else min(bound, longest(offsets))
        self.struct.total_tokens = self.total
        self.put(self.struct, "cu_seqlens", offsets)

    @staticmethod
    def word_of(struct: Any, field: str) -> Any:
        """A struct's field that holds an address."""
        return c_uint64.from_buffer(struct, getattr(type(struct), field).offset)

    def put(self, struct: Any, field: str, of: View) -> None:
        """An array's address in a struct."""
        word = self.word_of(struct, field)
        word.value = of.data
        self.slots.append((of, word))

    def pointer(self, of: View) -> Any:
        """An array's address as an argument."""
        word = c_void_p(of.data)
        self.slots.append((of, word))
        return word

    def small(self, array: Any, code: str, name: str, length: int | None = None) -> View:
        """A contiguous array of the call's device."""
        return small(array, code, name, self.device, length)

    def role_of(self, roles: Any) -> Any:
        """Roles as an argument."""
        self.roles = True
        return self.pointer(self.by_row(roles, "u1", "roles"))

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
        self.put(made, "data", x)
        made.dtype, made.dim = kind, dim
        made.row_stride = strides[-2]
        if self.batched:
            made.segment_stride = strides[0]
        return made

    def output(self, name: str, shape: tuple[int, ...], code: str, word: Any,
               behind: float | None = None) -> Any:
        """An array that the call writes, and where its address will stand. `behind`: the value of
        elements that it leaves."""
        self.outputs.append(Output(name, (shape, code), word, behind))
        return word

    def scored(self) -> tuple[Any, Any]:
        """Scores and flags, as arguments."""
        holes = self.prefix or self.lengths or self.ragged
        return (self.output("scores", self.rows_shape, "f4", c_void_p(),
                            float("nan") if holes else None),
                self.output("flags", (self.segments,), "i4", c_void_p()))

    def select(self, want: Iterable[str], placement: Placement) -> Any:
        """A tailcut_selection."""
        self.packed = placement == Placement.PACKED
        made = new(_abi.selection, kept_placement=placement)
        segments = (self.segments,)
        self._select(made, "kept", (self.total,) if self.packed else self.rows_shape, "i4",
                     None if self.packed else -1)
        self._select(made, "counts", segments, "i4")
        self._select(made, "flags", segments, "i4")
        self._select(made, "new_cu_seqlens", (self.segments + 1,), "i4")
        holes = self.prefix or self.lengths or self.ragged or self.groups or self.roles
        for name in dict.fromkeys(names_of(want)):
            if name not in _WANTED:
                raise conflict(f"want has {name!r}; expected some of {', '.join(_WANTED)}")
            code, behind = _WANTED[name]
            self._select(made, name, (self.groups,) if name == "group_counts" else self.rows_shape,
                         code, behind if holes else None)
        return made

    def _select(self, made: Any, name: str, shape: tuple[int, ...], code: str,
                behind: float | None = None) -> None:
        self.output("cu_seqlens" if name == "new_cu_seqlens" else name, shape, code,
                    self.word_of(made, name), behind)

    def merges(self, merge: Merge, want: Iterable[str]) -> Any:
        """A tailcut_merge_options."""
        made = new(_abi.merge_options, power=merge.power, window=merge.window)
        if merge.sizes_in is not None:
            self.put(made, "sizes_in", self.by_row(merge.sizes_in, "i4", "merge.sizes_in"))
        self.output("sizes", (self.total,) if self.packed else self.rows_shape, "i4",
                    self.word_of(made, "sizes_out"), None if self.packed else -1)
        if "joins" in want:
            self.output("joins", self.rows_shape, "i4", self.word_of(made, "joins_out"), -1)
        self.structs.append(made)
        return made

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
        made = new_array(_abi.rows, len(entries))
        room = Room(self.segments, self.max_tokens, self.total, kept,
                    min(kept * self.segments, self.total),
                    self.batched, self.ragged, self.device)
        for i, (name, entry) in enumerate(entries):
            self.targets.append(fill(made[i], entry, name, room, placement, self))
        return made


class Output(NamedTuple):
    """An array that a call writes."""

    name: str
    spec: tuple[tuple[int, ...], str]  # shape and code
    word: Any                          # where its address stands
    behind: float | None               # the value of elements that the call leaves


# Their elements, and the value of those that a call leaves.
_WANTED = {"scores": ("f4", float("nan")), "mask": ("u1", 0), "curve": ("f4", float("nan")),
           "ranks": ("i4", -1), "group_counts": ("i4", None)}


def _length(of: View, name: str) -> int:
    if len(of.shape) != 1:
        raise out_of_range(f"{name} has shape {list(of.shape)}: one axis is expected")
    return of.shape[0]


def longest(offsets: View) -> int:
    """Rows of the longest segment, of offsets on the host."""
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
