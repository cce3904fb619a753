# SPDX-License-Identifier: Apache-2.0
"""The C interface in ctypes: enums, structs and signatures of tailcut.h, under the header's names.

This is the only place that states them; tests/test_abi.py compiles the header and fails where a
value, a size, an offset, a field or an argument differs. What the fields mean is said in tailcut.h.
"""
from ctypes import (POINTER, Structure, c_char_p, c_double, c_float, c_int32, c_int64, c_size_t,
                    c_void_p)
from enum import IntEnum, IntFlag

VERSION = (0, 2, 0)
VERSION_NUMBER = VERSION[0] * 10000 + VERSION[1] * 100 + VERSION[2]
MAX_SEGMENT_TOKENS = 1 << 20
MAX_NOVELTY_DIM = 131071
WORKSPACE_ALIGNMENT = 256


# -------------------------------------------------------------------------------------------- enums
class Status(IntEnum):
    OK = 0
    ERROR_NULL = 100
    ERROR_RANGE = 101
    ERROR_ENUM = 102
    ERROR_STRUCT_SIZE = 103
    ERROR_OVERLAP = 104
    ERROR_ALIGNMENT = 105
    ERROR_CONFLICT = 106
    ERROR_UNSUPPORTED = 200
    ERROR_NO_BACKEND = 201
    ERROR_VERSION = 202
    ERROR_MEMORY = 300
    ERROR_WORKSPACE = 301
    ERROR_NO_DEVICE = 400
    ERROR_DEVICE = 401
    ERROR_INTERNAL = 500


class DeviceKind(IntEnum):
    CPU = 1
    CUDA = 2


class Dtype(IntEnum):
    """How features are stored."""
    F16 = 1
    BF16 = 2
    F32 = 3


class ReferenceSource(IntEnum):
    """Where the vector comes from that tokens are compared with."""
    GIVEN = 1
    ROW = 2
    MEAN = 3
    LAG = 4
    NOVELTY = 5


class Detector(IntEnum):
    """How k is found on the sorted scores."""
    OTSU = 1
    CHORD = 2
    GAP = 3
    CURVATURE = 4
    IQR = 5
    MEAN = 6
    MASS = 7
    THRESHOLD = 8
    TOPK = 9
    RATIO = 10


class Rounding(IntEnum):
    """RATIO's k from the number of candidates."""
    CEIL = 1
    FLOOR = 2
    NEAREST = 3
    DROP_CEIL = 4
    DROP_TRUNC = 5
    DROP_PERCENT = 6


class Power(IntEnum):
    """How much a dropped row counts in the kept row that it joins: 1, or its cosine to the fourth
    power."""
    MEAN = 0
    COS4 = 4


class Order(IntEnum):
    """Which end of the curve is kept."""
    HIGH = 1
    LOW = 2


class Scale(IntEnum):
    """What range the scores have."""
    DEFAULT = 0
    UNIT = 1
    AUTO = 2


class Placement(IntEnum):
    """Where a segment's results stand: at its own start (LOCAL), or behind those of the segment
    before (PACKED)."""
    LOCAL = 1
    PACKED = 2


class RopePairing(IntEnum):
    """Which values of a head turn together: i with i + rotary_dim/2 (NEOX), or 2i with 2i + 1."""
    NEOX = 1
    INTERLEAVED = 2


class Policy(IntEnum):
    """What relevance is, inside a layer."""
    MEAN_COSINE = 1
    MAX_COSINE = 2
    ATTENTION = 3


class Reduction(IntEnum):
    """How several values become one."""
    MEAN = 1
    MAX = 2


class Call(IntEnum):
    SCORE = 1
    MEAN_DIRECTION = 2
    CUT = 3
    COMPACT = 4
    RELEVANCE = 5
    PRUNE_VISUAL = 6
    PRUNE_SEQUENCE = 7
    MERGE = 8


class Flag(IntFlag):
    """What is odd about a segment's data."""
    WHOLE = 1
    NAN = 2
    BAD_REFERENCE = 4
    INVALID = 8
    NO_SCORE = 16


class Role(IntFlag):
    """What a row of a sequence is; 0 is always kept."""
    CANDIDATE = 1
    QUERY = 2
    ABSENT = 4


