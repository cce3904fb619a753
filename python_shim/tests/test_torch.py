# SPDX-License-Identifier: Apache-2.0
"""PyTorch: its tensors in the core calls, and the operators of tailcut.torch. Run where
TAILCUT_TEST_TORCH is set."""
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
import novelty
import tailcut
import tailcut.torch as tt
from paths import ROOT
from tailcut import Merge, Placement, Reference, Rows, Rule, _reuse, _torch_forms

SEEDS = st.integers(0, 2 ** 31)
RULES = [Rule(k=9), Rule(ratio=0.3, spread=0.25), Rule(tau=0.05, max_keep=17),
         Rule("chord", round_to=4), None]
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
        for batch, vector in ((x, source), (x[1], source[1] if isinstance(source, torch.Tensor)
                                            and source.dim() == 2
                                            else source)):
            want = tailcut.prune(batch, vector, rule=rule)
            got = tt.prune(batch, vector, rule=rule)
            own = batch.clone()
            placed = tt.prune_(own, vector, rule=rule)
            assert torch.equal(got.counts, want.counts) and torch.equal(placed.counts, want.counts)
            assert torch.equal(got.kept, placed.kept)
            full, kept, moved = (t if batch.dim() == 3 else t[None]
                                 for t in (got.tokens, got.kept, placed.tokens))
            for b, count in enumerate(want.counts.tolist()):
                part = slice(int(want.cu_seqlens[b]), int(want.cu_seqlens[b + 1]))
                assert torch.equal(kept[b, :count], want.kept[part]) and (kept[b, count:] == -1).all()
                assert torch.equal(full[b, :count], want.tokens[part]) and not full[b, count:].any()
                assert torch.equal(moved[b, :count], want.tokens[part])


def test_nothing():
    """Without segments or rows; again, and with other addresses."""
    for shape in ((0, 4, 8), (2, 0, 8), (0, 8)):
        for rule in (Rule(k=2), None):
            for _ in range(2):
                got = tt.prune(torch.empty(shape), None, rule=rule)
                assert got.tokens.numel() == 0 and got.kept.numel() == 0 and not got.counts.any()


def of_layer(shape=(2, 30), dtype=torch.float32):
    """Roles, hidden states, position ids and keys of a sequence inside a layer."""
    generator = torch.Generator().manual_seed(3)
    roles = torch.tensor([0] * 3 + [1] * 20 + [3] * 2 + [2] * 4 + [4], dtype=torch.uint8)
    b, t = shape
    return (roles.expand(b, t).contiguous(), torch.randn((b, t, 16), generator=generator).to(dtype),
            torch.arange(100, 100 + t).expand(b, t).contiguous(),
            torch.randn((b, 2, t + 5, 8), generator=generator).to(dtype)[:, :, :t])


