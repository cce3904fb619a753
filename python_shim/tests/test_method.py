# SPDX-License-Identifier: Apache-2.0
"""The package against an independent statement of the method (tests/conformance/method.py): random
requests of every kind, rows with gaps, from numpy, from an object with __dlpack__ alone, as a plan,
in place, and as parts."""
import numpy as np
from hypothesis import given, strategies as st

import ask
import method
import tailcut

SEEDS = st.integers(0, 2 ** 31)


class OnlyDlpack:
    """An array that shows nothing of itself but __dlpack__."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **how):
        return self.array.__dlpack__(**how)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@given(SEEDS, st.integers(0, 3))
def test_method(seed, gap):
    request, form, one_cls = ask.case_of(seed)
    call, given_, how = ask.arguments(request, form, gap, one_cls)
    for _ in range(2):  # the second time arguments are used again
        result = call(*given_, **how)
        ask.check(request, ask.outputs(request, result))


@given(SEEDS)
def test_dlpack(seed):
    request, form, one_cls = ask.case_of(seed)
    call, given_, how = ask.arguments(request, form, 1, one_cls, OnlyDlpack)
    ask.check(request, ask.outputs(request, call(*given_, **how)))


@given(SEEDS)
def test_plan(seed):
    """A plan gives the same again, also after its inputs have changed and changed back."""
    request, form, one_cls = ask.case_of(seed)
    call, given_, how = ask.arguments(request, form, 2, one_cls)
    plan = call.plan(*given_, **how)
    first = given_[0].copy()
    assert plan() is plan.result
    given_[0][...] = 0
    plan()
    given_[0][...] = first
    result = plan()
    total = int(result.cu_seqlens[-1])
    found = ask.outputs(request, result)
    for name in {"kept", "out", "sizes"} & set(found):
        found[name] = found[name][:total]
    ask.check(request, found)


@given(SEEDS)
def test_parts(seed):
    """score or relevance, cut, compact or merge: the same bits as the fused call."""
    request, form, one_cls = ask.case_of(seed)
    if request.kind == "cut":
        return
    call, given_, how = ask.arguments(request, form, 1, one_cls)
    want = call(*given_, **how)
    same = {name: how[name] for name in ("batch", "dtype") if name in how}
    roles = None
    if call is tailcut.prune:
        part = tailcut.score(*given_, **same)
        if given_[1] == "row" if isinstance(given_[1], str) else False:
            how["batch"] = tailcut.Batch(**{**how["batch"].__dict__,
                                            "prefix_rows": max(request.prefix, 1)})
    else:
        roles = given_[1]
        part = tailcut.relevance(*given_, **same)
    assert ask.same_bits(part.scores, want.scores)
    rule = ask.rule_of(request)
    if request.kind == "prune" or request.relevance != "attention":
        rule = tailcut.Rule(**{**{f: getattr(rule, f) for f in rule.__dataclass_fields__},
                               "scale": "unit"})
    got = tailcut.cut(part.scores, rule, batch=how["batch"], roles=roles, input_flags=part.flags)
    for name in ("counts", "kept", "cu_seqlens", "flags", "mask"):
        assert ask.same_bits(getattr(got, name), getattr(want, name)), name
    if request.merge is not None:
        same["merge"] = how["merge"]
        for again in (tailcut.merge, tailcut.merge.plan):
            merged = again(given_[0], got.kept, got.counts, got.cu_seqlens, want=("joins",),
                           **same | {
                "batch": how["batch"]})
            if again is not tailcut.merge:
                merged = merged()
                merged.tokens, merged.sizes = (a[:len(got.kept)]
                                               for a in (merged.tokens, merged.sizes))
            for name in ("tokens", "sizes"):
                assert ask.same_bits(getattr(merged, name), getattr(want, name)), name
            joins = [joins.reshape(-1) for joins in (merged.joins, want.joins)]
            for a, b in zip(request.cu[:-1], request.cu[1:]):
                end = max(a, b - how["batch"].prefix_rows)
                assert ask.same_bits(joins[0][a:end], joins[1][a:end])
        return
    (tokens,) = tailcut.compact([tailcut.Rows(given_[0], token_axis=1 if form == "batch" else 0)],
                                got.kept, got.counts,
                                got.cu_seqlens, batch=how["batch"])
    assert ask.same_bits(tokens, want.tokens)


@given(SEEDS)
def test_in_place(seed):
    """out=x: each segment's results stand at its own start."""
    request, form, one_cls = ask.case_of(seed)
    if request.kind == "cut":
        return
    call, given_, how = ask.arguments(request, form, 1, one_cls)
    want = call(*given_, **how)
    x = given_[0]
    got = call(*given_, **how, out=x)
    assert ask.same_bits(got.kept, want.kept)
    rows = x.reshape(-1, x.shape[-1]) if form != "batch" else (
        np.concatenate([*x, x[:0].reshape(0, x.shape[-1])]))
    packed = [rows[a:a + n] for a, n in zip(request.cu[:-1], want.counts)]
    assert ask.same_bits(np.concatenate(packed + [want.tokens[:0]]), want.tokens)
    if form == "single":
        assert ask.same_bits(got.tokens, want.tokens)


