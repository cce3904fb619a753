# SPDX-License-Identifier: Apache-2.0
"""Operators that take an earlier call's arguments: what test_reuse.py is for the package's
calls."""
import pytest
import torch
from torch.utils._pytree import tree_leaves

import tailcut
import tailcut.torch as tt
from tailcut import Merge, RelevanceOptions, Rule, _making, _reuse
from threads import all_at_once

EXACT, PADDED = Rule(ratio=0.25), Rule(tau=0.0, max_keep=9)


def data(seed, ragged, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    lead = (60,) if ragged else (3, 20)
    x = torch.randn((*lead, 16), generator=g).to(dtype)
    cu = torch.tensor([0, 12, 12 + seed, 60], dtype=torch.int32)
    where = {"cu_seqlens": cu, "max_tokens": 48} if ragged else {}
    found = tt.prune(x, None, rule=PADDED, **where)
    full = tt.prune(x, None, rule=EXACT, **where)
    roles = torch.randint(0, 4, lead, generator=g).to(torch.uint8)
    scores, flags = tt.score(x, None, **where)
    return {"x": x, "cls": torch.randn(16, generator=g).to(dtype), "roles": roles, "where": where,
            "positions": torch.randint(0, 99, lead, generator=g), "scores": scores,
            "flags": flags, "given": (found.kept, found.counts), "full": (full.kept, full.counts),
            "keys": torch.randn((*lead[:-1], 2, lead[-1], 4), generator=g),
            "sizes": torch.randint(1, 5, lead, generator=g, dtype=torch.int32), "axes":
            [len(lead) - 1, -2]}


CALLS = {
    "score": lambda d: tt.score(d["x"], d["cls"], prefix_rows=1, **d["where"]),
    "cut": lambda d: tt.cut(d["scores"], PADDED, flags=d["flags"], **d["where"]),
    "cut, exact": lambda d: tt.cut(d["scores"], EXACT, **d["where"]),
    "compact": lambda d: tt.compact([d["positions"], d["keys"]], *d["given"],
                                    token_axis=d["axes"], **d["where"]),
    "compact, full": lambda d: tt.compact([d["positions"], d["keys"]], *d["full"],
                                          token_axis=d["axes"], **d["where"]),
    "prune": lambda d: tt.prune(d["x"], d["cls"], rule=PADDED, **d["where"]),
    "prune, exact": lambda d: tt.prune(d["x"], d["cls"], rule=EXACT, **d["where"]),
    "prune, merge": lambda d: tt.prune(d["x"], "novelty", rule=PADDED, merge=Merge(
        "mean", sizes_in=d["sizes"]), **d["where"]),
    "merge": lambda d: tt.merge(d["x"], *d["given"], **d["where"]),
    "merge, full": lambda d: tt.merge(d["x"], *d["full"], merge="mean", **d["where"]),
    "sequence": lambda d: tt.prune_sequence(
        d["x"], d["roles"], rule=PADDED, rows=[d["positions"], d["keys"]], token_axis=d["axes"],
        **d["where"]),
    "attention": lambda d: tt.prune_sequence(d["x"], d["roles"], RelevanceOptions(
        "attention", q=d["x"].view(*d["x"].shape[:-1], 2, 8), k=d["x"].view(
            *d["x"].shape[:-1], 2, 8)), rule=EXACT, **d["where"]),
    "prune_": lambda d: tt.prune_(d["x"], d["cls"], rule=PADDED, **d["where"])[1:],
    "prune_, merge": lambda d: tt.prune_(d["x"], d["cls"], rule=EXACT, merge="cos4",
                                         **d["where"])[1:],
    "compact_": lambda d: tt.compact_([d["positions"], d["keys"]], *d["full"],
                                      token_axis=d["axes"], **d["where"])[:0],
    "sequence_": lambda d: tt.prune_sequence_(d["x"], d["roles"], rule=EXACT, rows=[
        d["positions"]], **d["where"])[1:3],
}


def result(name, d):
    """What a call gives, and what it leaves of arrays in place as far as that is specified."""
    made = [one for one in tree_leaves(CALLS[name](d)) if one is not None]
    if not name.partition(",")[0].endswith("_"):
        return made
    counts = (d["full"] if name == "compact_" else made)[1].tolist()
    starts = d["where"].get("cu_seqlens")
    for word in ("x", "positions", "keys"):
        array = d[word]
        if word == "keys" and name != "compact_":
            continue
        axis = d["axes"][1 if word == "keys" else 0]
        for b, n in enumerate(counts):
            made.append(array.narrow(axis, int(starts[b]), n) if starts is not None else
                        array[b].narrow(axis - 1 if axis > 0 else axis, 0, n))
    return made


def same(one, other):
    return len(one) == len(other) and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
        for a, b in zip(one, other))


