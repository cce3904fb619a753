# SPDX-License-Identifier: Apache-2.0
"""Encoder features as numpy arrays: an image's tokens, a batch with its CLS rows, images of
different sizes, and the size of buffers before there is data."""
import numpy as np

import tailcut

rng = np.random.default_rng(0)

# One image: 576 patches and their CLS vector. The default rule finds how many stay.
patches = rng.normal(size=(576, 1024)).astype(np.float16)
cls = patches[:40].mean(0).astype(np.float16)
image = tailcut.prune(patches, cls)
print(f"one image: {image.counts[0]} of 576 tokens, {image.tokens.shape} of {image.tokens.dtype}")
assert (image.tokens == patches[image.kept]).all()

# A batch as encoders return it, CLS in row 0 of each image; a quarter of the patches of each stays.
batch = rng.normal(size=(4, 577, 1024)).astype(np.float32)
quarter = tailcut.prune(batch, "row", rule=tailcut.Rule(ratio=0.25))
print(f"four images: {quarter.counts.tolist()} tokens, offsets {quarter.cu_seqlens.tolist()}")
assert quarter.tokens.shape == (4 * 144, 1024)

# Images of different sizes one behind the other, no CLS: each against its own mean direction, in
# place.
offsets = np.array([0, 256, 1280, 1536], np.int32)
ragged = rng.normal(size=(1536, 768)).astype(np.float32)
pruned = tailcut.prune(ragged, "mean", batch=tailcut.Batch(cu_seqlens=offsets), out=ragged,
                       rule=tailcut.Rule("chord", min_keep=16, round_to=8))
for start, count in zip(offsets, pruned.counts):
    print(f"  an image: tokens {start} .. {start + count - 1}")

# What a server reserves before it has seen the image.
rule = tailcut.Rule(percent=78)
assert tailcut.kept_count(rule, 576) == tailcut.prune(patches, cls, rule=rule).counts[0]

# Run often: arguments are laid out once.
plan = tailcut.prune.plan(patches, cls)
for _ in range(3):
    again = plan()
assert again.counts[0] == image.counts[0]
