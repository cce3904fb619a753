# SPDX-License-Identifier: Apache-2.0
"""What goes in: element types, devices' interfaces, rules, batches; and how a wrong argument is
refused."""
import array
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