def options_of(name, x):
    if name != "attention":
        return name
    q, k = (x[..., :16 // n * n].reshape(*x.shape[:-1], n, -1)[..., :4] for n in (4, 2))
    return tailcut.RelevanceOptions("attention", True, q=q, k=k, head_reduction="max")


@pytest.mark.parametrize("policy", [None, "max_cosine", "attention"])
@pytest.mark.parametrize("rule", [Rule(k=5), Rule("otsu")])
@pytest.mark.parametrize("batched", [True, False])
def test_sequence(policy, rule, batched):
    roles, x, positions, keys = of_layer()
    if not batched:
        roles, x, positions, keys = roles[1], x[1], positions[1], keys[1]
    axes = [1, 2] if batched else [0, 1]
    want = tailcut.prune_sequence(
        x, roles, options_of(policy, x), rule=rule, placement="local", zero_tail=True,
        rows=[Rows(a, None, axis, Placement.LOCAL, 1) for a, axis in zip((positions, keys), axes)])
    room = 30 - 22 + 5 if rule.k else None
    got = tt.prune_sequence(x, roles, options_of(policy, x), rule=rule, rows=[positions, keys],
                            token_axis=axes, room=room)
    own = [a.clone() for a in (x, positions, keys)]
    placed = tt.prune_sequence_(own[0], roles, options_of(policy, x), rule=rule, rows=own[1:],
                                token_axis=axes, room=room)
    size = room or 30
    assert got.tokens.shape[-2] == got.kept.shape[-1] == size and torch.equal(got.counts, want.counts)
    assert got.rows[0].dtype == torch.int64 and got.rows[1].shape[-2] == size
    assert got.counts.max() <= size and (not rule.k or (got.counts == 7 + 5).all())
    full = 12 if rule.k else 0
    for found in (got, placed):
        assert torch.equal(found.kept[..., :full], want.kept[..., :full]) and torch.equal(found.counts, want.counts)
    for b, n in enumerate(want.counts.tolist()):
        def segment(a):
            return a[b] if batched else a
        kept = segment(got.kept)
        assert torch.equal(kept[:n], segment(want.kept)[:n]) and (kept[n:] == -1).all()
        chosen = kept[:n].long()
        for array, one, two in ((x, got.tokens, placed.tokens),
                                (positions, got.rows[0], placed.rows[0]),
                                (keys, got.rows[1], placed.rows[1])):
            axis = array.dim() - batched - (1 if array is positions else 2)
            rows = segment(array).index_select(axis, chosen)
            assert torch.equal(segment(one).narrow(axis, 0, n),
                               rows) and torch.equal(segment(two).narrow(axis, 0, n), rows)
            assert not segment(one).narrow(axis, n, size - n).any()


def test_room():
    roles, x, positions, _keys = of_layer()
    with pytest.raises(tailcut.ArgumentError, match="room is 11, but 12 rows"):
        tt.prune_sequence(x, roles, rule=Rule(k=5), room=11)
    with pytest.raises(tailcut.ArgumentError, match="token axis cannot be 0"):
        tt.prune_sequence(x, roles, rule=Rule(k=5), rows=[positions], token_axis=0)
    with pytest.raises(tailcut.ArgumentError, match="room is 3, but 4 rows"):
        tt.compact([x], torch.zeros((2, 3), dtype=torch.int32),
                   torch.tensor([4, 1], dtype=torch.int32))


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("rule", [Rule(k=9), Rule("gap")])
def test_parts(rule, prefix):
    """score and cut keep what prune keeps, and compact moves it, whatever the array."""
    x, cls = data()
    scores, flags = tt.score(x.requires_grad_(), cls, prefix_rows=prefix)
    assert not scores.requires_grad
    x = x.detach()
    word = {name: getattr(rule, name) for name in ("detector", "k")}
    kept, counts = tt.cut(scores, Rule(**word, scale="unit"), flags=flags, prefix_rows=prefix)
    want = tt.prune(x, cls, rule=rule, prefix_rows=prefix)
    assert torch.equal(kept, want.kept) and torch.equal(counts, want.counts)
    words = torch.arange(3 * 5 * 40 * 4).view(3, 5, 40, 4)
    tokens, parts = tt.compact([x, words], kept, counts, token_axis=[1, 2], prefix_rows=prefix)
    own = [x.clone(), words.clone()]
    front = tt.compact_(own, kept, counts, token_axis=-2, prefix_rows=prefix)
    assert torch.equal(tokens, want.tokens) and parts.shape == (3, 5, kept.shape[1], 4)
    for b, n in enumerate(counts):
        assert torch.equal(parts[b, :, :n], words[b][:, kept[b, :n].long()
                                                     + prefix]) and not parts[b, :, n:].any()
        assert torch.equal(front[0][b, :n], tokens[b, :n]) and torch.equal(front[1][b, :, :n], parts[b, :, :n])
    (single,) = tt.compact([words[1, 2]], kept[1], counts[1:2], prefix_rows=prefix)
    assert torch.equal(single, parts[1, 2])


def merges(dtype=torch.float32, prefix=0):
    """Rows of which some are alike, and sizes."""
    x, cls = data(dtype, (2, 150 + prefix, 32))
    x[:, 60:] += 2 * x[:, :90 + prefix].roll(5, 1)
    x[1, 20 + prefix] = 0
    sizes = torch.randint(1, 5, x.shape[:2], generator=torch.Generator().manual_seed(4),
                          dtype=torch.int32)
    return x, cls, sizes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("power", ["mean", "cos4"])
@pytest.mark.parametrize("rule", [Rule(ratio=0.3), Rule(tau=0.1, max_keep=80)])
def test_merge(rule, power, dtype):
    """The operators against tailcut.prune and tailcut.merge, which the method has checked."""
    x, cls, sizes = merges(dtype, 1)
    for source, how in ((cls, Merge(power)), ("novelty", Merge(power, sizes_in=sizes)),
                        ("row", Merge(power, 128))):
        prefix = 1 if source == "row" else 0
        want = tailcut.prune(x, source, rule=rule, merge=how, want=("joins",), placement="local",
                             zero_tail=True)
        got = tt.prune(x, source, rule=rule, merge=how)
        parts = tt.merge(x, got.kept, got.counts, merge=how, prefix_rows=prefix)
        own = x.clone()
        placed = tt.prune_(own, source, rule=rule, merge=how)
        for found in (got, parts, placed):
            assert torch.equal(found.counts, want.counts) and torch.equal(found.joins, want.joins)
            for b, n in enumerate(want.counts.tolist()):
                assert torch.equal(found.kept[b, :n], want.kept[b, :n]) and (found.kept[b, n:] == -1).all()
                assert torch.equal(found.sizes[b, :n], want.sizes[b, :n]) and not found.sizes[b, n:].any()
                assert torch.equal(found.tokens[b, :n], want.tokens[b, :n])
        assert torch.equal(got.tokens, want.tokens) and torch.equal(parts.tokens, want.tokens)


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
            rows, number = x[b, prefix:].detach().numpy(), {int(k): j for j, k in enumerate(got.kept[b]) if k >= 0}
            is_kept = np.isin(np.arange(150), list(number))
            found, like = novelty.joins(rows, is_kept, 64)
            own = None if given_sizes is None else sizes[b, prefix:].numpy()
            for i, (host, weight) in enumerate(zip(found, novelty.weights(like, is_kept, word, own))):
                if host >= 0:
                    weights[b, number[host], prefix + i] = float(weight)
        weights /= weights.sum(-1, keepdim=True).clamp(min=1e-30)
        assert torch.allclose(weights @ x, got.tokens, atol=1e-5) and torch.equal(got.tokens, parts.tokens)
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


def test_rules_as_text():
    for rule in [*RULES[:-1], Rule(percent=30), Rule("iqr", order="low"), Rule(mass=0.9),
                 Rule(lambda_=1e-9),
                 Rule("otsu", search_lo=0.1)]:
        assert _torch_forms.rule_of_word(_torch_forms.rule_word(rule)) == rule
    for default in (None, "otsu"):
        assert _torch_forms.rule_of_word(_torch_forms.rule_word(default)) == Rule()


def test_refused():
    x, cls = data()
    with pytest.raises(tailcut.ArgumentError, match="group_k"):
        tt.prune(x, cls, rule=Rule(k=3, group_k=torch.ones(3, dtype=torch.int32)))
    with pytest.raises(tailcut.ArgumentError, match=r"\[B, N, D\] is expected"):
        tt.prune(x[0, 0], cls)
    with pytest.raises(tailcut.ArgumentError, match="reference has shape"):
        tt.prune(x, cls[:5])


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
    assert found["differing"] == {"stage 1": 0, "stage 2": 0} and rows.pop("no pruning") == (641, 641)
    assert rows == {stage + way: (at, at) for stage, at in (("stage 1", 192), ("stage 1 + 2", 129))
                    for way in ("", ", PyTorch", ", floor")}


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
                same = torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) if isinstance(a, torch.Tensor) else a == b
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
