# SPDX-License-Identifier: Apache-2.0
"""The C structs of a rule, a reference and relevance options, for a call's Setup."""
from __future__ import annotations

from ctypes import byref
from typing import Any

from . import _abi
from ._abi import Dtype, ReferenceSource
from ._arrays import SIZES, features_dtype, strides_of, view
from ._errors import conflict, out_of_range
from ._load import fail, library, new
from ._options import Reference, RelevanceOptions, Rule, named_rule
from ._setup import Setup, element_strides

_DEFAULT_RULE: list[Rule] = []  # made when the library is open


def rule_of(rule: Rule | str | None, setup: Setup) -> Any:
    """The C struct of a rule."""
    if rule is None and not _DEFAULT_RULE:
        _DEFAULT_RULE.append(Rule())
    rule = _DEFAULT_RULE[0] if rule is None else named_rule(rule)
    struct = rule._host_struct()
    if rule.group_k is None:
        return struct
    struct = type(struct).from_buffer_copy(struct)
    setup.put(struct, "group_k", setup.small(rule.group_k, "i4", "rule.group_k",
                                             setup.groups or setup.segments))
    return struct


def most_kept(rule: Any, setup: Setup) -> int:
    """Rows of a segment that a fused call without roles can keep."""
    candidates = max(setup.max_tokens - setup.prefix, 0)
    if setup.groups:
        return candidates
    found: int = library().tailcut_kept_count(byref(rule), min(candidates, _abi.MAX_SEGMENT_TOKENS))
    if found < 0:
        fail(_abi.Status.ERROR_RANGE)
    return found


def reference_of(cls: Any, setup: Setup, dim: int, dtype: Dtype | None) -> Any:
    """The tailcut_reference of a Reference or a vector."""
    made = new(_abi.reference)
    data = cls
    if isinstance(cls, Reference):
        made.source, made.lag, made.window, data = cls.source, cls.lag, cls.window, cls.data
    if data is not None:
        of = view(data, "reference", setup.stream)
        if of.device != setup.device:
            raise conflict(f"reference is on device {of.device}, x on {setup.device}")
        if len(of.shape) not in (1, 2) or of.shape[-1] < dim or (
                len(of.shape) == 2 and of.shape[0] != setup.segments):
            raise out_of_range(f"reference has shape {list(of.shape)}: [{dim}] or "
                               f"[{setup.segments}, {dim}] is expected")
        made.dtype = features_dtype(of, None if of.code == "f4" else dtype, "reference")
        size, strides = SIZES[of.code], strides_of(of)
        if size != strides[-1] and dim > 1 or strides[0] < 0 or strides[0] % size:
            raise out_of_range(f"reference has strides {list(of.strides)}: a contiguous last axis "
                               f"is expected")
        if len(of.shape) == 2 and setup.segments > 1:
            made.segment_stride = strides[0] // size
        setup.put(made, "data", of)
    elif made.source == ReferenceSource.GIVEN:
        raise conflict("reference.data is None; expected with source GIVEN")
    return made


def relevance_of(options: RelevanceOptions | None, setup: Setup,
                 dtype: Dtype | None) -> tuple[Any, int, int]:
    """(the tailcut_relevance_options, q_heads, head_dim)."""
    options = options or RelevanceOptions()
    made = new(_abi.relevance_options)
    made.policy, made.causal, made.last_query = options.policy, options.causal, options.last_query
    made.head_reduction, made.query_reduction = options.head_reduction, options.query_reduction
    for name in ("q", "k"):
        array = getattr(options, name)
        if array is None:
            continue
        of = view(array, f"options.{name}", setup.stream)
        if of.device != setup.device or len(of.shape) != len(setup.rows_shape) + 2:
            raise conflict(f"options.{name} has shape {list(of.shape)} on device {of.device}: "
                           f"{list(setup.rows_shape)} + [heads, head_dim] on {setup.device} is "
                           f"expected")
        if of.shape[0] < setup.rows_shape[0] or setup.batched and of.shape[1] != setup.max_tokens:
            raise out_of_range(f"options.{name} has shape {list(of.shape)}: "
                               f"{list(setup.rows_shape)} rows are expected")
        kind = features_dtype(of, dtype, f"options.{name}")
        strides = element_strides(of, f"options.{name}")
        if made.dtype not in (0, kind) or made.head_dim not in (0, of.shape[-1]):
            raise conflict("options.q and options.k differ in dtype or head_dim")
        made.dtype, made.head_dim = kind, of.shape[-1]
        setup.put(made, name, of)
        setattr(made, f"{name}_heads", of.shape[-2])
        setattr(made, f"{name}_head_stride", strides[-2])
        setattr(made, f"{name}_row_stride", strides[-3])
        if setup.batched:
            setattr(made, f"{name}_segment_stride", strides[0])
    if options.lse is not None:
        _lse(made, options.lse, setup)
    return made, made.q_heads, made.head_dim


def _lse(made: Any, array: Any, setup: Setup) -> None:
    of = view(array, "options.lse", setup.stream)
    if of.code != "f4" or of.device != setup.device or (
            of.shape != (*setup.rows_shape, made.q_heads)):
        raise conflict(f"options.lse has shape {list(of.shape)} of {of.code} on device "
                       f"{of.device}: float32 "
                       f"{[*setup.rows_shape, made.q_heads]} on {setup.device} is expected")
    strides = element_strides(of, "options.lse", False)
    setup.put(made, "lse", of)
    made.lse_head_stride, made.lse_row_stride = strides[-1], strides[-2]
    if setup.batched:
        made.lse_segment_stride = strides[0]
