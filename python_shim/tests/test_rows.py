# SPDX-License-Identifier: Apache-2.0
"""Row arrays of every layout: whatever the axes, the gaps and the kept list, numpy's own indexing
says the same."""
import numpy as np
import pytest
from hypothesis import given, strategies as st

import tailcut
from tailcut import ArgumentError, Batch, Placement, Rows, RowsFlag, Rule

# Axes of an array by letter: b segments, t tokens, others of its own.
LAYOUTS = ["t", "td", "tcd", "ct", "ctd", "cdt"]
BATCHED = ["bt", "btd", "bctd", "bcdt", "btcd"]
DTYPES = ["u1", "f2", "i4", "i8", "f8"]


@st.composite
def arrays(draw, batched, segments, tokens):
    """(array with gaps, token axis)."""
    letters = draw(st.sampled_from(BATCHED if batched else LAYOUTS))
    shape = [{"b": segments, "t": tokens}.get(letter) or draw(st.integers(2, 4))
             for letter in letters]
    gaps = [draw(st.sampled_from([0, 0, 1, 3])) if "c" not in letters or letter in "bt" else 0
            for letter in letters]
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    whole = [n + gap for n, gap in zip(shape, gaps)]
    count = int(np.prod(whole))
    values = (np.arange(count) * 7 + 3).astype(dtype).reshape(whole)
    return values[tuple(slice(n) for n in shape)], letters.index("t")


def rows_of(array, axis, b, numbers, batched):
    """Rows of segment b in the order of its axes."""
    return np.take(array[b] if batched else array, numbers, axis - batched)


@given(st.data())
def test_uniform(data):
    segments, tokens = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 40))
    batched = data.draw(st.booleans()) if segments == 1 else True
    prefix = data.draw(st.integers(0, min(2, tokens)))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    scores = rng.normal(size=(segments, tokens)).astype(np.float32)
    chosen = tailcut.cut(scores if batched else scores[0], Rule(ratio=0.4),
                         batch=Batch(prefix_rows=prefix))
    sources = [data.draw(arrays(batched, segments, tokens))
               for _ in range(data.draw(st.integers(1, 3)))]
    for placement in Placement:
        got = tailcut.compact([Rows(a, token_axis=axis) for a, axis in sources], chosen.kept,
                              chosen.counts,
                              chosen.cu_seqlens, batch=Batch(prefix_rows=prefix),
                              placement=placement)
        for (array, axis), target in zip(sources, got):
            for b in range(segments):
                first, end = chosen.cu_seqlens[b:b + 2]
                want = rows_of(array, axis, b, chosen.kept[first:end] + prefix, batched)
                if placement == Placement.PACKED:
                    found = np.take(target, range(first, end), axis - batched)
                else:
                    found = rows_of(target, axis, b, range(end - first), batched)
                assert (found == want).all() and found.dtype == want.dtype
    # In place, in one call.
    copies = [array.copy() for array, _axis in sources]
    tailcut.compact([Rows(a, a, token_axis=axis) for a, axis in sources], chosen.kept,
                    chosen.counts, chosen.cu_seqlens,
                    batch=Batch(prefix_rows=prefix))
    for copy, (array, axis) in zip(copies, sources):
        for b in range(segments):
            first, end = chosen.cu_seqlens[b:b + 2]
            assert (rows_of(array, axis, b, range(end - first), batched)
                    == rows_of(copy, axis, b, chosen.kept[first:end] + prefix, batched)).all()


