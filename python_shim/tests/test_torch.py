# SPDX-License-Identifier: Apache-2.0
"""PyTorch: its tensors in the core calls, and the operators of tailcut.torch. Run where TAILCUT_TEST_TORCH is set."""
import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

import ask
import tailcut
import tailcut.torch as tt
from tailcut import Reference, Rule

SEEDS = st.integers(0, 2 ** 31)
RULES = [Rule(k=9), Rule(ratio=0.3, spread=0.25), Rule(tau=0.05, max_keep=17), Rule("chord", round_to=4), None]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


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
        assert all(isinstance(value, torch.Tensor) for value in (result.kept, result.counts, result.mask))
        ask.check(request, ask.outputs(request, numpy_of(result)))


def data(dtype=torch.float32, shape=(3, 40, 24)):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator).to(dtype), torch.randn(shape[-1:], generator=generator).to(dtype)


def test_bfloat16():
    x, cls = data(torch.bfloat16)
    got = tailcut.prune(x, cls)
    want = tailcut.prune(x.float(), cls.float())
    assert torch.equal(got.kept, want.kept) and torch.equal(got.scores, want.scores)
    assert got.tokens.dtype == torch.bfloat16 and torch.equal(got.tokens.float(), want.tokens)


def sources(x, cls):
    return [cls, cls.float(), cls.expand(len(x), -1).clone(), None, "row", Reference("lag", lag=4)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_operator(rule, dtype):
    """The operators against tailcut.prune of the same, which the method has checked."""
    x, cls = data(dtype)
    for source in sources(x, cls):
        for batch, vector in ((x, source), (x[1], source[1] if isinstance(source, torch.Tensor) and source.dim() == 2
                                            else source)):
            want = tailcut.prune(batch, vector, rule=rule)
            got = tt.prune(batch, vector, rule=rule)
            own = batch.clone()
            placed = tt.prune_(own, vector, rule=rule)
            assert torch.equal(got.counts, want.counts) and torch.equal(placed.counts, want.counts)
            assert torch.equal(got.kept, placed.kept)
            full, kept, moved = (t if batch.dim() == 3 else t[None] for t in (got.tokens, got.kept, placed.tokens))
            for b, count in enumerate(want.counts.tolist()):
                part = slice(int(want.cu_seqlens[b]), int(want.cu_seqlens[b + 1]))
                assert torch.equal(kept[b, :count], want.kept[part]) and (kept[b, count:] == -1).all()
                assert torch.equal(full[b, :count], want.tokens[part]) and not full[b, count:].any()
                assert torch.equal(moved[b, :count], want.tokens[part])


@pytest.mark.parametrize("rule", RULES)
def test_opcheck(rule):
    x, cls = data()
    for source in (cls, None, "row"):
        vector = source if isinstance(source, torch.Tensor) else None
        arguments = (tt._word(rule), *tt._source(source, 0), 24)
        for grad in (False, True):
            torch.library.opcheck(torch.ops.tailcut.prune, (x.clone().requires_grad_(grad), vector, *arguments))
        torch.library.opcheck(torch.ops.tailcut.prune_, (x.clone(), vector, *arguments))
        torch.library.opcheck(torch.ops.tailcut.prune, (x[0], vector, *arguments))


@pytest.mark.parametrize("rule", RULES)
def test_gradient(rule):
    """That of indexing with the kept list."""
    x, cls = data()
    x.requires_grad_()
    got = tt.prune(x, cls, rule=rule)
    weight = torch.randn(got.tokens.shape, generator=torch.Generator().manual_seed(2))
    (found,) = torch.autograd.grad((got.tokens * weight).sum(), x)
    rows = torch.cat([x[b][got.kept[b, :n].long()] for b, n in enumerate(got.counts)])
    same = torch.cat([weight[b, :n] for b, n in enumerate(got.counts)])
    (want,) = torch.autograd.grad((rows * same).sum(), x)
    assert torch.equal(found, want)


def layer(x, cls):
    pruned = tt.prune(x * 2, cls, rule=Rule(ratio=0.25, min_keep=4))
    padded = tt.prune(x, "row", rule=Rule(tau=0.0, max_keep=12))
    moved = tt.prune_(x.clone(), None, rule="gap")
    return pruned.tokens.sum(1) + padded.tokens.sum(1), pruned.kept, padded.counts, moved.counts


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile(backend):
    x, cls = data()
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for inputs in ((x, cls), (x.flip(0), cls + 1)):
        for got, want in zip(compiled(*inputs), layer(*inputs)):
            assert torch.allclose(got, want, atol=1e-5) if want.is_floating_point() else torch.equal(got, want)


def test_rules_as_text():
    for rule in [*RULES[:-1], Rule(percent=30), Rule("iqr", order="low"), Rule(mass=0.9), Rule(lambda_=1e-9),
                 Rule("otsu", search_lo=0.1)]:
        assert tt._rule(tt._word(rule)) == rule
    assert tt._rule(tt._word(None)) == Rule() == tt._rule(tt._word("otsu"))


def test_refused():
    x, cls = data()
    with pytest.raises(tailcut.ArgumentError, match="group_k"):
        tt.prune(x, cls, rule=Rule(k=3, group_k=torch.ones(3, dtype=torch.int32)))
    with pytest.raises(tailcut.ArgumentError, match=r"\[B, N, D\] is expected"):
        tt.prune(x[0, 0], cls)
    with pytest.raises(tailcut.ArgumentError, match="cls has shape"):
        tt.prune(x, cls[:5])


def test_plan_of_tensors():
    x, cls = data()
    plan = tailcut.prune.plan(x, cls, rule=Rule(k=9))
    first = plan().kept.clone()
    x.copy_(x.flip(1))
    assert torch.equal(39 - plan().kept[:27].view(3, 9).flip(1), first[:27].view(3, 9))
    assert np.asarray(plan.result.counts).tolist() == [9, 9, 9]
