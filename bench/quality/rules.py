# SPDX-License-Identifier: Apache-2.0
"""What stays of the patches behind a layer, by each rule, and what becomes of those that do not.

rows: [B, 1 + N, D] fp16, row 0 CLS. Rules: cosine (to the CLS row), spread (the same, half of the
kept from the tail), novelty, all three by tailcut's own scores; random; grid (the middle patch of
equal fields) and pooling (the mean of each field), fields in at most k of them. How:

    drop    the others are lost
    merge   each joins the kept patch of its window that is most like it (tailcut's cos4), and later
            attention adds ln(size) to the logits of each key
    nosize  the same rows, attention told nothing
    sizes   rows stay as they were, attention told what they stand for
"""
import numpy as np
import tailcut

WINDOW, SPREAD = 64, 0.5
HOWS = ("drop", "merge", "nosize", "sizes")
RULES = {"cosine": HOWS, "spread": HOWS, "random": HOWS, "grid": HOWS,
         "pooling": ("merge", "nosize"), "novelty": HOWS}


def fields(k, side):
    """(rows, columns) of the most fields, at most k: from as many columns as rows to twice that."""
    return max(((r, c) for r in range(1, side + 1) for c in range(r, min(2 * r, side) + 1)
                if r * c <= k), key=lambda rc: (rc[0] * rc[1], rc[0]))


def field_of(k, side):
    """The field of each patch, int [side * side], and how many there are."""
    r, c = fields(k, side)
    rows, columns = (np.arange(side) * n // side for n in (r, c))
    return (rows[:, None] * c + columns).ravel(), r * c


def middles(field, count, side):
    """The patch nearest to the middle of each field, ascending."""
    at = np.stack(np.divmod(np.arange(side * side), side), 1).astype(float)
    found = []
    for number in range(count):
        members = np.flatnonzero(field == number)
        away = ((at[members] - at[members].mean(0)) ** 2).sum(1)
        found.append(members[away.argmin()])
    return np.sort(np.array(found, np.int32))


def choose(rule, rows, k, seed, side):
    """Kept patches, int32 [B, k'] ascending."""
    b, n = len(rows), side * side
    if rule == "grid":
        field, count = field_of(k, side)
        return np.tile(middles(field, count, side), (b, 1))
    if rule == "random":
        scores = np.random.default_rng(seed).random((b, n), np.float32)
        return tailcut.cut(scores, tailcut.Rule(k=k)).kept.reshape(b, k)
    reference = tailcut.Reference("novelty", window=WINDOW) if rule == "novelty" else "row"
    chosen = tailcut.prune(rows, reference, batch=tailcut.Batch(prefix_rows=1), out=False,
                           rule=tailcut.Rule(k=k, spread=SPREAD if rule == "spread" else 0.0))
    return chosen.kept.reshape(b, k)


def nearest(kept, side):
    """For each patch the place in `kept` of the one nearest on the grid, the first of several."""
    at = np.stack(np.divmod(np.arange(side * side), side), 1)
    return ((at[:, None] - at[kept][None]) ** 2).sum(2).argmin(1)


def pooled(rows, k, side):
    """Means of fields: (rows of the fields, sizes, the field of each patch)."""
    field, count = field_of(k, side)
    share = (np.arange(count)[:, None] == field).astype(np.float32)
    sizes = share.sum(1)
    means = (share / sizes[:, None]) @ rows[:, 1:].astype(np.float32)
    return means.astype(np.float16), np.tile(sizes, (len(rows), 1)), np.tile(field, (len(rows), 1))


def shorten(rule, how, rows, k, seed, side):
    """(rows [B, 1 + k', D] fp16, bias [B, 1 + k'] or None, source [B, N]: which of the k' rows
    stands for each patch)."""
    b, n = len(rows), side * side
    if rule == "pooling":
        short, sizes, source = pooled(rows, k, side)
    else:
        kept = choose(rule, rows, k, seed, side)
        count = kept.shape[1]
        source = np.stack([nearest(list_, side) for list_ in kept])
        short = np.take_along_axis(rows[:, 1:], kept[:, :, None], 1)
        if how != "drop":
            merged = tailcut.merge(rows, kept.ravel(), np.full(b, count, np.int32),
                                   np.arange(b + 1, dtype=np.int32) * count, want=("joins",),
                                   merge=tailcut.Merge("cos4", window=WINDOW),
                                   batch=tailcut.Batch(prefix_rows=1))
            sizes = merged.sizes.reshape(b, count).astype(np.float32)
            joins = merged.joins.reshape(b, 1 + n)[:, :n]
            for i in range(b):  # a patch of whose window nothing stays is lost: the nearest then
                found = np.searchsorted(kept[i], joins[i])
                source[i] = np.where(joins[i] >= 0, found, source[i])
            if how != "sizes":
                short = merged.tokens.reshape(b, count, -1)
    bias = None
    if how in ("merge", "sizes"):
        bias = np.pad(np.log(sizes), ((0, 0), (1, 0))).astype(np.float32)
    return np.concatenate([rows[:, :1], short], 1), bias, source