def anew(name, d):
    _reuse._calls.known.clear()
    return [one.clone() for one in result(name, d)]


@pytest.mark.parametrize("by_numpy", [True, False])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_others(name, ragged, by_numpy, monkeypatch):
    """The same prepared call for other tensors, after the first are gone. No result is another's
    memory, and all live on. Where PyTorch was built for another numpy: tensors of its own."""
    want = [anew(name, data(seed, ragged)) for seed in range(4)]
    inputs = [data(seed, ragged) for seed in range(4)]
    monkeypatch.setattr(_making._torch_makers[torch.device("cpu")], "by_numpy", by_numpy)
    _reuse._calls.known.clear()
    results = [result(name, inputs.pop(0))]
    prepared = list(_reuse._calls.known.values())
    assert len(prepared) == 1
    while inputs:
        results.append(result(name, inputs.pop(0)))
        assert list(_reuse._calls.known.values()) == prepared
    assert all(map(same, results, want))
    if not name.partition(",")[0].endswith("_"):
        for one in results[0]:
            one.fill_(1)
        assert all(map(same, results[1:], want[1:]))
        for one in results[1]:
            others = [other for other in results[1] if other is not one]
            before = [other.clone() for other in others]
            one.zero_()
            assert same(others, before)


@pytest.mark.parametrize("name", CALLS)
def test_threads(name):
    want = {seed: anew(name, data(seed, False)) for seed in range(2)}

    def work(seed):
        return all(same(result(name, data(seed, False)), want[seed]) for _ in range(50))

    assert all_at_once(work, [0, 1, 0, 1])


@pytest.mark.parametrize("name", CALLS)
def test_kinds(name):
    """Types, gradients, modes: in front of and behind each other."""
    def each():
        yield result(name, data(2, False))
        if name.partition(",")[0] not in ("compact_", "compact", "cut"):
            yield result(name, data(2, False, torch.bfloat16))
        with torch.inference_mode():
            yield result(name, data(2, False))
        with torch.no_grad():
            d = data(2, False)
            d["x"].requires_grad_()
            yield result(name, d)
        d = data(2, False)
        if not name.partition(",")[0].endswith("_"):
            d["x"].requires_grad_()
            yield [one.detach() for one in result(name, d)]
        wide = torch.zeros(3, 20, 24)
        wide[..., :16] = data(2, False)["x"]
        yield result(name, data(2, False) | {"x": wide[..., :16]}) if name != "attention" else []

    want = []
    for found in each():
        want.append([one.clone() for one in found])
        _reuse._calls.known.clear()
    for _ in range(2):
        assert all(map(same, each(), want))
    assert not torch.empty(0).is_inference() and not result(name, data(2, False))[0].is_inference()


def test_memory_that_is_shared():
    """Overlapping arrays are refused in every call, and tensors that are one are told apart from
    two of the same kind."""
    whole, d = torch.zeros(8, 20, 16), data(3, False)
    whole[:3] = d["x"]
    for _ in range(2):
        tailcut.prune(whole[:3], d["cls"], out=whole[5:8], placement="local")
        with pytest.raises(tailcut.ArgumentError, match="ERROR_OVERLAP"):
            tailcut.prune(whole[:3], d["cls"], out=whole[1:4], placement="local")
        assert torch.equal(whole[:3], d["x"])
        one = tt.prune_sequence(d["x"], d["roles"], rule=EXACT, rows=[d["x"]])
        two = tt.prune_sequence(d["x"], d["roles"], rule=EXACT, rows=[d["x"] * 2])
        assert torch.equal(one.rows[0], one.tokens) and torch.equal(two.rows[0], one.tokens * 2)


def test_failure():
    """A call that fails in the middle does not come back."""
    d = data(4, False)
    want = anew("prune", d)
    [operator] = _reuse._calls.known.values()
    operator.call.function = lambda *_arguments: 301
    with pytest.raises(tailcut.Error, match="WORKSPACE"):
        result("prune", d)
    assert not _reuse._calls.known and same(result("prune", d), want)
    for _ in range(2):
        with pytest.raises(tailcut.ArgumentError, match="room is 3, but"):
            tt.prune_sequence(d["x"], d["roles"], rule=PADDED, room=3)
        with pytest.raises(tailcut.ArgumentError, match="room is 9, but 10"):
            tt.compact([d["x"]], d["given"][0], d["given"][1] * 0 + 10)
        assert same(result("compact", d), anew("compact", d))
