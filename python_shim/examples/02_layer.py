# SPDX-License-Identifier: Apache-2.0
"""Inside a layer of the language model: image tokens of a sequence pruned by relevance to its text,
together with the position ids and an earlier layer's K/V cache."""
import numpy as np

import tailcut

rng = np.random.default_rng(0)
text, image, dim, heads, head_dim = 24, 200, 512, 8, 64
total = 8 + image + text  # a system prompt, the image, the question

roles = np.zeros(total, np.uint8)
roles[8:8 + image] = tailcut.Role.CANDIDATE
roles[8 + image:] = tailcut.Role.QUERY
hidden = rng.normal(size=(total, dim)).astype(np.float32)
positions = np.arange(total)
keys = rng.normal(size=(1, heads, total, head_dim)).astype(np.float16)
values = rng.normal(size=(1, heads, total, head_dim)).astype(np.float16)
before = keys.copy()

pruned = tailcut.prune_sequence(
    hidden[None], roles[None], rule=tailcut.Rule(ratio=0.3),
    rows=[tailcut.Rows(positions[None]),                    # original positions stay with their
                                                            # tokens
          tailcut.Rows(keys, keys, token_axis=2),           # in place
          tailcut.Rows(values, values, token_axis=2)])

count = pruned.counts[0]
print(f"{count} of {total} rows stay: the text, and {count - 8 - text} of {image} image tokens")
assert (pruned.tokens == hidden[pruned.kept]).all()
assert (pruned.rows[0] == pruned.kept).all()
assert (keys[0, :, :count] == before[0][:, pruned.kept]).all()
