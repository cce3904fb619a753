# SPDX-License-Identifier: Apache-2.0
"""PyTorch's tensors in the core calls. Run where TAILCUT_TEST_TORCH is set; the operators of
tailcut.torch: test_torch_*.py."""
import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

import ask
import tailcut
import tailcut.torch as tt
from paths import ROOT
from tailcut import Rule, _reuse
from tensors import data

SEEDS = st.integers(0, 2 ** 31)


def tensor(array):
    """A tensor with the array's gaps; bfloat16 words stay uint16."""
    return torch.from_numpy(array)


def numpy_of(result):
    for name in result.__dataclass_fields__:
        value = getattr(result, name)
        if isinstance(value, torch.Tensor):
            setattr(result, name, value.numpy())
    return result


@given(SEEDS, st.integers(0, 2))
def test_method(seed, gap):
    """Tensors in, tensors out, in the bits of the method."""
    request, form, one_cls = ask.case_of(seed)
    call, given_, how = ask.arguments(request, form, gap, one_cls, tensor)
    for _ in range(2):
        result = call(*given_, **how)
        assert all(isinstance(value, torch.Tensor)
                   for value in (result.kept, result.counts, result.mask))
        ask.check(request, ask.outputs(request, numpy_of(result)))


def test_bfloat16():
    x, cls = data(torch.bfloat16)
    got = tailcut.prune(x, cls)
    want = tailcut.prune(x.float(), cls.float())
    assert torch.equal(got.kept, want.kept) and torch.equal(got.scores, want.scores)
    assert got.tokens.dtype == torch.bfloat16 and torch.equal(got.tokens.float(), want.tokens)


