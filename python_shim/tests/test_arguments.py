# SPDX-License-Identifier: Apache-2.0
"""What goes in: element types, devices' interfaces, rules, batches; and how a wrong argument is
refused."""
import array
import inspect
import pickle
from dataclasses import replace

import numpy as np
import pytest

import tailcut
from tailcut import ArgumentError, Batch, Detector, Flag, Reference, Rule, Status

RNG = np.random.default_rng(1)
X = RNG.normal(size=(3, 30, 16)).astype(np.float32)
CLS = RNG.normal(size=(3, 16)).astype(np.float32)


def bf16(values):
    return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16)


def test_bfloat16():
    """uint16 with a dtype, and ml_dtypes' own, are the same."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    words = bf16(X)
    a = tailcut.prune(words, bf16(CLS), dtype="bf16")
    b = tailcut.prune(words.view(ml_dtypes.bfloat16), bf16(CLS).view(ml_dtypes.bfloat16))
    assert (a.kept == b.kept).all() and (a.scores == b.scores).all()
    assert b.tokens.dtype == ml_dtypes.bfloat16 and (b.tokens.view(np.uint16) == a.tokens).all()
    wide = (words.astype(np.uint32) << 16).view(np.float32)
    cls = (bf16(CLS).astype(np.uint32) << 16).view(np.float32)
    assert (tailcut.score(wide, cls).scores == a.scores).all()


def test_other_objects():
    """Whatever numpy sees without a copy is taken: buffers, memoryviews, subclasses."""
    flat = array.array("f", X[0].ravel().tolist())
    view = memoryview(flat).cast("B").cast("f", [30, 16])
    want = tailcut.prune(X[0], CLS[0])
    for x in (view, X[0].view(np.matrix), np.ma.asarray(X[0])):
        assert (tailcut.prune(x, CLS[0]).kept == want.kept).all()


def test_first_channels():
    want = tailcut.score(X[:, :, :9], CLS[:, :9])
    assert (tailcut.score(X, CLS, dim=9).scores == want.scores).all()


def test_lengths_and_prefix():
    r = tailcut.prune(X, "row", batch=Batch(lengths=[30, 7, 0], prefix_rows=2), rule=Rule(k=4))
    assert r.counts.tolist() == [4, 4, 0] and r.mask[:, :2].sum() == 0
    assert np.isnan(r.scores[1, 5:]).all() and not np.isnan(r.scores[1, :5]).any()
    bad = tailcut.prune(X, "mean", batch=Batch(lengths=[30, 31, 5]), rule=Rule(k=4))
    assert bad.counts.tolist() == [4, 0, 4] and Flag(int(bad.flags[1])) == Flag.INVALID
    assert not bad.mask[1].any()


def test_k_of_each_group():
    r = tailcut.cut(X[:, :, 0].copy(), Rule(k=20, group_k=np.array([1, 5, 99], np.int32)))
    assert r.counts.tolist() == [1, 5, 20]


def test_uniform_rows_in_one_axis():
    flat = X.reshape(90, 16)
    got = tailcut.prune(flat, CLS, batch=Batch(segments=3, max_tokens=30))
    assert (got.kept == tailcut.prune(X, CLS).kept).all()


def test_rule():
    assert Rule(k=3).detector == Detector.TOPK and Rule(percent=30).rounding.name == "DROP_PERCENT"
    assert replace(Rule(k=3, spread=0.5), k=4) == Rule("topk", k=4, spread=0.5)
    assert pickle.loads(pickle.dumps(Rule(tau=0.5))) == Rule(tau=0.5)
    assert hash(Rule(k=3)) == hash(Rule(k=3))
    assert tailcut.kept_count(Rule(ratio=0.25), 100) == 25 and tailcut.kept_count("otsu", 7) == 7
    for wrong in (dict(k=3, tau=0.1), dict(detector="otsu", k=3), dict(rounding="ceil", k=3),
                  dict(k=2, search_lo=0.5)):
        with pytest.raises(ArgumentError):
            Rule(**wrong)
    with pytest.raises(ArgumentError, match="expected one of otsu, chord"):
        Rule("elbow")


@pytest.mark.parametrize("call, status, said", [
    (lambda: tailcut.prune(X[..., ::2], CLS[:, ::2]), Status.ERROR_RANGE, "last axis contiguous"),
    (lambda: tailcut.prune(X[:, ::-1], CLS), Status.ERROR_RANGE, "backwards"),
    (lambda: tailcut.prune(X.astype(np.float64), CLS), Status.ERROR_ENUM, "x has elements f8"),
    (lambda: tailcut.prune(X.astype(">f4"), CLS), Status.ERROR_UNSUPPORTED, "byte order"),
    (lambda: tailcut.prune(bf16(X), CLS), Status.ERROR_ENUM, "dtype='bf16'"),
    (lambda: tailcut.prune(X, CLS, dtype="bf16"), Status.ERROR_CONFLICT, "dtype is BF16"),
    (lambda: tailcut.prune(X, CLS[:2]), Status.ERROR_RANGE, r"reference has shape \[2, 16\]"),
    (lambda: tailcut.prune(X, CLS[:, :5].copy()), Status.ERROR_RANGE, "reference has shape"),
    (lambda: tailcut.prune(X, CLS.astype(np.float16)), Status.ERROR_ENUM, "reference->dtype is 1"),
    (lambda: tailcut.prune(X, "middle"), Status.ERROR_ENUM,
     "expected one of given, row, mean, lag"),
    (lambda: tailcut.prune(X, Reference("lag")), Status.ERROR_RANGE, "lag"),
    (lambda: tailcut.prune(X, Reference()), Status.ERROR_CONFLICT, "reference.data"),
    (lambda: tailcut.prune(X, CLS, rule=Rule(k=0)), Status.ERROR_RANGE, "rule->k is 0"),
    (lambda: tailcut.prune(X, CLS, want=("score",)), Status.ERROR_CONFLICT, "want has 'score'"),
    (lambda: tailcut.prune(X, CLS, merge="cos3"), Status.ERROR_ENUM, "expected one of mean, cos4"),
    (lambda: tailcut.merge(X, np.zeros(3, "i4"), np.ones(3, "i4"), want=("mask",)),
     Status.ERROR_CONFLICT, "joins"),
    (lambda: tailcut.merge(X, np.zeros(3, "i4"), np.ones(2, "i4")), Status.ERROR_RANGE,
     "counts has shape"),
    (lambda: tailcut.merge(X, np.zeros(3, "i4"), np.ones(3, "i4")), Status.ERROR_NULL,
     "new_cu_seqlens"),
    (lambda: tailcut.prune(X, CLS, batch=Batch(cu_seqlens=[0, 90])), Status.ERROR_CONFLICT,
     "goes with"),
    (lambda: tailcut.prune(X[0], CLS[0], batch=Batch(cu_seqlens=np.zeros((2, 2), np.int32))),
     Status.ERROR_RANGE,
     "one axis"),
    (lambda: tailcut.prune(X, CLS, batch=Batch(lengths=[1, 2])), Status.ERROR_RANGE,
     "batch.lengths has shape"),
    (lambda: tailcut.prune(X, CLS, batch=Batch(lengths=[1, 2, 2 ** 40])), Status.ERROR_RANGE,
     "cannot hold"),
    (lambda: tailcut.prune(X, CLS, dim=17), Status.ERROR_RANGE, "dim is 17"),
    (lambda: tailcut.prune(X[0, 0], CLS[0]), Status.ERROR_RANGE, "shape"),
    (lambda: tailcut.cut(X[0, :, 0]), Status.ERROR_UNSUPPORTED, "scores is strided"),
    (lambda: tailcut.cut(np.zeros(5)), Status.ERROR_ENUM, "float32 is expected"),
    (lambda: tailcut.cut(np.zeros(5, "f4"), want=("scores",)), Status.ERROR_CONFLICT,
     "selection->scores"),
    (lambda: tailcut.relevance(X, np.zeros(5, np.uint8)), Status.ERROR_RANGE, "roles has shape"),
    (lambda: tailcut.relevance(None, np.zeros(90, np.uint8)), Status.ERROR_CONFLICT, "ATTENTION"),
    (lambda: tailcut.kept_count(Rule(k=3), -1), Status.ERROR_RANGE, "n is -1"),
    (lambda: tailcut.Handle("tpu"), Status.ERROR_ENUM, "expected cpu, cuda"),
    (lambda: tailcut.Handle("cpu", threads=-1), Status.ERROR_RANGE, "threads is -1"),
])
def test_refused(call, status, said):
    with pytest.raises(tailcut.Error, match=said) as caught:
        call()
    assert caught.value.status == status and caught.value.message in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.status, again.message) == (status, caught.value.message)


@pytest.mark.parametrize("call, said", [
    (lambda: tailcut.prune(None, CLS), "x is None"),
    (lambda: tailcut.prune(X, CLS, rule=5), r"rule is 5: a Rule, such as Rule\(k=5\)"),
    (lambda: tailcut.kept_count({"k": 3}, 9), "rule is {'k': 3}"),
    (lambda: tailcut.cut(X[:, :, 0].copy(), rule=CLS), "rule is a ndarray"),
    (lambda: Rule(k=2.5), "rule.k is 2.5: a whole number"),
    (lambda: Rule(k="2"), "rule.k is '2'"),
    (lambda: Rule(min_keep=2 ** 40), "rule.min_keep is 1099511627776"),
    (lambda: Rule(ratio="half"), "rule.ratio is 'half'"),
    (lambda: Rule(tau=[1]), "rule.tau is a list"),
    (lambda: Batch(prefix_rows=1.5), "batch.prefix_rows is 1.5"),
    (lambda: Batch(prefix_rows=-1), "batch.prefix_rows is -1"),
    (lambda: Reference("lag", lag=1.5), "reference.lag is 1.5"),
    (lambda: tailcut.Merge(window="64"), "merge.window is '64'"),
    (lambda: tailcut.prune(X, CLS, batch={"prefix_rows": 1}), "batch is {'prefix_rows': 1}"),
    (lambda: tailcut.score(X, CLS, batch=[0, 90]), "batch is a list: a Batch"),
    (lambda: tailcut.prune(X, CLS, handle="cpu"), "handle is 'cpu'"),
    (lambda: tailcut.prune(X, CLS, rows=X), "rows is a ndarray"),
    (lambda: tailcut.prune(X, CLS, rows=tailcut.Rows(X)), "rows is a Rows: a list of Rows"),
    (lambda: tailcut.prune(X, CLS, rows=[X]), r"rows\[0\] is a ndarray: a Rows"),
    (lambda: tailcut.compact(X, np.zeros(3, "i4"), np.ones(3, "i4")), "rows is a ndarray"),
    (lambda: tailcut.prune(X, CLS, want=None), "want is None"),
    (lambda: tailcut.prune(X, CLS, want="score"), "want has 'score'"),
    (lambda: tailcut.prune(X, CLS, dim=0), "dim is 0, but x has 16"),
    (lambda: tailcut.score(X, CLS, dim=-1), "dim is -1, but x has 16"),
    (lambda: tailcut.score(X, CLS, dim=4.0), "dim is 4.0"),
    (lambda: tailcut.kept_count("otsu", 3.5), "n is 3.5"),
])
def test_of_another_kind(call, said):
    """What is no value of an argument's type is refused by the argument's name."""
    with pytest.raises(ArgumentError, match=said):
        call()


def test_numbers():
    """Those of numpy are as good as Python's."""
    rules = Rule(k=np.int64(4)), Rule(ratio=np.float32(0.5)), Rule(tau=1)
    assert rules == (Rule(k=4), Rule(ratio=0.5), Rule(tau=1.0)) and type(rules[0].k) is int
    got = tailcut.prune(X, CLS, rule=rules[0], want="ranks", batch=Batch(prefix_rows=np.int32(1)))
    assert got.counts.tolist() == [4, 4, 4] and got.ranks.shape == (3, 30) and got.mask is None


