# SPDX-License-Identifier: Apache-2.0
"""The operators of tailcut.torch as PyTorch takes them: their gradients, opcheck, torch.compile."""
import io

import numpy as np
import pytest
import torch

import novelty
import paths  # noqa: F401  (puts the method on the path)
import tailcut.torch as tt
from tailcut import Merge, Rule
from tensors import RULES, data, merges, of_layer


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


@pytest.mark.parametrize("word", ["mean", "cos4"])
@pytest.mark.parametrize("prefix", [0, 2])
def test_gradient_of_merging(word, prefix):
    """That of the weighted means with the method's own weights."""
    x, cls, sizes = merges(prefix=prefix)
    x.requires_grad_()
    for given_sizes in (None, sizes):
        got = tt.prune(x, cls, rule=Rule(tau=0.05, max_keep=80), prefix_rows=prefix,
                       merge=Merge(word, 0, given_sizes))
        parts = tt.merge(x, got.kept, got.counts, merge=Merge(word, 0, given_sizes),
                         prefix_rows=prefix)
        weights = torch.zeros(2, 80, 150 + prefix)
        for b in range(2):
            rows = x[b, prefix:].detach().numpy()
            number = {int(k): j for j, k in enumerate(got.kept[b]) if k >= 0}
            is_kept = np.isin(np.arange(150), list(number))
            found, like = novelty.joins(rows, is_kept, 64)
            own = None if given_sizes is None else sizes[b, prefix:].numpy()
            of_rows = zip(found, novelty.weights(like, is_kept, word, own))
            for i, (host, weight) in enumerate(of_rows):
                if host >= 0:
                    weights[b, number[host], prefix + i] = float(weight)
        weights /= weights.sum(-1, keepdim=True).clamp(min=1e-30)
        assert torch.allclose(weights @ x, got.tokens, atol=1e-5)
        assert torch.equal(got.tokens, parts.tokens)
        direction = torch.randn(got.tokens.shape, generator=torch.Generator().manual_seed(2))
        (want,) = torch.autograd.grad((weights @ x * direction).sum(), x)
        for tokens in (got.tokens, parts.tokens):
            (gradient,) = torch.autograd.grad((tokens * direction).sum(), x)
            assert torch.allclose(gradient, want, atol=1e-5) and (want[1, 20 + prefix] == 0).all()


def test_gradient_of_a_layer():
    """prune_sequence and compact: that of indexing; integers have none."""
    roles, x, positions, keys = of_layer()
    x.requires_grad_()
    keys.requires_grad_()
    got = tt.prune_sequence(x, roles, rule=Rule("gap"), rows=[positions, keys], token_axis=[1, 2])
    again = tt.compact([positions, x, keys], got.kept, got.counts, token_axis=[1, 1, 2])
    assert not got.rows[0].requires_grad and got.kept.shape == (2, 30)

    def loss(tokens, heads):
        return (tokens ** 3).sum() + (heads ** 2).sum()

    want = torch.autograd.grad(sum(loss(x[b, got.kept[b, :n].long()],
                                        keys[b][:, got.kept[b, :n].long()])
                                   for b, n in enumerate(got.counts)), (x, keys))
    for tokens, heads in ((got.tokens, got.rows[1]), again[1:]):
        for found, wanted in zip(torch.autograd.grad(loss(tokens, heads), (x, keys)), want):
            assert torch.allclose(found, wanted, atol=1e-6)


def operators():
    """Each operator with arguments, and whether its inputs may have gradients."""
    x, cls = data()
    ops = torch.ops.tailcut
    exact, padded = (tt._arguments(x, source, rule, 0, None) for rule,
                     source in ((Rule(k=9), cls), (None, "row")))
    none, cu = (None, 0, 0), torch.tensor([0, 40, 47, 120], dtype=torch.int32)
    flat, packed = x.view(120, 24), (cu, 73, 0)
    yield True, ops.prune, (x, *padded, *none)
    yield True, ops.prune, (x[0], *exact, *none)
    yield True, ops.prune, (flat, *exact, *packed)
    yield False, ops.prune_, (x.clone(), *exact, *none)
    yield False, ops.prune_, (flat.clone(), *padded, *packed)
    yield True, ops.prune_merge, (x, *exact, 4, 0, None, *none)
    yield True, ops.prune_merge, (flat, *padded, 4, 0, None, *packed)
    yield False, ops.prune_merge_, (x.clone(), *padded, 0, 0, None, *none)
    yield False, ops.prune_merge_, (flat.clone(), *exact, 4, 0, None, *packed)
    kept, counts = tt.prune(x, cls, rule=Rule(tau=0.1))[1:3]
    yield True, ops.merge, (x, kept, counts, 4, 64, torch.ones(x.shape[:2], dtype=torch.int32), 0,
                            24, *none[:2])
    yield True, ops.compact, ([x, x.transpose(1, 2).clone()], [1, 2], kept, counts, 0, *none[:2])
    yield False, ops.compact_, ([x.clone(), x.transpose(1, 2).clone()], [1, 2], kept, counts, 0,
                               *none[:2])
    kept, counts = tt.prune(flat, cls, rule=Rule(tau=0.1), cu_seqlens=cu)[1:3]
    yield True, ops.merge, (flat, kept, counts, 0, 64, None, 0, 24, *packed[:2])
    yield True, ops.compact, ([flat, flat.t().clone()], [0, 1], kept, counts, 0, *packed[:2])
    yield False, ops.compact_, ([flat.clone(), flat.t().clone()], [0, 1], kept, counts, 0,
                                *packed[:2])
    yield False, ops.score, (x, cls, 1, 0, 0, 24, *none[:2])
    yield False, ops.score, (flat, cls, 1, 0, 0, 24, *packed[:2])
    yield False, ops.cut, (x[..., 0].contiguous(), None, "detector=otsu", 0, *none)
    yield False, ops.cut, (flat[..., 0].contiguous(), None, "detector=otsu", 0, *packed)
    roles, hidden, positions, keys = of_layer()
    how = tt._sequence(hidden, roles, None, [positions, keys], [1, 2], Rule(k=5), 12, None)
    yield True, ops.prune_sequence, (hidden, *how, *none[:2])
    yield False, ops.prune_sequence_, (hidden.clone(), *how, *none[:2])
    how = tt._sequence(hidden.view(60, 16), roles.view(60), None, [positions.view(60)], [0],
                       Rule(k=5), 60, None)
    cu = torch.tensor([0, 30, 60], dtype=torch.int32)
    yield True, ops.prune_sequence, (hidden.view(60, 16), *how, cu, 30)
    how = how[0], [positions.view(60).clone()], *how[2:]
    yield False, ops.prune_sequence_, (hidden.view(60, 16).clone(), *how, cu, 30)


