# SPDX-License-Identifier: Apache-2.0
"""Ragged batches in the operators of tailcut.torch: against tailcut's calls, which the method has
checked, with the gradients of indexing, traced, and as the segments one by one."""
import pytest
import torch

import tailcut
import tailcut.torch as tt
from tailcut import Batch, Merge, Reference, Rows, Rule

LENGTHS = [40, 7, 0, 33, 1]
CU = torch.tensor([0, 40, 47, 47, 80, 81], dtype=torch.int32)
RULES = [Rule(k=9), Rule(ratio=0.3, spread=0.25), Rule(tau=0.05, max_keep=17), None]


def data(dtype=torch.float32):
    """Rows of which some are alike; three belong to no segment."""
    generator = torch.Generator().manual_seed(6)
    x = torch.randn((84, 24), generator=generator)
    x[20:40] += 2 * x[:20]
    return x.to(dtype), torch.randn(24, generator=generator).to(dtype)


def ragged(prefix=0):
    return Batch(CU, prefix_rows=prefix, max_tokens=40, total_tokens=81)


def same(found, want, total):
    """Packed results, then zero (numbers: -1)."""
    for name in ("tokens", "kept", "sizes"):
        ours, theirs = getattr(found, name), getattr(want, name)
        if theirs is not None:
            behind = -1 if name == "kept" else 0
            assert torch.equal(ours[:total], theirs[:total]) and (ours[total:] == behind).all()
    if found.joins is not None:
        assert torch.equal(found.joins[:81], want.joins[:81])
    assert torch.equal(found.counts, want.counts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("prefix", [0, 1])
def test_operators(rule, prefix, dtype):
    x, cls = data(dtype)
    for source in (cls, None, Reference("lag", lag=4), "novelty"):
        want = tailcut.prune(x, source, rule=rule, batch=ragged(prefix), want=())
        total = int(want.cu_seqlens[-1])
        got = tt.prune(x, source, rule=rule, prefix_rows=prefix, cu_seqlens=CU, max_tokens=40)
        same(got, want, total)
        assert torch.equal(got.cu_seqlens, want.cu_seqlens) and len(got.kept) >= total
        exact = tt.prune(x, source, rule=rule, prefix_rows=prefix, cu_seqlens=CU, max_tokens=40,
                         room=total)
        assert torch.equal(exact.tokens, want.tokens) and exact.kept.shape == (total,)
        with pytest.raises(tailcut.ArgumentError, match=f"{total} "):
            tt.prune(x, source, rule=rule, prefix_rows=prefix, cu_seqlens=CU, room=total - 1)
        scores, flags = tt.score(x, source, prefix_rows=prefix, cu_seqlens=CU, max_tokens=40)
        named = {name: getattr(rule or Rule(), name) for name in Rule.__dataclass_fields__}
        kept, counts = tt.cut(scores, Rule(**named | {"scale": "unit"}), flags=flags,
                              prefix_rows=prefix, cu_seqlens=CU, max_tokens=40)
        assert torch.equal(kept, got.kept) and torch.equal(counts, got.counts)
        words = torch.arange(2 * 84 * 3).view(2, 84, 3)
        tokens, parts = tt.compact([x, words], kept, counts, token_axis=[0, 1],
                                   prefix_rows=prefix, cu_seqlens=CU, max_tokens=40)
        assert torch.equal(tokens, got.tokens) and not parts[:, total:].any()
        places = numbers(got, prefix)
        assert torch.equal(parts[:, :total], words[:, places])
        one_by_one = [tt.prune(x[a:b], source, rule=rule, prefix_rows=prefix)
                      for a, b in zip(CU.tolist(), CU.tolist()[1:])]
        assert torch.equal(torch.cat([one.tokens[:n] for one, n in zip(one_by_one, got.counts)]),
                           want.tokens)


def moved(array, found, axis=0):
    """In-place results, packed: each segment's are at its own start."""
    parts = [array.narrow(axis, a, n) for a, n in zip(CU.tolist(), found.counts.tolist())]
    return torch.cat(parts, axis)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("prefix", [0, 1])
def test_in_place(rule, prefix, dtype):
    """The same kept sets and rows as by the functional forms, at each segment's own start, and
    nothing written behind the last segment; again with other data."""
    x, cls = data(dtype)
    sizes = torch.randint(1, 5, (84,), generator=torch.Generator().manual_seed(4),
                          dtype=torch.int32)
    words = torch.arange(2 * 84 * 3).view(2, 84, 3)
    how = {"rule": rule, "prefix_rows": prefix, "cu_seqlens": CU, "max_tokens": 40}
    for x in (x, x.flip(0)):
        for merge in (None, Merge("cos4", sizes_in=sizes)):
            want, own = tt.prune(x, cls, merge=merge, **how), x.clone()
            got = tt.prune_(own, cls, merge=merge, **how)
            total = int(want.counts.sum())
            assert got.tokens is own and torch.equal(moved(own, got), want.tokens[:total])
            for name in ("kept", "counts", "sizes", "joins", "cu_seqlens"):
                ours, theirs = getattr(got, name), getattr(want, name)
                assert ours is theirs is None or torch.equal(ours, theirs), name
            assert torch.equal(own[81:], x[81:])
            with pytest.raises(tailcut.ArgumentError, match=f"{total} "):
                tt.prune_(x.clone(), cls, merge=merge, room=total - 1, **how)
        parts = [x.clone(), words.clone()]
        axes = {"token_axis": [0, 1], "prefix_rows": prefix, "cu_seqlens": CU, "max_tokens": 40}
        kept, counts = tt.prune(x, cls, **how)[1:3]
        tokens, others = tt.compact([x, words], kept, counts, **axes)
        own = tt.compact_(parts, kept, counts, **axes)
        assert own[0] is parts[0] and torch.equal(moved(own[0], got), tokens[:total])
        assert torch.equal(moved(own[1], got, 1), others[:, :total])
        assert torch.equal(own[1][:, 81:], words[:, 81:])


def test_other_offsets():
    """Calls of one form whose offsets, flags and kept lists are others."""
    x, cls = data()
    for offsets in ([0, 40, 47, 47, 80, 81], [0, 1, 34, 34, 41, 81], [2, 3, 3, 40, 44, 84]):
        cu = torch.tensor(offsets, dtype=torch.int32)
        how = {"rule": Rule(tau=0.05, max_keep=17)}
        batch = Batch(cu, max_tokens=40)
        where = {"cu_seqlens": cu, "max_tokens": 40}
        want = tailcut.prune(x, cls, batch=batch, want=(), **how)
        total = int(want.cu_seqlens[-1])
        same(tt.prune(x, cls, **how, **where), want, total)
        own = x.clone()
        same(tt.prune_(own, cls, **how, **where)._replace(tokens=want.tokens), want, total)
        firsts = [own[a:a + n] for a, n in zip(offsets, want.counts.tolist())]
        assert torch.equal(torch.cat(firsts), want.tokens)
        scores, flags = tt.score(x, cls, **where)
        kept, counts = tt.cut(scores, Rule(tau=0.05, max_keep=17, scale="unit"), flags=flags,
                              **where)
        assert torch.equal(kept[:total], want.kept) and torch.equal(counts, want.counts)
        bad = flags.clone()
        bad[0] = tailcut.Flag.INVALID
        fewer = tt.cut(scores, Rule(tau=0.05, max_keep=17, scale="unit"), flags=bad, **where)[1]
        assert fewer[0] == 0 < counts[0] and torch.equal(fewer[1:], counts[1:])
        other = torch.arange(84.0)
        (moved_rows,) = tt.compact([other], kept, counts, **where)
        tt.compact_([other], kept, counts, **where)
        assert torch.equal(moved_rows[:total], torch.cat(
            [torch.arange(84.0)[a:b][k.long()] for a, b, k in zip(
                offsets, offsets[1:], want.kept.split(want.counts.tolist()))]))
        firsts = [other[a:a + n] for a, n in zip(offsets, want.counts.tolist())]
        assert torch.equal(torch.cat(firsts), moved_rows[:total])


def numbers(found, prefix=0):
    """The batch's rows that were kept."""
    segments = torch.repeat_interleave(torch.arange(len(LENGTHS)), found.counts)
    return CU[segments] + prefix + found.kept[:len(segments)]


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("power", ["mean", "cos4"])
def test_merge(power, prefix):
    """Merged rows, and their gradients: those of the segments one by one."""
    x, cls = data()
    x.requires_grad_()
    sizes = torch.randint(1, 5, (84,), generator=torch.Generator().manual_seed(4),
                          dtype=torch.int32)
    rule, how = Rule(tau=0.05, max_keep=17), Merge(power, sizes_in=sizes)
    want = tailcut.prune(x.detach(), cls, rule=rule, batch=ragged(prefix), merge=how,
                         want=("joins",))
    total = int(want.cu_seqlens[-1])
    got = tt.prune(x, cls, rule=rule, prefix_rows=prefix, merge=how, cu_seqlens=CU, max_tokens=40)
    parts = tt.merge(x, got.kept, got.counts, merge=how, prefix_rows=prefix, cu_seqlens=CU)
    same(got, want, total)
    same(parts, want, total)
    alone = []
    for a, b in zip(CU.tolist(), CU.tolist()[1:]):
        one = tt.prune(x[a:b], cls, rule=rule, prefix_rows=prefix,
                       merge=Merge(power, sizes_in=sizes[a:b].contiguous()))
        alone.append(one.tokens[:int(one.counts)])
    direction = torch.randn((total, 24), generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((torch.cat(alone) * direction).sum(), x)
    assert gradient.any()
    for found in (got, parts):
        (ours,) = torch.autograd.grad((found.tokens[:total] * direction).sum(), x)
        assert torch.allclose(ours, gradient, atol=1e-6)


@pytest.mark.parametrize("prefix", [0, 1])
def test_gradient(prefix):
    x, cls = data()
    x.requires_grad_()
    keys = torch.randn((2, 84, 3), requires_grad=True)
    got = tt.prune(x, cls, rule=Rule(ratio=0.3), prefix_rows=prefix, cu_seqlens=CU)
    tokens, heads = tt.compact([x, keys], got.kept, got.counts, token_axis=[0, 1],
                               prefix_rows=prefix, cu_seqlens=CU)
    places = numbers(got, prefix)
    want = torch.autograd.grad((x[places] ** 3).sum() + (keys[:, places] ** 2).sum(), (x, keys))
    for rows in (got.tokens, tokens):
        found = torch.autograd.grad((rows ** 3).sum() + (heads ** 2).sum(), (x, keys),
                                    retain_graph=True)
        assert all(map(torch.equal, found, want))


@pytest.mark.parametrize("policy", [None, "attention"])
def test_sequence(policy):
    x, _cls = data()
    x.requires_grad_()
    roles = torch.tensor([1] * 30 + [2] * 10 + [1] * 6 + [2] + [0, 2] + [1] * 30 + [2, 1, 4, 4, 4],
                         dtype=torch.uint8)
    options = tailcut.RelevanceOptions("attention", True, q=x.detach().view(84, 4, 6),
                                       k=x.detach()[:, :12].view(84, 2, 6)) if policy else None
    positions = torch.arange(84) + 100
    want = tailcut.prune_sequence(x.detach(), roles, options, rule=Rule(k=5), batch=ragged(),
                                  rows=[Rows(positions)], want=())
    total = int(want.cu_seqlens[-1])
    got = tt.prune_sequence(x, roles, options, rule=Rule(k=5), rows=[positions], cu_seqlens=CU,
                            max_tokens=40)
    same(got, want, total)
    assert torch.equal(got.rows[0][:total], positions[numbers(got)]) and len(got.kept) == 84
    (found,) = torch.autograd.grad((got.tokens ** 2).sum(), x)
    (wanted,) = torch.autograd.grad((x[numbers(got)] ** 2).sum(), x)
    assert torch.equal(found, wanted)
    own = [x.detach().clone(), positions.clone()]
    placed = tt.prune_sequence_(own[0], roles, options, rule=Rule(k=5), rows=own[1:],
                                cu_seqlens=CU, max_tokens=40)
    assert all(map(torch.equal, placed[1:3], got[1:3])) and placed.rows[0] is own[1]
    assert torch.equal(moved(own[0], placed), got.tokens[:total])
    assert torch.equal(moved(own[1], placed), got.rows[0][:total])
    with pytest.raises(tailcut.ArgumentError, match=f"room for 9 rows, but {total} are kept"):
        tt.prune_sequence(x, roles, options, rule=Rule(k=5), room=9, cu_seqlens=CU)


def test_refused():
    x, cls = data()
    with pytest.raises(tailcut.ArgumentError, match=r"\[total, D\] is expected"):
        tt.prune(x[None], cls, cu_seqlens=CU)
    with pytest.raises(tailcut.ArgumentError, match="go with cu_seqlens"):
        tt.prune(x, cls, max_tokens=40)
    with pytest.raises(tailcut.ArgumentError, match="cu_seqlens"):
        tt.prune(x, cls, cu_seqlens=CU.long()[None])


def vision(x, cls, cu):
    """What follows a vision tower whose images stand behind one another, in one graph."""
    pruned = tt.prune(x * 2, cls, rule=Rule(ratio=0.3), cu_seqlens=cu, max_tokens=40)
    merged = tt.prune(x, "novelty", rule=Rule(k=6), merge="cos4", cu_seqlens=cu, max_tokens=40,
                      room=20)
    (beside,) = tt.compact([x + 1], pruned.kept, pruned.counts, cu_seqlens=cu, max_tokens=40)
    own = x - 1
    front = tt.prune_(own, cls, rule=Rule(k=3), cu_seqlens=cu, max_tokens=40)
    rows = [x * 3]
    tt.compact_(rows, front.kept, front.counts, cu_seqlens=cu, max_tokens=40)
    return (pruned.tokens.sum(0), pruned.cu_seqlens, merged.tokens, merged.sizes, beside,
            own[:3], front.kept, rows[0][:3])


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile(backend):
    x, cls = data()
    torch._dynamo.reset()
    compiled = torch.compile(vision, fullgraph=True, backend=backend)
    for inputs in ((x, cls, CU), (x.flip(0), cls, (81 - CU).flip(0).contiguous())):
        for got, want in zip(compiled(*inputs), vision(*inputs)):
            assert torch.allclose(got, want, atol=1e-5) if want.is_floating_point() else (
                torch.equal(got, want))