def test_layer_with_pages():
    """Hidden states, M-RoPE positions, K/V of [B, H, T, d], and K/V in pages by slots, pruned in
    one call."""
    rng = np.random.default_rng(3)
    total, heads, d, page = 40, 3, 8, 4
    cu = np.array([0, 25, 40], np.int32)
    hidden = rng.normal(size=(total, 16)).astype(np.float16)
    roles = np.where(np.arange(total) % 5 == 0, 2, 1).astype(np.uint8)
    positions = np.stack([np.arange(total)] * 3)
    slots = rng.permutation(60)[:total].astype(np.int64)
    pool = rng.normal(size=(15, heads, page, d)).astype(np.float32)
    before = pool.copy()
    fresh = np.zeros(total, np.int32)
    base = np.array([100, 200], np.int32)
    result = tailcut.prune_sequence(
        hidden, roles, rule=Rule(ratio=0.5), batch=Batch(cu_seqlens=cu), rows=[
            Rows(positions, token_axis=-1),
            Rows(pool, pool, token_axis=2, src_slots=slots, dst_slots=slots),
            Rows(None, fresh, flags=RowsFlag.RENUMBER, renumber_base=base)])
    kept = np.concatenate([result.kept[:result.counts[0]], result.kept[result.counts[0]:] + 25])
    assert result.counts.sum() == len(kept) < total and (roles[kept] == 2).sum() == 8
    assert (result.tokens == hidden[kept]).all()
    assert (result.rows[0] == positions[:, kept]).all()
    for b, (first, end) in enumerate(zip(cu[:-1], cu[1:])):
        own = kept[(kept >= first) & (kept < end)]
        for j, row in enumerate(own):
            to, source = slots[first + j], slots[row]
            moved, old = pool[to // page, :, to % page], before[source // page, :, source % page]
            assert (moved == old).all()
        packed = slice(result.cu_seqlens[b], result.cu_seqlens[b + 1])
        assert (result.rows[2][packed] == base[b] + np.arange(len(own))).all()


@pytest.mark.parametrize("table", ["inv_freq", "cos_sin"])
@pytest.mark.parametrize("in_place", [False, True])
def test_keys_turn(table, in_place):
    """Keys of the kept rows come out as if rotated by their new positions, head by head, whatever
    the layout."""
    rng = np.random.default_rng(7)
    total, heads, d = 30, 3, 16
    raw = rng.normal(size=(1, heads, total, d))
    inv_freq = (10000.0 ** -(np.arange(d // 2) * 2 / d)).astype(np.float32)
    angles = np.arange(100)[:, None] * inv_freq.astype(np.float64)
    cos_sin = np.concatenate([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    def rotated(rows, positions):
        c, s = np.cos(angles[positions]), np.sin(angles[positions])
        a, b = rows[..., :d // 2], rows[..., d // 2:]
        return np.concatenate([a * c - b * s, b * c + a * s], -1).astype(np.float32)

    old = np.arange(total) * 3
    keys = rotated(raw, old)
    roles = np.ones((1, total), np.uint8)
    roles[0, 20:] = 2
    how = tailcut.Rotation(**{table: inv_freq if table == "inv_freq" else cos_sin},
                           positions=old[None],
                           new_base=np.array([5]))
    x = rng.normal(size=(1, total, 8)).astype(np.float32)
    by_head = keys.transpose(0, 2, 1, 3).copy()  # [B, T, H, d]: heads are contiguous, and turn one
                                                 # by one
    r = tailcut.prune_sequence(x, roles, rule=Rule(k=7), rows=[
        Rows(keys, keys if in_place else None, token_axis=2, rotation=how),
        Rows(by_head, rotation=how)])
    want = rotated(raw[0][:, r.kept], 5 + np.arange(17))
    got = keys[0, :, :17] if in_place else r.rows[0]
    assert np.abs(got - want).max() < 1e-5
    assert np.abs(r.rows[1].transpose(1, 0, 2) - want).max() < 1e-5


def test_cache_of_a_batch():
    """[B, H, T, d] in place by its strides, also where T has room to spare."""
    rng = np.random.default_rng(4)
    cache = rng.normal(size=(2, 3, 50, 8)).astype(np.float16)
    key, before = cache[:, :, :32], cache.copy()
    x = rng.normal(size=(2, 32, 16)).astype(np.float32)
    result = tailcut.prune(x, x[:, 0], rule=Rule(k=5), rows=[Rows(key, key, token_axis=2)],
                           out=False)
    assert result.tokens is None
    for b in range(2):
        assert (cache[b, :, :5] == before[b][:, result.kept[5 * b:5 * b + 5]]).all()
    assert (cache[:, :, 32:] == before[:, :, 32:]).all()


def test_zero_tail_and_padded():
    x = np.random.default_rng(5).normal(size=(3, 20, 4)).astype(np.float32)
    r = tailcut.prune(x, x[:, 0], rule=Rule(tau=0.3, max_keep=12), placement="local",
                      zero_tail=True)
    assert r.tokens.shape == (3, 12, 4) and r.kept.shape == (3, 20)
    for b, count in enumerate(r.counts):
        assert (r.tokens[b, :count] == x[b][r.kept[b, :count]]).all()
        assert not r.tokens[b, count:].any()
        assert (r.kept[b, count:] == -1).all()


def test_room():
    """A destination that is too short is said, and one of the kept size is enough."""
    x = np.random.default_rng(6).normal(size=(20, 4)).astype(np.float32)
    out = np.empty((7, 4), np.float32)
    assert tailcut.prune(x, x[0], rule=Rule(k=7), out=out).tokens.shape == (7, 4)
    with pytest.raises(ArgumentError, match="room for 7 rows, but 8 are kept"):
        tailcut.prune(x, x[0], rule=Rule(k=8), out=out)


@pytest.mark.parametrize("rows, said", [
    (Rows(np.zeros((5, 4))), "20 rows are expected along axis 0"),
    (Rows(np.zeros((20, 4)), np.zeros((20, 4), np.float32)), "its rows are not those of src"),
    (Rows(np.zeros((20, 4)), np.zeros((20, 5))), "its rows are not those of src"),
    (Rows(np.broadcast_to(np.zeros(4), (20, 4))), "an axis that repeats"),
    (Rows(np.zeros((20, 4)), token_axis=2), "token_axis 2 is outside"),
    (Rows(np.zeros((20, 4)), placement="middle"), "expected one of local, packed"),
    (Rows(None), "dst is missing"),
    (Rows(np.zeros((20, 4), "i4"), renumber_base=np.zeros(1, "i8"), flags=2),
     "part_bytes|renumber_base"),
])
def test_refused(rows, said):
    x = np.ones((20, 4), np.float32)
    with pytest.raises(ArgumentError, match=said):
        tailcut.prune(x, x[0], rows=[rows])