@pytest.mark.parametrize("which", range(23))
def test_opcheck(which):
    differentiable, op, arguments = list(operators())[which]
    first = arguments[0]
    if differentiable and isinstance(first, list):
        arguments = ([array.requires_grad_() for array in first], *arguments[1:])
    elif differentiable:
        arguments = (first.requires_grad_(), *arguments[1:])
    torch.library.opcheck(op, arguments)


def test_opcheck_has_all():
    defined = {name for name in torch._C._dispatch_get_all_op_names()
               if name.startswith("tailcut::")}
    assert len(list(operators())) == 23 and {op._qualified_op_name for _, op,
                                             _ in operators()} == defined


def layer(x, cls, roles):
    pruned = tt.prune(x * 2, cls, rule=Rule(ratio=0.25, min_keep=4))
    padded = tt.prune(x, "row", rule=Rule(tau=0.0, max_keep=12))
    moved = tt.prune_(x.clone(), None, rule="gap")
    merged = tt.prune(x, "novelty", rule=Rule(k=9), merge="cos4")
    sequence = tt.prune_sequence(x, roles, rule=Rule(k=5), rows=[x.transpose(1, 2)], token_axis=2,
                                 room=25)
    (beside,) = tt.compact([x + 1], merged.kept, merged.counts)
    tt.compact_([beside], sequence.kept.clamp(max=8)[:, :1], sequence.counts.clamp(max=1))
    scores, flags = tt.score(x, cls)
    kept, counts = tt.cut(scores, Rule("gap", scale="unit", max_keep=30), flags=flags)
    return (pruned.tokens.sum(1) + padded.tokens.sum(1), pruned.kept, padded.counts, moved.counts,
            merged.tokens,
            torch.log(merged.sizes.float()), sequence.rows[0], sequence.kept, beside, kept, counts)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile(backend):
    x, cls = data()
    roles = torch.tensor([1] * 20 + [2] * 20, dtype=torch.uint8).expand(3, 40).contiguous()
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for inputs in ((x, cls, roles), (x.flip(0), cls + 1, roles.flip(1))):
        for got, want in zip(compiled(*inputs), layer(*inputs)):
            assert torch.allclose(got, want,
                                  atol=1e-5) if want.is_floating_point() else torch.equal(got, want)


class Lengths(torch.nn.Module):
    """Every rule but RATIO leaves lengths unknown to a graph."""

    def forward(self, x, cls, cu):
        pruned = tt.prune(x, cls, rule=Rule(k=9, round_to=4), prefix_rows=1)
        padded = tt.prune(x, cls, rule=Rule(tau=0.0, max_keep=12))
        merged = tt.prune(x, "novelty", merge="cos4")
        (beside,) = tt.compact([x + 1], padded.kept, padded.counts)
        flat = x.flatten(0, 1)
        ragged = tt.prune(flat, cls, rule=Rule(k=9), cu_seqlens=cu, max_tokens=60)
        return (pruned.tokens, padded.kept, merged.tokens, merged.sizes, beside, ragged.tokens,
                ragged.cu_seqlens)


def of_length(b, n):
    x, cls = data(shape=(b, n, 24))
    return x, cls, torch.arange(0, b * n + 1, n, dtype=torch.int32)


def test_lengths_that_are_unknown():
    """One graph for all, and one exported program, that is saved and loaded."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(Lengths(), fullgraph=True, dynamic=True, backend="aot_eager")
    b, n = torch.export.Dim("b", min=2), torch.export.Dim("n", min=4)
    program = torch.export.export(Lengths(), of_length(3, 40), dynamic_shapes=(
        {0: b, 1: n}, None, {0: b + 1}))
    memory = io.BytesIO()
    torch.export.save(program, memory)
    memory.seek(0)
    loaded = torch.export.load(memory).module()
    for shape in ((3, 40), (2, 50), (4, 10), (3, 7)):
        inputs = of_length(*shape)
        want = Lengths()(*inputs)
        for found in (compiled(*inputs), loaded(*inputs)):
            assert len(found) == len(want) and all(map(torch.equal, found, want))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
