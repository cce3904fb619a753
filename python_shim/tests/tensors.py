# SPDX-License-Identifier: Apache-2.0
"""Tensors that the tests of PyTorch have in common."""
import torch

from tailcut import Rule

RULES = [Rule(k=9), Rule(ratio=0.3, spread=0.25), Rule(tau=0.05, max_keep=17),
         Rule("chord", round_to=4), None]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def data(dtype=torch.float32, shape=(3, 40, 24)):
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(axes, generator=generator).to(dtype) for axes in (shape, shape[-1:]))


def of_layer(shape=(2, 30), dtype=torch.float32):
    """Roles, hidden states, position ids and keys of a sequence inside a layer."""
    generator = torch.Generator().manual_seed(3)
    roles = torch.tensor([0] * 3 + [1] * 20 + [3] * 2 + [2] * 4 + [4], dtype=torch.uint8)
    b, t = shape
    return (roles.expand(b, t).contiguous(), torch.randn((b, t, 16), generator=generator).to(dtype),
            torch.arange(100, 100 + t).expand(b, t).contiguous(),
            torch.randn((b, 2, t + 5, 8), generator=generator).to(dtype)[:, :, :t])


def merges(dtype=torch.float32, prefix=0):
    """Rows of which some are alike, and sizes."""
    x, cls = data(dtype, (2, 150 + prefix, 32))
    x[:, 60:] += 2 * x[:, :90 + prefix].roll(5, 1)
    x[1, 20 + prefix] = 0
    sizes = torch.randint(1, 5, x.shape[:2], generator=torch.Generator().manual_seed(4),
                          dtype=torch.int32)
    return x, cls, sizes
