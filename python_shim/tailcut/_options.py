# SPDX-License-Identifier: Apache-2.0
"""What a caller says beside the data: Rule, Batch, Reference, RelevanceOptions, under the names of
tailcut.h.

Values of an enum may be given by name ("otsu", "drop-trunc"), in any case. What stays None is not
set: the library's default, or read off the arrays.
"""
from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from operator import index
from typing import Any, Iterable, Sequence, TypeVar

from . import _abi
from ._abi import (Detector, Dtype, Order, Placement, Policy, Power, Reduction, ReferenceSource,
                   RopePairing, Rounding, RowsFlag, Scale)
from ._errors import conflict, out_of_range, unknown_value
from ._load import new

Array = Any  # numpy, PyTorch, CuPy, JAX: whatever has __dlpack__, __cuda_array_interface__ or
             # numpy's interface
_E = TypeVar("_E", bound=IntEnum)

# Types whose values say all. Not float: 1.0 would pass for 1.
PLAIN: set[type] = {
    type(None), str, int, bool, Detector, Dtype, Order, Placement, Policy, Power, Reduction,
    ReferenceSource, RopePairing, Rounding, RowsFlag, Scale}


def member(kind: type[_E], value: _E | int | str, name: str) -> _E:
    """A value of an enum from itself, its number or its name."""
    if type(value) is kind:
        return value
    try:
        return kind[value.replace("-", "_").upper()] if isinstance(value, str) else kind(value)
    except (KeyError, ValueError):
        words = ", ".join(m.name.lower().replace("_", "-") for m in kind)
        raise unknown_value(f"{name} is {value!r}; expected one of {words}") from None


def whole(value: Any, name: str, most: int = 2 ** 31 - 1) -> int:
    """A value that can be counted with, as an int that the library's field holds."""
    try:
        found = index(value)
    except TypeError:
        raise unknown_value(f"{name} is {value!r}: a whole number is expected") from None
    if not -most <= found <= most:
        raise out_of_range(f"{name} is {found}: at most {most} is expected")
    return found


def is_a(value: Any, kinds: type | tuple[type, ...], name: str, more: str = "") -> None:
    """Refuses what is none of `kinds`, of which the first is named."""
    if not isinstance(value, kinds):
        said = repr(value) if isinstance(value, (str, int, float, dict, type(None))) else (
            f"a {type(value).__name__}")
        kind = kinds[0] if isinstance(kinds, tuple) else kinds
        raise unknown_value(f"{name} is {said}: a {kind.__name__}{more} is expected")


def named_rule(rule: Any) -> Rule:
    """A Rule, or that of a detector's name."""
    if isinstance(rule, Rule):
        return rule
    if rule is not None:
        is_a(rule, (Rule, str, Detector), "rule", ", such as Rule(k=5), or a detector's name")
    return Rule(rule)


def _real(value: Any, name: str) -> float:
    if isinstance(value, str):
        raise unknown_value(f"{name} is {value!r}: a number is expected")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise unknown_value(f"{name} is a {type(value).__name__}: a number is expected") from None


def _wholes(made: Any, names: Sequence[str], of: str) -> None:
    for name in names:
        value = getattr(made, name)
        if value is not None:
            found = whole(value, f"{of}.{name}")
            if type(value) is not int:
                object.__setattr__(made, name, found)


# Which detector a parameter belongs to: given alone it chooses it.
_CHOOSES = {
    "k": Detector.TOPK, "group_k": Detector.TOPK, "ratio": Detector.RATIO,
    "percent": Detector.RATIO,
    "rounding": Detector.RATIO, "tau": Detector.THRESHOLD, "lambda_": Detector.MEAN,
    "mass": Detector.MASS,
    "window": Detector.CURVATURE}


class Options:
    """What a caller says. It does not change; what was found of it stays under names that begin
    with _, which copies do not have."""

    __slots__ = ("_parts",)

    def _split(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """What tells it from another: values that say all, and arrays and other objects."""
        plain: list[Any] = [type(self)]
        others = []
        for name in self.__dataclass_fields__:  # type: ignore[attr-defined]
            value = getattr(self, name)
            if type(value) in PLAIN:
                plain.append(value)
            else:
                plain.append(...)
                others.append(value)
        return tuple(plain), tuple(others)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}


