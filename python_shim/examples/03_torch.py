# SPDX-License-Identifier: Apache-2.0
"""PyTorch: tensors as they are, and operators inside torch.compile, with shapes that do not depend
on the data."""
import torch

import tailcut
import tailcut.torch

torch.manual_seed(0)
features = torch.randn(4, 577, 1024)  # CLS in row 0 of each image

# Outside a graph: packed results as long as they are.
pruned = tailcut.prune(features, "row")
print("packed:", pruned.counts.tolist(), tuple(pruned.tokens.shape))

# Inside one: a quarter of the tokens is a static shape, what the curve says is padded to max_keep.
quarter = tailcut.Rule(ratio=0.25)
head = tailcut.Rule("otsu", max_keep=288)
project = torch.nn.Linear(1024, 256)


@torch.compile(fullgraph=True, backend="aot_eager")  # on a GPU: mode="reduce-overhead", a CUDA
                                                     # graph
def encode(x):
    fixed = tailcut.torch.prune(x, "row", rule=quarter)
    padded = tailcut.torch.prune(x, "row", rule=head)
    return project(fixed.tokens), project(padded.tokens), padded.counts


fixed, padded, counts = encode(features)
print("compiled:", tuple(fixed.shape), tuple(padded.shape), counts.tolist())

# Gradients go to the rows that stay.
features.requires_grad_()
encode(features)[0].sum().backward()
assert (features.grad.abs().sum(-1) > 0).sum() == 4 * 144

# What is different stays, and what is dropped joins it: attention after this adds log(sizes) to the
# logits of these keys.
merged = tailcut.torch.prune(features[:, 1:], "novelty", rule=quarter, merge="cos4")
bias = torch.log(merged.sizes.float())[:, None, None, :]
keys = merged.tokens.view(4, 144, 16, 64).transpose(1, 2)
attended = torch.nn.functional.scaled_dot_product_attention(keys, keys, keys, attn_mask=bias)
print("merged:", tuple(attended.shape), "for", int(merged.sizes.sum()), "tokens")
