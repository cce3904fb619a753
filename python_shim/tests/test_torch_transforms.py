# SPDX-License-Identifier: Apache-2.0
"""The operators of tailcut.torch under torch.func: vmap against a loop, gradients against autograd;
and where the dispatcher is passed by."""
import warnings

import pytest
import torch
from torch.utils._pytree import tree_flatten

import tailcut
import tailcut.torch as tt
from tailcut import Reference, RelevanceOptions, Rule, _torch_forms
from tensors import data, merges, of_layer

CU = torch.tensor([0, 10, 10, 37], dtype=torch.int32)


def cases():
    """A function of tensors, and those with vmap's axis (or None) of each."""
    x, cls = data(shape=(4, 40, 24))
    four = torch.stack([x, x.flip(1), x * 2])  # [3, 4, 40, 24]
    many = torch.stack([cls, -cls, cls.roll(3), cls.roll(5)])
    exact, padded = Rule(k=9), Rule(tau=0.1, max_keep=11)
    for rule in (exact, padded, None):
        yield lambda a, c, rule=rule: tt.prune(a, c, rule=rule), (x, cls), (0, None)
    yield lambda a, c: tt.prune(a, c, rule=padded), (x, many), (0, 0)
    yield lambda a, c: tt.prune(a, c, rule=exact), (x[0], many), (None, 0)
    yield lambda a, c: tt.prune(a, c, rule=exact), (x.transpose(0, 1), many.t().clone()), (1, 1)
    yield lambda a, c: tt.prune(a, c, rule=padded), (four, cls), (1, None)
    yield lambda a, c: tt.prune(a, c, rule=padded), (four, many[:3]), (0, 0)
    yield lambda a, c: tt.prune(a, c, rule=padded), (four, many[:3]), (1, None)
    yield lambda a: tt.prune(a, "row", rule=padded), (four.transpose(0, 2),), (2,)
    yield lambda a: tt.prune(a, Reference("lag", lag=4), prefix_rows=2), (x,), (0,)
    yield lambda a: tt.prune(a, None, rule=padded, cu_seqlens=CU, room=30), (x,), (0,)
    yield lambda a, c: tt.prune(a, None, rule=padded, cu_seqlens=c), (x[0], torch.stack(
        [CU, CU.flip(0).neg() + 40])), (None, 0)
    rows, vector, sizes = merges()
    yield lambda a, n: tt.prune(a, vector, rule=padded, merge=tailcut.Merge("cos4", sizes_in=n)), (
        rows, sizes), (0, 0)
    yield lambda a: tt.prune(a, "novelty", rule=exact, merge="mean"), (rows,), (0,)
    yield lambda a, c: tt.score(a, c), (x, cls), (0, None)
    yield lambda a, c: tt.score(a, c, cu_seqlens=CU), (x, cls), (0, None)
    scores, flags = tt.score(four.flatten(0, 1), cls)
    scores, flags = scores.view(3, 4, 40), flags.view(3, 4)
    yield lambda s, f: tt.cut(s, padded, flags=f), (scores, flags), (0, 0)
    yield lambda s, f: tt.cut(s, exact, flags=f[None]), (scores[0], flags[0]), (0, 0)
    found = tt.prune(x, cls, rule=padded)
    keys = torch.arange(4 * 3 * 40 * 2.).view(4, 3, 40, 2)
    yield (lambda a, k, n: tt.compact([a[0], a[1]], k, n[None], token_axis=[0, -2]),
           ((x, keys), found.kept, found.counts), (0, 0, 0))
    yield (lambda a, k, n: tt.compact([a], k, n), (four, found.kept, found.counts),
           (0, None, None))
    yield (lambda a, k, n: tt.merge(a, k, n[None]), (x, found.kept, found.counts), (0, 0, 0))
    roles, hidden, positions, heads = of_layer()
    yield (lambda a, r, p, h: tt.prune_sequence(a, r, "max_cosine", rule=Rule(k=5), room=14,
                                                rows=[p, h], token_axis=[0, 1]),
           (hidden, roles, positions, heads), (0, 0, 0, 0))
    yield (lambda a, q: tt.prune_sequence(
        a, roles, RelevanceOptions("attention", q=q, k=q), rule=Rule("gap")),
        (torch.stack([hidden, hidden * 2]), torch.randn(2, 2, 30, 4, 4)), (0, 0))


def pieces(value):
    return [one for one in tree_flatten(value)[0] if isinstance(one, torch.Tensor)]


def at(value, axis, i):
    if isinstance(value, tuple):
        return tuple(at(one, axis, i) for one in value)
    return value if axis is None else value.select(axis, i)