class RowsFlag(IntFlag):
    ZERO_TAIL = 1
    RENUMBER = 2
    MERGE = 4


# Each C enum: its class, and what the names of its values begin with.
ENUMS = {
    "tailcut_status": (Status, "TAILCUT_"),
    "tailcut_device_kind": (DeviceKind, "TAILCUT_DEVICE_"),
    "tailcut_dtype": (Dtype, "TAILCUT_"),
    "tailcut_reference_source": (ReferenceSource, "TAILCUT_REFERENCE_"),
    "tailcut_power": (Power, "TAILCUT_MERGE_"),
    "tailcut_detector": (Detector, "TAILCUT_"),
    "tailcut_rounding": (Rounding, "TAILCUT_"),
    "tailcut_order": (Order, "TAILCUT_"),
    "tailcut_scale": (Scale, "TAILCUT_SCALE_"),
    "tailcut_placement": (Placement, "TAILCUT_"),
    "tailcut_rope_pairing": (RopePairing, "TAILCUT_ROPE_"),
    "tailcut_policy": (Policy, "TAILCUT_"),
    "tailcut_reduction": (Reduction, "TAILCUT_REDUCE_"),
    "tailcut_call": (Call, "TAILCUT_CALL_"),
}
# The same for bits, which are macros in the header.
FLAGS = {Flag: "TAILCUT_FLAG_", Role: "TAILCUT_ROLE_", RowsFlag: "TAILCUT_ROWS_"}


# ------------------------------------------------------------------------------------------ structs
def _struct(name: str, **fields: type) -> type[Structure]:
    return type(f"tailcut_{name}", (Structure,), {
        "_fields_": [("struct_size", c_size_t), *fields.items()]})


config = _struct("config", version=c_int32, device_kind=c_int32, device_index=c_int32,
                 threads=c_int32)
batch = _struct(
    "batch", segments=c_int32, max_tokens=c_int32, total_tokens=c_int64, cu_seqlens=c_void_p,
    lengths=c_void_p,
    prefix_rows=c_int32, group_cu_seqlens=c_void_p, groups=c_int32)
tokens = _struct(
    "tokens", data=c_void_p, dtype=c_int32, dim=c_int32, row_stride=c_int64, segment_stride=c_int64)
reference = _struct(
    "reference", source=c_int32, dtype=c_int32, data=c_void_p, segment_stride=c_int64, lag=c_int32,
    window=c_int32)
rule = _struct(
    "rule", detector=c_int32, scale=c_int32, k=c_int32, rounding=c_int32, ratio=c_double,
    percent=c_int32,
    window=c_int32, **{"lambda": c_double}, mass=c_double, tau=c_float, min_keep=c_int32,
    max_keep=c_int32,
    round_to=c_int32, search_lo=c_double, search_hi=c_double, spread=c_double, group_k=c_void_p,
    order=c_int32)
merge_options = _struct(
    "merge_options", power=c_int32, window=c_int32, sizes_in=c_void_p, sizes_out=c_void_p,
    joins_out=c_void_p)
selection = _struct(
    "selection", counts=c_void_p, kept=c_void_p, kept_placement=c_int32, new_cu_seqlens=c_void_p,
    flags=c_void_p,
    scores=c_void_p, curve=c_void_p, ranks=c_void_p, host_counts=c_void_p, mask=c_void_p,
    group_counts=c_void_p,
    merge=c_void_p)
rotation = _struct(
    "rotation", dtype=c_int32, pairing=c_int32, rotary_dim=c_int32, rotary_offset=c_int32,
    position_bytes=c_int32,
    positions=c_void_p, new_base=c_void_p, inv_freq=c_void_p, cos_sin=c_void_p, table_rows=c_int32)
rows = _struct(
    "rows", src=c_void_p, dst=c_void_p, part_bytes=c_int64, parts=c_int32, placement=c_int32,
    flags=c_int32,
    slot_bytes=c_int32, src_part_stride=c_int64, dst_part_stride=c_int64, src_row_stride=c_int64,
    dst_row_stride=c_int64, src_segment_stride=c_int64, dst_segment_stride=c_int64,
    src_slots=c_void_p,
    dst_slots=c_void_p, page_rows=c_int64, page_stride=c_int64, dst_rows=c_int64,
    renumber_base=c_void_p,
    rotation=c_void_p, dtype=c_int32)