def test_without_segments():
    for _ in range(2):
        got = tailcut.prune(X[:0], CLS[0])
        assert got.tokens.shape == (0, 16) and got.kept.shape == got.counts.shape == (0,)
        assert got.cu_seqlens.tolist() == [0] and got.scores.shape == (0, 30)


def test_signatures():
    """help() tells what is called and what comes back."""
    for name in ("prune", "score", "merge", "relevance"):
        call = getattr(tailcut, name)
        of, planned = inspect.signature(call), inspect.signature(call.plan)
        assert of.parameters == planned.parameters
        assert planned.return_annotation == f"Plan[{of.return_annotation}]"
    with pytest.raises(TypeError, match=r"prune\(\) got an unexpected keyword argument 'keep'"):
        tailcut.prune(X, CLS, keep=3)


def test_read_only():
    x = X.copy()
    x.setflags(write=False)
    want = tailcut.prune(X, CLS)
    assert (tailcut.prune(x, CLS).tokens == want.tokens).all()
    for _ in range(2):  # not forgotten where arguments are used again
        with pytest.raises(ArgumentError, match="read only"):
            tailcut.prune(x, CLS, out=x)
        y = X.copy()
        tailcut.prune(y, CLS, out=y)


def test_no_cuda_here():
    """Without a backend or a device the error says so, and nothing else breaks."""
    try:
        handle = tailcut.Handle("cuda")
    except tailcut.Error as failure:
        assert failure.status in (Status.ERROR_NO_BACKEND, Status.ERROR_NO_DEVICE)
    else:
        assert handle.info["backend"] == "cuda"
