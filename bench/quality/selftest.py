# SPDX-License-Identifier: Apache-2.0
"""selftest.py: the parts of the quality bench that need no download, on a small random encoder.

Sizes mean something: an image of copies of few patches, merged to one of each, gives the same CLS
where attention is told the sizes, and another one where it is not. Kept lists, fields and sources
are what rules.py says.
"""
import os
import pathlib
import sys

os.environ["OPENBLAS_NUM_THREADS"] = "1"
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "python_shim")]

import numpy as np

import rules
import transformer

SIDE, DIM, IMAGES = 8, 32, 3  # one window of 64


def small_encoder(rng, layers=3, heads=4):
    def draw(*shape):
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    made = []
    for _ in range(layers):
        w = {name: draw(DIM, DIM) for name in ("q", "k", "v", "out")}
        w.update(fc1=draw(DIM, 4 * DIM), fc2=draw(4 * DIM, DIM), s1=draw(DIM), s2=draw(DIM))
        for name in ("q", "k", "v", "out", "fc1", "fc2"):
            w[name + "_b"] = draw(w[name].shape[1])
        w["n1"], w["n2"] = ((1 + draw(DIM), draw(DIM)) for _ in range(2))
        made.append(transformer.Layer(w, heads))
    return transformer.Encoder(made, (1 + draw(DIM), draw(DIM)))


def check(what, holds):
    if not holds:
        sys.exit(f"selftest.py: {what}")


def main():
    rng = np.random.default_rng(5)
    split = small_encoder(rng)
    kinds = rng.standard_normal((IMAGES, 6, DIM)).astype(np.float16)
    which = np.concatenate([np.arange(6), rng.integers(0, 6, SIDE * SIDE - 6)])
    cls = rng.standard_normal((IMAGES, 1, DIM)).astype(np.float16)
    rows = np.concatenate([cls, kinds[:, which]], 1)
    full = split.rest(rows.astype(np.float32), 0)
    for how, same in (("merge", True), ("sizes", True), ("nosize", False), ("drop", False)):
        short, bias, source = rules.shorten("novelty", how, rows, 6, 0, SIDE)
        final = split.rest(short.astype(np.float32), 0, bias)
        off = np.abs(final[:, 0] - full[:, 0]).max()
        check(f"copies, {how}: CLS is off by {off}", (off < 1e-4) == same)
        if same:
            dense = np.take_along_axis(final[:, 1:], source[:, :, None], 1)
            off = np.abs(dense - full[:, 1:]).max()
            check(f"copies, {how}: the dense map is off by {off}", off < 1e-4)

    check("erf", abs(transformer.erf(np.float32([0.5, -1]))[1] + 0.8427008) < 1e-6)
    rows = rng.standard_normal((IMAGES, 1 + SIDE * SIDE, DIM)).astype(np.float16)
    for rule, hows in rules.RULES.items():
        for how in hows:
            short, bias, source = rules.shorten(rule, how, rows, 14, 1, SIDE)
            count = short.shape[1] - 1
            wanted = 12 if rule in ("grid", "pooling") else 14
            check(f"{rule}, {how}: {count} rows", count == wanted)
            check(f"{rule}, {how}: no source", (source.min(), source.max()) == (0, count - 1))
            check(f"{rule}, {how}: bias", (bias is None) == (how in ("drop", "nosize")))
            if bias is not None:
                check(f"{rule}, {how}: sizes", np.allclose(np.exp(bias[:, 1:]).sum(1), SIDE * SIDE))
    field, count = rules.field_of(14, SIDE)
    check("fields of a 3 x 4 grid", count == 12 and sorted(np.bincount(field)) == [4] * 4 + [6] * 8)
    kept = rules.choose("random", rows, 14, 1, SIDE)
    check("random: as another seed", (kept != rules.choose("random", rows, 14, 2, SIDE)).any())
    check("random: not ascending", (np.diff(kept) > 0).all())
    place = rules.nearest(np.array([0, 63]), SIDE)
    check("the nearest", place[9] == 0 and place[54] == 1)


if __name__ == "__main__":
    main()