@pytest.mark.parametrize("which", range(24))
def test_vmap(which):
    call, tensors, axes = list(cases())[which]
    size = next(pieces(one)[0].shape[axis] for one, axis in zip(tensors, axes) if axis is not None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "a performance drop because ..."
        got = pieces(torch.vmap(lambda *args: tuple(pieces(call(*args))), axes)(*tensors))
    want = [pieces(call(*[at(one, axis, i) for one, axis in zip(tensors, axes)]))
            for i in range(size)]
    assert len(got) == len(want[0])
    for one, parts in zip(got, zip(*want)):
        assert torch.equal(one.nan_to_num(), torch.stack(parts).nan_to_num())


def test_vmap_has_all():
    assert len(list(cases())) == 24


def test_vmap_of_vmap():
    x, cls = data(shape=(2, 3, 40, 24))
    call = lambda a: tt.prune(a, cls, rule=Rule(k=9)).tokens  # noqa: E731
    assert torch.equal(torch.vmap(torch.vmap(call))(x), call(x.flatten(0, 1)).view(2, 3, 9, 24))


def losses():
    x, cls = data()
    rule = Rule(tau=0.1, max_keep=11)
    found, numbers = tt.prune(x, cls, rule=rule), torch.arange(120).view(3, 40)
    roles = torch.tensor([1] * 30 + [2] * 10, dtype=torch.uint8).expand(3, 40).contiguous()
    yield lambda a: tt.prune(a, cls, rule=rule).tokens
    yield lambda a: tt.prune(a, "novelty", rule=rule, merge="cos4").tokens
    yield lambda a: tt.merge(a, found.kept, found.counts).tokens
    yield lambda a: tt.compact([numbers, a], found.kept, found.counts, token_axis=1)[1]
    yield lambda a: tt.prune_sequence(a, roles, rule=rule, rows=[numbers, a * 2]).rows[1]
    yield lambda a: a * tt.score(a, cls)[0].unsqueeze(-1)
    yield lambda a: tt.prune(a.flatten(0, 1), cls, rule=rule, cu_seqlens=torch.tensor(
        [0, 40, 120], dtype=torch.int32)).tokens


@pytest.mark.parametrize("which", range(7))
def test_grad(which):
    x, _cls = data()
    call = list(losses())[which]
    own = x.clone().requires_grad_()
    (want,) = torch.autograd.grad(call(own).pow(3).sum(), own)
    assert torch.equal(torch.func.grad(lambda a: call(a).pow(3).sum())(x), want)
    assert want.any()
    value, found = torch.func.grad_and_value(lambda a: call(a).pow(3).sum())(x)
    assert torch.equal(value, want)


def test_gradients_of_each():
    """vmap of grad, grad of vmap, and whole Jacobians."""
    x, cls = data()
    call = lambda a: tt.prune(a, cls, rule=Rule(k=9)).tokens.pow(3).sum()  # noqa: E731
    want = torch.stack([torch.func.grad(call)(one) for one in x])
    assert torch.equal(torch.vmap(torch.func.grad(call))(x), want)
    assert torch.equal(torch.func.grad(lambda a: torch.vmap(call)(a).sum())(x), want)
    own = x.clone().requires_grad_()
    assert torch.equal(torch.autograd.grad(torch.vmap(call)(own).sum(), own)[0], want)
    assert torch.equal(torch.func.grad(lambda a: torch.func.grad(call)(a).sum())(x[0]),
                       6 * x[0] * (want[0] != 0))
    jacobian = torch.func.jacrev(lambda a: tt.prune(a, cls, rule=Rule(k=9)).tokens[:, 0])(x[0])
    kept = tt.prune(x[0], cls, rule=Rule(k=9)).kept
    assert torch.equal(jacobian.nonzero()[:, 1], kept.long()) and jacobian.sum() == 9


def test_refused():
    x, cls = data()
    for call in (lambda a: tt.prune_(a, cls), lambda a: tt.compact_(
            [a], torch.zeros(1, dtype=torch.int32), torch.ones(1, dtype=torch.int32))[0]):
        with pytest.raises(tailcut.UnsupportedError, match="_ works in place"):
            torch.vmap(call)(x.clone())
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(lambda a: tt.prune(a, cls).tokens, (x,), (x,))
    call = lambda a: tt.prune(a, cls).tokens  # noqa: E731
    assert torch.equal(torch.func.functionalize(call)(x), call(x))


def test_plain():
    """The dispatcher is passed by where it would do nothing, and nowhere else."""
    x, cls = data()
    seen = []
    kernel = _torch_forms._kernels["prune"]

    def told(*args):
        seen.append(torch._C._dispatch_tls_local_include_set())
        return kernel(*args)

    _torch_forms._kernels["prune"] = told
    try:
        def direct(call):
            before = len(seen)
            call()
            return len(seen) > before

        assert direct(lambda: tt.prune(x, cls)) and direct(lambda: tt.prune(x[0], "mean"))
        own = x.clone().requires_grad_()
        assert not direct(lambda: tt.prune(own, cls)) and not direct(lambda: tt.prune(x, own[0, 0]))
        with torch.no_grad():
            assert direct(lambda: tt.prune(own, cls))
        with torch.inference_mode():
            assert direct(lambda: tt.prune(x * 1, cls))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert direct(lambda: tt.prune(x, cls))
        with torch.profiler.profile() as profile:
            assert not direct(lambda: tt.prune(x, cls))
        assert any(event.key == "tailcut::prune" for event in profile.key_averages())
        assert not direct(lambda: tt.prune(torch.nn.Parameter(x), cls))
        assert not direct(lambda: tt.prune(x.to("meta"), "mean"))
        negative = torch._neg_view(-x)
        assert not direct(lambda: tt.prune(negative, cls))
        assert torch.equal(tt.prune(negative, cls).tokens, tt.prune(x, cls).tokens)
        for _ in range(2):
            assert torch.equal(tailcut.prune(x, cls).tokens, tt.prune(
                x, cls).tokens[tt.prune(x, cls).kept >= 0])
        assert not direct(lambda: torch.vmap(lambda a: tt.prune(a, cls).tokens)(x))
        from torch._subclasses.fake_tensor import FakeTensorMode
        with FakeTensorMode() as mode:
            fake = mode.from_tensor(x)
            assert not direct(lambda: tt.prune(fake, None))
            assert isinstance(tt.prune(fake, None).tokens, torch._subclasses.FakeTensor)

        class Told(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
                names.append(str(function))
                return function(*args, **(kwargs or {}))

        names = []
        with Told():
            assert not direct(lambda: tt.prune(x, cls))
        assert "tailcut.prune.default" in names
        with pytest.raises(RuntimeError, match="int"):
            tt.prune(x, cls, prefix_rows=0.5)
    finally:
        _torch_forms._kernels["prune"] = kernel
