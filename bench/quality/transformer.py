# SPDX-License-Identifier: Apache-2.0
"""A vision transformer as numpy, which can be stopped behind any layer and go on with fewer rows.

x: [B, T, D] float32, row 0 of each image CLS. A layer (count from 0, as the graph's names do):

    x += s1 * (softmax(q k^T / sqrt(d) + bias) v W + b)   q, k, v of LayerNorm(x), d a head's width
    x += s2 * (gelu(LayerNorm(x) W + b) W + b)            gelu with erf, to about 1e-7

bias [B, T]: what is added to the logits of each key: ln(size) for merged rows, None for none.
"""
import numpy as np


def erf(x):
    """Abramowitz and Stegun 7.1.26, absolute error at most 1.5e-7."""
    f = np.float32
    t = f(1) / (f(1) + f(0.3275911) * np.abs(x))
    p = t * (f(0.254829592) + t * (f(-0.284496736) + t * (f(1.421413741) + t * (
        f(-1.453152027) + t * f(1.061405429)))))
    return np.copysign(f(1) - p * np.exp(-x * x), x)


def normed(x, weight, bias):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(1e-6)) * weight + bias


class Layer:
    """w: q, k, v, out, fc1, fc2 with biases (q_b, ...), norms n1, n2 (weight, bias), scales s1,
    s2."""

    def __init__(self, w, heads):
        self.w, self.heads = w, heads
        self.qkv = np.concatenate([w["q"], w["k"], w["v"]], 1)
        self.qkv_b = np.concatenate([w["q_b"], w["k_b"], w["v_b"]])

    def __call__(self, x, bias=None):
        w = self.w
        b, t, d = x.shape
        head = d // self.heads
        qkv = normed(x, *w["n1"]) @ self.qkv + self.qkv_b
        q, k, v = qkv.reshape(b, t, 3, self.heads, head).transpose(2, 0, 3, 1, 4)
        logits = (q @ k.transpose(0, 1, 3, 2)) * np.float32(head ** -0.5)
        if bias is not None:
            logits += bias[:, None, None, :]
        logits = np.exp(logits - logits.max(-1, keepdims=True))
        seen = (logits / logits.sum(-1, keepdims=True)) @ v
        x = x + (seen.transpose(0, 2, 1, 3).reshape(b, t, d) @ w["out"] + w["out_b"]) * w["s1"]
        y = normed(x, *w["n2"]) @ w["fc1"] + w["fc1_b"]
        y *= np.float32(0.5) * (1 + erf(y * np.float32(0.5 ** 0.5)))
        return x + (y @ w["fc2"] + w["fc2_b"]) * w["s2"]


class Encoder:
    def __init__(self, layers, norm):
        self.layers, self.norm = layers, norm

    def states(self, x):
        """Hidden states behind every layer, from the embeddings: [layers][B, T, D]."""
        found = []
        for layer in self.layers:
            x = layer(x)
            found.append(x)
        return found

    def rest(self, x, after, bias=None):
        """The final features of rows as they are behind layer `after`, a few images at a time: what
        a cache holds."""
        found = []
        for at in range(0, len(x), 4):
            part = x[at:at + 4]
            for layer in self.layers[after + 1:]:
                part = layer(part, None if bias is None else bias[at:at + 4])
            found.append(normed(part, *self.norm))
        return np.concatenate(found)