@given(SEEDS)
def test_mean_direction(seed):
    request, form, _one_cls = ask.case_of(seed)
    if request.kind != "prune":
        return
    _call, given_, how = ask.arguments(request, form, 1)
    same = {name: how[name] for name in ("batch", "dtype") if name in how}
    u = tailcut.mean_direction(given_[0], **same)
    assert ask.same_bits(tailcut.score(given_[0], u, **same).scores,
                         tailcut.score(given_[0], "mean", **same).scores)


@given(SEEDS, st.integers(0, 2000))
def test_kept_count(seed, n):
    request, _form, _one_cls = ask.case_of(seed)
    rule = ask.rule_of(request)
    bound = tailcut.kept_count(rule, n)
    scores = np.random.default_rng(seed).normal(size=n).astype(np.float32)
    kept = int(tailcut.cut(scores, rule).counts[0])
    assert kept == bound if rule.detector in (tailcut.Detector.TOPK,
                                              tailcut.Detector.RATIO) else kept <= bound


def test_nothing_is_vacuous():
    """The seeds reach every kind, form and policy."""
    seen = {(request.kind, form, request.relevance if request.kind == "prune-seq" else "")
            for request, form, _ in map(ask.case_of, range(300))}
    assert len(seen) == 3 * 2 + 3 * 3
    assert sum(request.merge is not None for request, _, _ in map(ask.case_of, range(100))) > 5
    assert any(request.bf16 for request, _, _ in map(ask.case_of, range(50)))
    assert method.answer(ask.case_of(1)[0])


@given(st.integers(0, 2 ** 31), st.booleans(), st.sampled_from(["mean", "max"]),
       st.sampled_from(["mean", "max"]))
def test_given_log_sum_exp(seed, batched, heads, queries):
    """The layer's own log-sum-exp, in FlashAttention's order of axes: near what is computed without
    it."""
    rng = np.random.default_rng(seed)
    b, n, h, d = 2 if batched else 1, int(rng.integers(4, 30)), 4, 8
    q, k = (rng.normal(size=(b, n, heads, d)).astype(np.float32) for heads in (h, 2))
    roles = rng.choice([1, 2, 3], (b, n)).astype(np.uint8)
    logits = np.einsum("bthd,bshd->bhts", q.astype(np.float64), np.repeat(k, 2, 2)) / np.sqrt(d)
    # a view of [b, h, t]
    lse = np.log(np.exp(logits).sum(-1)).astype(np.float32).transpose(0, 2, 1)
    if not batched:
        q, k, roles, lse = q[0], k[0], roles[0], lse[0]
    reductions = dict(head_reduction=heads, query_reduction=queries)
    want, got = (tailcut.relevance(None, roles, tailcut.RelevanceOptions(
        "attention", q=q, k=k, lse=of, **reductions)) for of in (None, lse))
    assert np.allclose(got.scores, want.scores, rtol=1e-5, atol=1e-6, equal_nan=True)