def test_again():
    """The second call of a form makes its arrays when they are read, and they are those of the
    first."""
    x, cls = data()
    for how in ({}, {"want": ("mask", "ranks", "curve")}, {"out": False, "want": ()},
                {"placement": "local"},
                {"batch": tailcut.Batch(prefix_rows=3)}, {"rule": Rule(k=40)}):
        _reuse._calls.known.clear()  # other tests' forms
        first, second = tailcut.prune(x, cls, **how), tailcut.prune(x, cls, **how)
        assert type(first) is tailcut.Selection and isinstance(second, tailcut.Selection)
        for one in (second, pickle.loads(pickle.dumps(second)), copy.copy(second)):
            for name in first.__dataclass_fields__:
                a, b = getattr(first, name), getattr(one, name)
                same = a == b if not isinstance(a, torch.Tensor) else (
                    torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)))
                # rows behind the last are unspecified
                if name != "tokens" or how.get("placement") != "local":
                    assert same, name
                assert not isinstance(a, torch.Tensor) or a.dtype == b.dtype
    first = tailcut.prune(x, cls, want=("scores",))
    tailcut.prune(x, cls, want=("scores",))
    for name in first.__dataclass_fields__:  # whichever is read first
        a, b = getattr(first, name), getattr(tailcut.prune(x, cls, want=("scores",)), name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, name


def test_plan_of_tensors():
    x, cls = data()
    plan = tailcut.prune.plan(x, cls, rule=Rule(k=9))
    first = plan().kept.clone()
    x.copy_(x.flip(1))
    assert torch.equal(39 - plan().kept[:27].view(3, 9).flip(1), first[:27].view(3, 9))
    assert np.asarray(plan.result.counts).tolist() == [9, 9, 9]


def test_gradients():
    """Core calls have none. What a graph needs is not written unnoticed, by no call in place."""
    x, cls = data()
    x.requires_grad_()
    for _ in range(2):
        got = tailcut.prune(x, cls)
        assert not got.tokens.requires_grad and not got.kept.requires_grad
        own = x * 1
        with pytest.raises(tailcut.ArgumentError, match="out.dst requires a gradient"):
            tailcut.prune(own, cls, out=own)
        assert torch.equal(own, x)
    kept, counts = tt.prune(x, cls, rule=Rule(k=9))[1:3]
    roles = torch.ones(x.shape[:2], dtype=torch.uint8)
    for call, name in ((lambda y: tt.prune_(y, cls), "x"),
                       (lambda y: tt.prune_(y, cls, merge="cos4"), "x"),
                       (lambda y: tt.compact_([cls[None], y], kept, counts, token_axis=1),
                        r"rows\[1\]"),
                       (lambda y: tt.prune_sequence_(y, roles, rows=[y * 1]), "x"),
                       (lambda y: tailcut.prune(y, cls, out=y), "out.dst"),
                       (lambda y: tailcut.compact([tailcut.Rows(y, y)], kept, counts),
                        r"rows\[0\].dst")):
        own = x * 1
        with pytest.raises(tailcut.ArgumentError, match=f"{name} requires a gradient"):
            call(own)
        assert torch.equal(own, x)
    for call in (lambda y: tt.prune_(y, cls), lambda y: tt.prune_(y, cls, merge="cos4"),
                 lambda y: tt.compact_([y], kept, counts),
                 lambda y: tt.prune_sequence_(y, roles | 2, "max_cosine"),
                 lambda y: tailcut.prune(y, cls, out=y),
                 lambda y: tailcut.prune.plan(y, cls, out=y)()):
        for _ in range(2):
            own = x * 1
            square = (own * own).sum()
            with torch.no_grad():
                call(own)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                square.backward()
    with torch.inference_mode():
        tt.prune_(x * 1, cls)


def test_without_memory():
    """Tensors of transforms, sparse ones, and those that are nowhere."""
    x, cls = data()
    for _ in range(2):
        for call in (lambda: torch.vmap(lambda a: tailcut.prune(a, cls).tokens)(x),
                     lambda: torch.func.grad(lambda a: tailcut.prune(a, cls).tokens.sum())(x),
                     lambda: tailcut.score(x[0].to_sparse(), cls),
                     lambda: tailcut.prune(x[0].to_sparse(), cls),
                     lambda: tailcut.prune(x.to("meta"), cls)):
            with pytest.raises(tailcut.UnsupportedError, match="x has no memory that can be read"):
                call()
    got = torch.vmap(lambda a: tt.prune(a, cls, rule=Rule(k=4)).tokens)(x)
    assert torch.equal(got, tt.prune(x, cls, rule=Rule(k=4)).tokens)


class Pruned(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        x = torch.arange(40. * 24).view(40, 24).sin() * (i + 1) + i
        return (tt.prune(x, None, rule=Rule(k=9)).tokens,
                tailcut.prune(x.numpy(), None, rule=Rule(k=9)).kept)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_workers():
    """Processes that fork behind a call, and with it what it prepared."""
    want = [Pruned()[i] for i in range(4)]
    got = list(torch.utils.data.DataLoader(Pruned(), batch_size=1, num_workers=2,
                                           multiprocessing_context="fork"))
    for (tokens, kept), (wanted, numbers) in zip(got, want):
        assert torch.equal(tokens[0], wanted) and kept[0].tolist() == numbers.tolist()


def test_numbers_of_numpy():
    x, cls = data()
    got = tt.prune(x, cls, rule=Rule(k=np.int64(4)))
    assert got.counts.tolist() == [4] * 3
    assert tt.prune(x, cls, rule=Rule(ratio=np.float32(0.25))).kept.shape == (3, 10)
    with pytest.raises(tailcut.ArgumentError, match="rule is 5"):
        tt.prune(x, cls, rule=5)
    with pytest.raises(tailcut.ArgumentError, match="dim is 0"):
        tt.prune(x, cls, dim=0)


def test_end_to_end_benchmark(tmp_path):
    """A tiny model: every case runs, and the two ways of pruning keep the same."""
    package = Path(tailcut.__file__).parent.parent
    said = subprocess.run(
        [sys.executable, ROOT / "bench" / "e2e.py", "--model", "tiny", "--device", "cpu",
         "--rounds", "1",
         "--threads", "1", "--json", tmp_path / "e2e.json"],
         env=os.environ | {"PYTHONPATH": str(package)},
        capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    found = json.loads((tmp_path / "e2e.json").read_text())
    rows = {row["name"]: (row["rows_first"], row["rows_last"]) for row in found["rows"]}
    assert found["differing"] == {"stage 1": 0, "stage 2": 0}
    assert rows.pop("no pruning") == (641, 641)
    assert rows == {stage + way: (at, at) for stage, at in (("stage 1", 192), ("stage 1 + 2", 129))
                    for way in ("", ", PyTorch", ", floor")}
