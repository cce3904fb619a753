# SPDX-License-Identifier: Apache-2.0
"""The operators of tailcut.torch against tailcut's calls of the same, which the method has
checked."""
import pytest
import torch

import tailcut
import tailcut.torch as tt
from tailcut import Merge, Placement, Reference, Rows, Rule, _torch_forms
from tensors import DTYPES, RULES, data, merges, of_layer


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
                assert torch.equal(kept[b, :count], want.kept[part])
                assert (kept[b, count:] == -1).all()
                assert torch.equal(full[b, :count], want.tokens[part]) and not full[b, count:].any()
                assert torch.equal(moved[b, :count], want.tokens[part])


def test_nothing():
    """Without segments or rows; again, and with other addresses."""
    for shape in ((0, 4, 8), (2, 0, 8), (0, 8)):
        for rule in (Rule(k=2), None):
            for _ in range(2):
                got = tt.prune(torch.empty(shape), None, rule=rule)
                assert got.tokens.numel() == 0 and got.kept.numel() == 0 and not got.counts.any()


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
    assert got.tokens.shape[-2] == got.kept.shape[-1] == size
    assert torch.equal(got.counts, want.counts)
    assert got.rows[0].dtype == torch.int64 and got.rows[1].shape[-2] == size
    assert got.counts.max() <= size and (not rule.k or (got.counts == 7 + 5).all())
    full = 12 if rule.k else 0
    for found in (got, placed):
        assert torch.equal(found.kept[..., :full], want.kept[..., :full])
        assert torch.equal(found.counts, want.counts)
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
        assert torch.equal(front[0][b, :n], tokens[b, :n])
        assert torch.equal(front[1][b, :, :n], parts[b, :, :n])
    (single,) = tt.compact([words[1, 2]], kept[1], counts[1:2], prefix_rows=prefix)
    assert torch.equal(single, parts[1, 2])


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
                assert torch.equal(found.kept[b, :n], want.kept[b, :n])
                assert (found.kept[b, n:] == -1).all()
                assert torch.equal(found.sizes[b, :n], want.sizes[b, :n])
                assert not found.sizes[b, n:].any()
                assert torch.equal(found.tokens[b, :n], want.tokens[b, :n])
        assert torch.equal(got.tokens, want.tokens) and torch.equal(parts.tokens, want.tokens)


def test_refused():
    x, cls = data()
    with pytest.raises(tailcut.ArgumentError, match="group_k"):
        tt.prune(x, cls, rule=Rule(k=3, group_k=torch.ones(3, dtype=torch.int32)))
    with pytest.raises(tailcut.ArgumentError, match=r"\[B, N, D\] is expected"):
        tt.prune(x[0, 0], cls)
    with pytest.raises(tailcut.ArgumentError, match="reference has shape"):
        tt.prune(x, cls[:5])


def test_rules_as_text():
    for rule in [*RULES[:-1], Rule(percent=30), Rule("iqr", order="low"), Rule(mass=0.9),
                 Rule(lambda_=1e-9),
                 Rule("otsu", search_lo=0.1)]:
        assert _torch_forms.rule_of_word(_torch_forms.rule_word(rule)) == rule
    for default in (None, "otsu"):
        assert _torch_forms.rule_of_word(_torch_forms.rule_word(default)) == Rule()