@dataclass(frozen=True)
class Rule(Options):
    """How many tokens stay, and which end of the curve: a detector, its parameters, and the clamps
    that hold for every detector, in this order: raise to min_keep, lower to max_keep, round up to a
    multiple of round_to, lower to max_keep and the number of candidates. It holds for each group by
    itself.

    A parameter chooses its detector where none is named: Rule(k=144), Rule(ratio=0.25),
    Rule(tau=0.1). One that the detector does not read is refused.
    """

    detector: Detector | str | None = None  #: default OTSU, or what a parameter chooses
    k: int | None = None                #: TOPK: how many, >= 1
    ratio: float | None = None          #: RATIO: the kept share 0..1 (the dropped one with
                                        #: DROP_CEIL, DROP_TRUNC)
    percent: int | None = None          #: RATIO with DROP_PERCENT: the dropped share 0..100
    rounding: Rounding | str | None = None  #: RATIO: default CEIL, or DROP_PERCENT with percent
    tau: float | None = None            #: THRESHOLD: the least score that stays
    lambda_: float | None = None        #: MEAN: standard deviations above the mean, default 1
    mass: float | None = None           #: MASS: share of the total above the minimum, default 0.9
    window: int | None = None           #: CURVATURE: ranks; 0 (default) is a sixteenth of the
                                        #: scores
    min_keep: int = 1
    max_keep: int | None = None         #: default: all
    round_to: int = 1                   #: takes the next-best tokens, never pads
    search_lo: float = 0.0              #: OTSU, CHORD, GAP, CURVATURE: ranks considered, as shares
    search_hi: float = 1.0
    spread: float = 0.0                 #: this share of the k tokens comes evenly from the tail
    order: Order | str = Order.HIGH     #: LOW keeps the least similar
    scale: Scale | str = Scale.DEFAULT  #: UNIT for cosines, AUTO for other scores
    group_k: Array | None = None        #: TOPK: int32 [groups] on the device, k of each; `k` is
                                        #: then the most

    def __post_init__(self) -> None:
        chosen = {name: detector for name, detector in _CHOOSES.items()
                  if getattr(self, name) is not None}
        detector = self.detector
        if detector is None:
            detector = next(iter(chosen.values()), Detector.OTSU)
        detector = member(Detector, detector, "rule.detector")
        for name, of in chosen.items():
            if of != detector:
                raise conflict(f"rule.{name} belongs to {of.name}, but the detector is "
                               f"{detector.name}")
        if detector > Detector.CURVATURE and (self.search_lo, self.search_hi) != (0.0, 1.0):
            raise conflict(f"rule.search_lo and search_hi are not read by {detector.name}")
        rounding = self.rounding
        if rounding is None and detector == Detector.RATIO:
            rounding = Rounding.CEIL if self.percent is None else Rounding.DROP_PERCENT
        if rounding is not None:
            object.__setattr__(self, "rounding", member(Rounding, rounding, "rule.rounding"))
        _wholes(self, ("k", "percent", "window", "min_keep", "max_keep", "round_to"), "rule")
        for name in ("ratio", "tau", "lambda_", "mass", "search_lo", "search_hi", "spread"):
            value = getattr(self, name)
            if value is not None and type(value) is not float:
                object.__setattr__(self, name, _real(value, f"rule.{name}"))
        object.__setattr__(self, "detector", detector)
        object.__setattr__(self, "order", member(Order, self.order, "rule.order"))
        object.__setattr__(self, "scale", member(Scale, self.scale, "rule.scale"))

    def _host_struct(self) -> Any:
        """The C struct but for group_k."""
        made = self.__dict__.get("_made")
        if made is None:
            made = new(_abi.rule)
            for name in ("detector", "scale", "rounding", "order", "min_keep", "round_to",
                         "search_lo", "search_hi",
                         "spread", "k", "ratio", "percent", "window", "lambda_", "mass", "tau",
                         "max_keep"):
                value = getattr(self, name)
                if value is not None:
                    setattr(made, name.rstrip("_"), value)
            self.__dict__["_made"] = made
        return made

    def _split(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        others = () if self.group_k is None else (self.group_k,)
        return (Rule, bytes(self._host_struct())), others


@dataclass(frozen=True)
class Batch(Options):
    """How rows form segments, where that cannot be read off a shape.

    Without cu_seqlens a batch is uniform: [N, D] is one segment, [B, N, D] is B of them. With
    cu_seqlens it is ragged: [total, D]. int32 arrays on the device of the data; of host arrays
    lists and other integers are taken too.
    """

    cu_seqlens: Array | None = None        #: int32 [segments + 1]: offsets of the segments
    lengths: Array | None = None           #: int32 [segments]: rows of each (uniform only)
    prefix_rows: int = 0                   #: the first rows of every segment are no candidates
                                           #: (CLS, registers)
    group_cu_seqlens: Array | None = None  #: int32 [groups + 1]: groups are cut by themselves;
                                           #: cover every boundary
    segments: int | None = None            #: default: read off the arrays
    max_tokens: int | None = None          #: rows of a segment at most; ragged default: the longest
                                           #: one on the host,
    #:                                        all rows on a device (say it there: buffers get
    #:                                        smaller)
    total_tokens: int | None = None        #: ragged: rows of the arrays; default: read off them

    def __post_init__(self) -> None:
        _wholes(self, ("prefix_rows", "segments", "max_tokens"), "batch")
        if self.prefix_rows < 0:
            raise out_of_range(f"batch.prefix_rows is {self.prefix_rows}: 0 or more is expected")
        if self.total_tokens is not None:
            object.__setattr__(self, "total_tokens", whole(
                self.total_tokens, "batch.total_tokens", 2 ** 62))


@dataclass(frozen=True)
class Reference(Options):
    """The vector that tokens are compared with, where it is not simply given: ROW (the segment's
    first row, the CLS token; prefix_rows is then at least 1), MEAN (mean direction of the segment's
    own candidates), LAG (video: the candidate `lag` before, the same patch one frame earlier where
    lag is the tokens of a frame), NOVELTY (how different a token is from all that are better)."""

    source: ReferenceSource | str = ReferenceSource.GIVEN
    data: Array | None = None  #: GIVEN: [D] for all segments or [segments, D], in the tokens' dtype
                               #: or float32
    lag: int = 0               #: LAG: >= 1
    window: int = 0            #: NOVELTY: 64, 128 or 256; 0 is 64

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", member(ReferenceSource, self.source, "reference.source"))
        _wholes(self, ("lag", "window"), "reference")


@dataclass(frozen=True)
class Merge(Options):
    """Dropped tokens join the kept one of their window that is most like them, instead of being
    lost. A merged row stands for Selection.sizes tokens: add the logarithm of that to its key's
    logits in every later layer."""

    power: Power | str = Power.COS4  #: how much a joining row counts: MEAN 1, COS4 its cosine to
                                     #: the fourth power
    window: int = 0                  #: 64, 128 or 256; default: NOVELTY's, else 64
    sizes_in: Array | None = None    #: int32 by row: how many tokens a row stands for already

    def __post_init__(self) -> None:
        object.__setattr__(self, "power", member(Power, self.power, "merge.power"))
        _wholes(self, ("window",), "merge")


def names_of(want: Iterable[str]) -> tuple[str, ...]:
    """What is wanted; one name may stand for itself."""
    if isinstance(want, str) or not isinstance(want, Iterable):
        is_a(want, str, "want", " or several")
        return want,
    return tuple(want)


def merging(merge: Merge | Power | str) -> Merge:
    return merge if isinstance(merge, Merge) else Merge(merge)


@dataclass(frozen=True)
class RelevanceOptions(Options):
    """What relevance is. MEAN_COSINE (default) and MAX_COSINE compare hidden states; ATTENTION
    reads q and k."""

    policy: Policy | str = Policy.MEAN_COSINE
    causal: bool = False      #: ATTENTION: a query sees the rows up to its own
    last_query: bool = False  #: ATTENTION: only the last query row counts
    q: Array | None = None    #: ATTENTION: [..., q_heads, head_dim], rows as the hidden states have
                              #: them
    k: Array | None = None    #: ATTENTION: [..., k_heads, head_dim]; q_heads is a multiple of
                              #: k_heads
    head_reduction: Reduction | str = Reduction.MEAN   #: ATTENTION: over the heads, first
    query_reduction: Reduction | str = Reduction.MEAN  #: ATTENTION: over the query rows
    lse: Array | None = None  #: ATTENTION: float32 [..., q_heads], the layer's own log-sum-exp
                              #: (natural logarithm, of
    #:                           scaled logits), any strides: FlashAttention's [q_heads, rows] is
    #:                           handed over as lse.T

    def __post_init__(self) -> None:
        object.__setattr__(self, "policy", member(Policy, self.policy, "options.policy"))
        for name in ("head_reduction", "query_reduction"):
            object.__setattr__(self, name, member(Reduction, getattr(self, name),
                                                  f"options.{name}"))