relevance_options = _struct(
    "relevance_options", policy=c_int32, causal=c_int32, last_query=c_int32, dtype=c_int32,
    q=c_void_p, k=c_void_p,
    q_heads=c_int32, k_heads=c_int32, head_dim=c_int32, q_row_stride=c_int64, k_row_stride=c_int64,
    q_head_stride=c_int64, k_head_stride=c_int64, q_segment_stride=c_int64,
    k_segment_stride=c_int64,
    head_reduction=c_int32, query_reduction=c_int32, lse=c_void_p, lse_row_stride=c_int64,
    lse_head_stride=c_int64,
    lse_segment_stride=c_int64)
limits = _struct(
    "limits", segments=c_int32, max_tokens=c_int32, total_tokens=c_int64, dim=c_int32,
    q_heads=c_int32,
    head_dim=c_int32, reserved=c_int32, groups=c_int32, window=c_int32)

STRUCTS = (config, batch, tokens, reference, rule, merge_options, selection, rotation, rows,
           relevance_options, limits)

# --------------------------------------------------------------------------------------- signatures
_handle, _device = c_void_p, c_void_p  # an opaque pointer, and one to memory that the handle's
                                       # device reads
_workspace = (c_void_p, c_size_t, c_void_p)  # workspace, workspace_size, stream

# name: (what is returned, the arguments). c_int32 stands for an enum too.
FUNCTIONS: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "tailcut_status_string": (c_char_p, (c_int32,)),
    "tailcut_last_error": (c_char_p, ()),
    "tailcut_version": (c_int32, ()),
    "tailcut_build_info": (c_char_p, ()),
    "tailcut_create": (c_int32, (POINTER(_handle), POINTER(config))),
    "tailcut_destroy": (None, (_handle,)),
    "tailcut_handle_info": (c_char_p, (_handle,)),
    "tailcut_detector_name": (c_char_p, (c_int32,)),
    "tailcut_score": (c_int32, (
        _handle, POINTER(batch), POINTER(tokens), POINTER(reference), _device, _device,
        *_workspace)),
    "tailcut_mean_direction": (c_int32, (
        _handle, POINTER(batch), POINTER(tokens), _device, _device, *_workspace)),
    "tailcut_cut": (c_int32, (
        _handle, POINTER(batch), _device, _device, _device, POINTER(rule), POINTER(selection),
        *_workspace)),
    "tailcut_compact": (c_int32, (
        _handle, POINTER(batch), _device, c_int32, _device, _device, POINTER(rows), c_int32,
        *_workspace)),
    "tailcut_merge": (c_int32, (
        _handle, POINTER(batch), POINTER(tokens), _device, c_int32, _device, _device,
        POINTER(merge_options),
        POINTER(rows), c_int32, *_workspace)),
    "tailcut_prune_visual": (c_int32, (
        _handle, POINTER(batch), POINTER(tokens), POINTER(reference), POINTER(rule),
        POINTER(selection),
        POINTER(rows), c_int32, *_workspace)),
    "tailcut_relevance": (c_int32, (
        _handle, POINTER(batch), POINTER(tokens), _device, POINTER(relevance_options), _device,
        _device,
        *_workspace)),
    "tailcut_prune_sequence": (c_int32, (
        _handle, POINTER(batch), POINTER(tokens), _device, POINTER(relevance_options),
        POINTER(rule),
        POINTER(selection), POINTER(rows), c_int32, *_workspace)),
    "tailcut_kept_count": (c_int32, (POINTER(rule), c_int32)),
    "tailcut_workspace_size": (c_int32, (_handle, c_int32, POINTER(limits), POINTER(c_size_t))),
    "tailcut_workspace_init": (c_int32, (_handle, *_workspace)),
    "tailcut_config_init": (c_int32, (POINTER(config), c_size_t, c_int32)),
    **{f"{struct.__name__}_init": (c_int32, (POINTER(struct), c_size_t)) for struct in STRUCTS
       if struct is not config},
}
