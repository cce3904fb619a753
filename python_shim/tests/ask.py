# SPDX-License-Identifier: Apache-2.0
"""A request of tests/conformance/method.py asked of the package, in one of several dresses, and its
answer beside the method's."""
import numpy as np

import paths  # noqa: F401  (puts the method on the path)
import method
import tailcut
from cases import random_case

NAMES = {"lam": "lambda_", "lo": "search_lo", "hi": "search_hi"}


def case_of(seed):
    """(a random request, its form: "single", "batch" or "ragged", whether one vector is for all
    segments)."""
    case = random_case(12, seed)
    first = case.files[{"prune": "tokens", "cut": "scores",
                        "prune-seq": "hidden"}[case.request.kind]]
    features = first.ndim - (case.request.kind != "cut")
    form = "ragged" if "cu" in case.files else "batch" if features == 2 else "single"
    one_cls = case.files.get("cls", np.zeros((1, 1))).ndim == 1
    return case.request, form, one_cls


def rule_of(request):
    return tailcut.Rule(**{NAMES.get(name, name): value for name, value in request.values.items()})


def spaced(array, gap):
    """The same values with `gap` elements of NaN or 77 behind each row, and rows between the
    segments."""
    if array.ndim < 2 or not gap:
        return array
    wide = np.full([n + (axis > 0) * gap for axis, n in enumerate(array.shape)],
                   77 if array.dtype.kind in "ui" else np.nan, array.dtype)
    view = wide[tuple(slice(n) for n in array.shape)]
    view[...] = array
    return view


def shaped(request, array, form):
    """[total, ...] as the form has it."""
    if form != "batch":
        return array
    count = len(request.cu) - 1
    return array.reshape(count, int(request.cu[1]) if count else 0, *array.shape[1:])


def reference_of(request, one_cls):
    if isinstance(request.reference, tuple):
        name, number = request.reference
        return tailcut.Reference(name, **{"lag" if name == "lag" else "window": number})
    if isinstance(request.reference, str):
        return request.reference
    return request.reference[0] if one_cls and len(request.reference) else request.reference


def arguments(request, form, gap=0, one_cls=False, dress=lambda array: array):
    """(function, positional arguments, keywords) for the package."""
    batch = dict(prefix_rows=request.prefix)
    if form == "ragged":
        batch["cu_seqlens"] = dress(np.asarray(request.cu, np.int32))
    if request.groups is not None:
        batch["group_cu_seqlens"] = dress(np.asarray(request.groups, np.int32))
    how = dict(rule=rule_of(request), batch=tailcut.Batch(**batch))
    if request.bf16:
        how["dtype"] = "bf16"
    rows = dress(spaced(shaped(request, request.rows, form), gap))
    want = {"curve", "ranks", "mask"} | ({"group_counts"} if request.groups is not None else set())
    if request.kind == "cut":
        how.pop("dtype", None)
        return tailcut.cut, (dress(np.ascontiguousarray(shaped(request, request.rows, form))),
                             ), how | {"want": want}
    want.add("scores")
    if request.kind == "prune":
        cls = reference_of(request, one_cls)
        if request.merge is not None:
            power, window = request.merge
            sizes = None
            if request.sizes is not None:  # by row: those of prefix rows are not read
                sizes, first = np.full(len(request.rows), -9, np.int32), 0
                for a, b in zip(request.cu[:-1], request.cu[1:]):
                    a = min(a + request.prefix, b)
                    sizes[a:b], first = request.sizes[first:first + b - a], first + b - a
                sizes = dress(shaped(request, sizes, form))
            how["merge"] = tailcut.Merge(power, window, sizes)
            want.add("joins")
        return tailcut.prune, (rows, cls if isinstance(cls, (str, tailcut.Reference))
                               else dress(cls)), how | {
            "want": want}
    options = tailcut.RelevanceOptions(request.relevance)
    if request.relevance == "attention":
        options = tailcut.RelevanceOptions(
            "attention", request.causal, request.last_query,
            dress(spaced(shaped(request, request.q, form), gap)),
            dress(spaced(shaped(request, request.k, form), gap)), *request.reductions)
    roles = dress(np.ascontiguousarray(shaped(request, request.roles, form)))
    return tailcut.prune_sequence, (rows, roles, options), how | {"want": want}


def outputs(request, result):
    """A Selection by the names of method.answer."""
    found = {"kept": result.kept, "counts": result.counts, "offsets": result.cu_seqlens,
             "flags": result.flags,
             "mask": result.mask.reshape(-1)}
    if request.groups is not None:
        found["group-counts"] = result.group_counts
    if request.kind != "cut":
        found["out"] = result.tokens
        by_row = result.scores.reshape(-1)
        found["scores"] = np.concatenate(
            [by_row[a:max(a, b - request.prefix)] for a, b in zip(request.cu[:-1], request.cu[1:])]
            + [np.zeros(0, np.float32)])
    if request.merge is not None:
        found["sizes"], joins = result.sizes, result.joins.reshape(-1)
        found["joins"] = np.concatenate([joins[a:max(a, b - request.prefix)] for a, b in zip(
            request.cu[:-1], request.cu[1:])] + [np.zeros(0, np.int32)])
    return found


def same_bits(got, want):
    """Equal in type, shape and bits; any two NaN are the same."""
    got = np.asarray(got)
    if got.dtype != want.dtype or got.shape != want.shape:
        return False
    width = f"u{want.dtype.itemsize}"
    equal = np.ascontiguousarray(got).view(width) == np.ascontiguousarray(want).view(width)
    if want.dtype.kind == "f":
        equal |= np.isnan(got) & np.isnan(want)
    return bool(equal.all())


def check(request, found):
    """Every output is what the method says: bit for bit, or near it and then exact from the
    package's own scores."""
    own = None
    if method.is_close(request):
        near = method.close(request)
        own = found["scores"]
        assert (np.isnan(own) == np.isnan(near)).all()
        error = np.abs(np.nan_to_num(own.astype(np.float64) - near))
        assert (error <= method.tolerance(request, np.nan_to_num(near))).all()
    want = method.answer(request, own)
    if request.kind != "cut" and request.rows.dtype.name == "bfloat16":
        want["out"] = want["out"].astype(request.rows.dtype)
    for name, array in found.items():
        assert same_bits(array, want[name]), (name, np.asarray(array), want[name])
